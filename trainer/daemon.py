"""The trainer daemon: sockets in one thread, work in another, so that refining never keeps a robot waiting.

The I/O thread owns every socket and the receiver; the worker owns models, store reads and iterations.
Between them: a queue of stored episodes and a short, lossy queue of live frames one way, offers the other.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from contracts import images, wire
from contracts.errors import EntracteError, WireError
from contracts.files import atomic
from contracts.messages import (
    EpisodeChunk,
    EpisodeOffer,
    EpisodeStart,
    Heartbeat,
    OutcomeStored,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
    Step,
)
from contracts.sockets import open_socket
from contracts.wire import Packet
from trainer.config import TrainerConfig
from trainer.interfaces import EpisodeKey
from trainer.metrics import Metrics, read_metrics
from trainer.receiver import Receiver
from trainer.store import IndexEntry, Store
from trainer.work import Work

POLL_MS = 5
MAX_PEERS = 64
LIVE_WAITING = 8
MAX_REPORT_ID = 200
ROBOT_LOST_S = 2.0
FLUSH_DATASET_S = 60.0


class Daemon:
    """`robot-trainer serve`. `run` blocks until `stop` is called from a signal handler or thread."""

    def __init__(self, root: Path, config: TrainerConfig) -> None:
        """Loads models, resumes and binds. Raises `EntracteError`; nothing is bound then."""
        self.root, self._config = root, config
        atomic.make_directory(root)
        self.metrics = Metrics(root / "metrics.jsonl")
        self._reports = _known_reports(root / "metrics.jsonl")
        self.store = Store(root / "store")
        self._offers: queue.SimpleQueue[tuple[float, int, ReleaseOffer]] = queue.SimpleQueue()
        self._work = Work(root, config, self.store, self.metrics, self._on_published)
        self._receiver = Receiver(
            root / "store" / "inbox",
            self.store.have,
            self._accept,
            config.store.max_episode_mib << 20,
        )
        self._episodes: queue.SimpleQueue[IndexEntry | None] = queue.SimpleQueue()
        self._backlog: deque[IndexEntry] = deque()
        self._live: deque[tuple[str, int, dict[str, tuple[wire.Buffer, bytes]]]] = deque(
            maxlen=LIVE_WAITING
        )
        self._instructions: dict[bytes, str] = {}
        self._robots: dict[bytes, str] = {}
        self._beats: dict[str, tuple[float, Heartbeat]] = {}
        self._published: dict[tuple[str, int], float] = {}
        self._offered: dict[tuple[str, str, int], float] = {}
        self._stop = threading.Event()
        self.malformed = self.live_frames = self.live_skipped = 0
        self._bind()

    def _bind(self) -> None:
        listen = self._config.listen
        self._context = zmq.Context(io_threads=1)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        try:
            for name, kind, address in (
                ("frames", zmq.ROUTER, listen.frames),
                ("episodes", zmq.ROUTER, listen.episodes),
                ("weights", zmq.ROUTER, listen.weights),
                ("health", zmq.SUB, listen.health),
            ):
                self._sockets[name] = open_socket(
                    self._context,
                    kind,
                    bind=address,
                    high_water_mark=16 if name == "frames" else 64,
                    subscribe=b"" if kind == zmq.SUB else None,
                )
        except EntracteError:
            self._close_sockets()
            raise
        self.endpoints = {
            name: socket.getsockopt_string(zmq.LAST_ENDPOINT)
            for name, socket in self._sockets.items()
        }
        atomic.write_json(self.root / "endpoints.json", {**self.endpoints, "pid": os.getpid()})

    def run(self) -> None:
        """Serve until stopped; then finish the work at hand and the data set's backlog."""
        worker = threading.Thread(target=self._serve_work, name="work")
        for entry in self.store.entries:
            self._episodes.put(entry)
        self.metrics.add(
            "start",
            iteration=self._work.iteration,
            published_seq=self._work.state.published_seq,
            stored=len(self.store.entries),
            endpoints=self.endpoints,
            reward_model=self._work.scorer.model.model_id,
        )
        worker.start()
        poller = zmq.Poller()
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        handlers = {
            self._sockets["frames"]: self._on_frames,
            self._sockets["episodes"]: self._on_episodes,
            self._sockets["weights"]: self._on_weights,
            self._sockets["health"]: self._on_health,
        }
        try:
            while not self._stop.is_set():
                for socket, _ in poller.poll(POLL_MS):
                    self._receive(socket, handlers[socket])
                self._send_offers()
                self._watch_robots()
                if not worker.is_alive() and not self._stop.is_set():
                    raise EntracteError("the trainer's worker ended", remedy="see its traceback")
        finally:
            self._stop.set()
            self._episodes.put(None)
            worker.join()
            self._close_sockets()
            self.metrics.add("stop", iteration=self._work.iteration)

    def stop(self) -> None:
        self._stop.set()

    # The I/O thread.

    def _receive(self, socket: zmq.Socket[bytes], handle: Any) -> None:
        for _ in range(64):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                if socket.type == zmq.SUB:
                    handle(b"", wire.unpack(parts))
                else:
                    handle(parts[0], wire.unpack(parts[1:]))
            except WireError as error:
                self.malformed += 1
                if self.malformed <= 20:
                    self.metrics.add("malformed", problem=str(error)[:500])

    def _on_frames(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, EpisodeStart):
            if len(self._instructions) >= MAX_PEERS:
                self._instructions.clear()
            self._instructions[peer] = message.instruction
        elif isinstance(message, Step) and peer in self._instructions:
            self.live_frames += 1
            if not self._config.reward.live:
                return
            encoded = {
                name.removesuffix(".colour"): (packet.descriptors[name], bytes(data))
                for name, data in packet.data.items()
                if name.endswith(".colour")
            }
            self.live_skipped += len(self._live) == self._live.maxlen
            self._live.append((self._instructions[peer], message.index, encoded))

    def _on_episodes(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, EpisodeOffer):
            answers = self._receiver.on_offer(message)
        elif isinstance(message, EpisodeChunk):
            answers = self._receiver.on_chunk(message, packet)
        else:
            raise WireError("message out of place", found=type(message).__name__)
        for answer in answers:
            self._send("episodes", peer, wire.pack(answer))

    def _on_weights(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, ReleaseQuery):
            publisher = self._work.publisher_of(message.target)
            if len(self._robots) >= MAX_PEERS and peer not in self._robots:
                self._robots.clear()
            self._robots[peer] = message.robot_id
            answer: ReleaseOffer | ReleaseNone = ReleaseNone(message.target, self._work.iteration)
            if publisher is not None:
                answer = publisher.answer_query(message, self._work.iteration, self._work.note)
            if isinstance(answer, ReleaseOffer) and publisher is not None:
                self._note_offer(message.robot_id, publisher.newest_seq, answer)
            self._send("weights", peer, wire.pack(answer))
        elif isinstance(message, ReleaseWant):
            publisher = self._work.publisher_of(message.target)
            if publisher is None:
                raise WireError("nothing is released for that target", found=message.target)
            self._send("weights", peer, publisher.answer_want(message))
        elif isinstance(message, ReleaseOutcome):
            self._on_outcome(message)
            if message.report_id:
                self._send("weights", peer, wire.pack(OutcomeStored(message.report_id)))
        else:
            raise WireError("message out of place", found=type(message).__name__)

    def _on_outcome(self, outcome: ReleaseOutcome) -> None:
        """Recorded once, however often it is told, and synced before it is acknowledged.

        Times from publishing on: the robot's are since its offer arrived, ours add how long that took.
        """
        report = (outcome.robot_id, outcome.report_id)
        if report in self._reports:
            return
        if len(outcome.report_id) > MAX_REPORT_ID:
            raise WireError("report_id too long", found=len(outcome.report_id))
        published = self._published.get((outcome.target, outcome.publish_seq), math.nan)
        key = (outcome.robot_id, outcome.target, outcome.publish_seq)
        # A query answered in the moment of publishing may be ahead by microseconds; NaN stays NaN.
        wait_s = max(self._offered.get(key, math.nan) - published, 0.0)
        self.metrics.add(
            "release",
            robot_id=outcome.robot_id,
            target=outcome.target,
            publish_seq=outcome.publish_seq,
            outcome=outcome.outcome,
            reason=outcome.reason,
            episode_seq=outcome.episode_seq,
            bytes_on_wire=outcome.bytes_on_wire,
            publish_to_offer_s=wait_s,
            publish_to_verified_s=wait_s + outcome.verified_s,
            publish_to_staged_s=wait_s + outcome.staged_s,
            publish_to_swapped_s=wait_s + outcome.swapped_s,
            report_id=outcome.report_id,
        )
        if outcome.report_id:
            self.metrics.sync()
            self._reports.add(report)

    def _on_health(self, _peer: bytes, packet: Packet) -> None:
        beat = packet.message
        if not isinstance(beat, Heartbeat):
            raise WireError("message out of place", found=type(beat).__name__)
        if beat.robot_id not in self._beats:
            if len(self._beats) >= MAX_PEERS:
                return
            self.metrics.add("robot", robot_id=beat.robot_id, state="seen")
        self._beats[beat.robot_id] = (time.monotonic(), beat)

    def _watch_robots(self) -> None:
        now = time.monotonic()
        for robot_id, (heard, beat) in list(self._beats.items()):
            if now - heard > ROBOT_LOST_S:
                del self._beats[robot_id]
                self.metrics.add(
                    "robot",
                    robot_id=robot_id,
                    state="lost",
                    tick=beat.tick,
                    frames_sent=beat.frames_sent,
                    frames_dropped=beat.frames_dropped,
                )

    def _send_offers(self) -> None:
        """A new release goes to every known robot at once; their queries are the fallback."""
        while not self._offers.empty():
            published_s, publish_seq, offer = self._offers.get()
            self._published[offer.target, publish_seq] = published_s
            for peer, robot_id in self._robots.items():
                self._note_offer(robot_id, publish_seq, offer)
                self._send("weights", peer, wire.pack(offer))

    def _note_offer(self, robot_id: str, publish_seq: int, offer: ReleaseOffer) -> None:
        self._offered.setdefault((robot_id, offer.target, publish_seq), time.monotonic())

    def _send(self, name: str, peer: bytes, parts: list[bytes | memoryview]) -> None:
        try:
            self._sockets[name].send_multipart([peer, *parts], zmq.NOBLOCK)
        except zmq.Again:
            pass  # the peer's queue is full or it has left: it asks again
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def _accept(self, key: EpisodeKey, partial: Path, sha256: str) -> None:
        self.store.accept(key, partial, sha256)
        self._episodes.put(self.store.entry(key))

    def _close_sockets(self) -> None:
        for socket in self._sockets.values():
            socket.close(linger=200)
        self._context.term()

    # The worker thread.

    def _on_published(self, publish_seq: int, offer: ReleaseOffer) -> None:
        self._offers.put((time.monotonic(), publish_seq, offer))

    def _serve_work(self) -> None:
        while not self._stop.is_set():
            try:
                entry = self._episodes.get(timeout=0.02)
            except queue.Empty:
                self._idle()
                continue
            if entry is not None:
                self._work.take(entry)
                self._backlog.append(entry)
        deadline = time.monotonic() + FLUSH_DATASET_S
        while self._backlog and time.monotonic() < deadline:
            self._write_dataset()

    def _idle(self) -> None:
        """Nothing to score: look at a live frame, or catch up with the data set."""
        if self._live:
            instruction, step, encoded = self._live.popleft()
            try:
                pictures = {name: _decode(*item) for name, item in encoded.items()}
            except EntracteError:
                self.malformed += 1
                return
            self._work.scorer.watch(instruction, step, pictures)
        elif self._backlog:
            self._write_dataset()

    def _write_dataset(self) -> None:
        entry = self._backlog.popleft()
        if not self._config.store.dataset:
            return
        try:
            self.store.write_dataset(entry, keep_log=self._config.store.keep_logs)
        except (EntracteError, OSError) as error:
            self.metrics.add("dataset_failure", key=str(entry.key), problem=str(error))


def _known_reports(metrics: Path) -> set[tuple[str, str]]:
    """(robot_id, report_id) of every outcome recorded before."""
    records = read_metrics(metrics) if metrics.exists() else []
    found = [r for r in records if r["kind"] == "release" and r.get("report_id")]
    return {(record["robot_id"], record["report_id"]) for record in found}


def _decode(descriptor: wire.Buffer, data: bytes) -> np.ndarray:
    if descriptor.codec == "raw":
        return np.frombuffer(data, descriptor.dtype).reshape(descriptor.shape)
    return images.decode(descriptor.codec, data, descriptor.shape)
