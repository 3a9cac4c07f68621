"""The trainer daemon: sockets in one thread, work in another, so that refining never keeps a robot waiting.

Owns the sockets and the thread that serves them; what is said on them goes to the receiver (episodes), the
release desk (weights), the live frames and the list of robots. Work is `trainer.worker`'s.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

from contracts import __version__, live_video, wire
from contracts.errors import EntracteError, VersionMismatch, WireError
from contracts.files import atomic
from contracts.files.lock import FolderLock
from contracts.files.stop_event import StopEvent
from contracts.key_rotation import NEXT_KEY
from contracts.messages import (
    EpisodeChunk,
    EpisodeOffer,
    Goodbye,
    Heartbeat,
    HeartbeatEcho,
    Hello,
    NextKey,
    NextKeyStored,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
    RobotKey,
    RobotKeyStored,
    Welcome,
)
from contracts.sockets import Visitor, bind_anew, open_socket
from contracts.wire import Packet
from trainer.ages import Ages
from trainer.bell import Bell
from trainer.config import TrainerConfig
from trainer.disk import DiskBudget
from trainer.door import Door
from trainer.keeper import Keeper
from trainer.live_frames import LiveFrames
from trainer.metrics import Metrics, last_of
from trainer.peers import Peers, check_speaker
from trainer.receiver import Receiver
from trainer.release_desk import ReleaseDesk
from trainer.store import Store
from trainer.work import Work
from trainer.work_state import KeptState
from trainer.worker import Worker

POLL_MS = 5
BYTES_PER_TURN, MESSAGE_BYTES = 2 << 20, 16 << 10
"""Of one socket before the others have their turn; what a message counts for at least."""
MAX_PEERS = 64
GREETED = ("episodes", "weights")
"""Sockets on which nothing counts before a `Hello`."""
ROBOT_LOST_S = 2.0
MAX_NOTED = 20
"""Of each kind of refusal so many are written down; the rest are counted, or they would fill the disk."""


class Daemon:
    """`robot-trainer serve`. `run` blocks until `stop` is called from a signal handler or thread."""

    def __init__(self, root: Path, config: TrainerConfig) -> None:
        """Loads models, resumes and binds. Raises `EntracteError`; nothing is bound then."""
        self.root, self._config = root, config
        atomic.make_directory(root)
        self._lock = FolderLock(root, "trainer")
        self.metrics = Metrics(root / "metrics.jsonl")
        used = KeptState(root / "state").load().consumed_arrival
        self.store = Store(root / "store", used)
        self._bell = Bell()
        self._keeper = Keeper(self.store, self._bell.ring)
        self._desk = ReleaseDesk(
            root / "metrics.jsonl",
            self.metrics,
            lambda peer, parts: self._send("weights", peer, parts),
            self._bell.ring,
            self._keeper.aside,
        )
        self._stop = StopEvent()
        self._work = Work(
            *(root, config, self.store, self.metrics, self._desk.published, self._stop.is_set)
        )
        self._say_what_was_lost(used)
        self._disk = DiskBudget(root, config.store, lambda: self.store.log_bytes, self.metrics)
        self._receiver = Receiver(
            root / "store" / "inbox",
            self.store.sha256_of,
            self._keeper.keep,
            lambda peer, answer: self._send("episodes", peer, wire.pack(answer)),
            config.store.max_episode_mib << 20,
            room=self._disk.room,
        )
        self._context = zmq.Context(io_threads=1)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._door = Door(self._context, root, config.listen, config.limits, self.metrics)
        readable = tuple(codec for codec in live_video.CODECS if live_video.decodes(codec))
        can = (NEXT_KEY, *readable)
        self._peers = Peers("trainer", __version__, self._door.may_speak, features=can)
        self._live = LiveFrames(config.reward.live and self._work.scorer.watches)
        self._renewing: set[tuple[str, type]] = set()
        self._beats: dict[str, tuple[float, Heartbeat]] = {}
        self._ages = Ages()
        self._worker = Worker(
            *(config, self.store, self.metrics, self._work, self._live, self._stop),
            full=lambda: self._disk.reason,
        )
        self.malformed = self._handed_on = 0
        # What was stored before this start is told of once, as of when it was.
        told = last_of(root / "metrics.jsonl", "stored").get("key")
        numbers = (entry.arrival for entry in self.store.entries if str(entry.key) == told)
        self._untold = next(numbers, -1) + 1
        self._bind()

    def _say_what_was_lost(self, used: int) -> None:
        """Where the store has lost what updates have used, what comes is not taken for that."""
        last = self.store.ended_at
        if last >= used:
            return
        self.metrics.add("store_behind", last=last, used=used)
        with contextlib.suppress(OSError):  # what it is printed to may be gone
            print(
                f"robot-trainer: updates have used episodes up to number {used}, but {self.store.root} ends"
                f" at {last}: it was lost, or put back from a copy. What comes is numbered from {used + 1}",
                file=sys.stderr,
                flush=True,
            )

    def _bind(self) -> None:
        listen = self._config.listen
        try:
            for name, kind, address in (
                ("frames", zmq.ROUTER, listen.frames),
                ("episodes", zmq.ROUTER, listen.episodes),
                ("weights", zmq.ROUTER, listen.weights),
                ("health", zmq.ROUTER, listen.health),
            ):
                self._sockets[name] = open_socket(
                    self._context,
                    kind,
                    bind=address,
                    high_water_mark=16 if name == "frames" else 64,
                    security=self._door.doorman,
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
        self.metrics.add(
            "start",
            iteration=self._work.iteration,
            published_seq=self._work.state.published_seq,
            stored=len(self.store.entries),
            endpoints=self.endpoints,
            reward_model=self._work.scorer.model.model_id,
            labels=list(self._config.reward.labels),
        )
        for path, problem in self.store.unread.items():
            self.metrics.add("unreadable", key=path.stem, problem=problem)
        self._worker.start()
        self._door.doorman.start()
        poller = zmq.Poller()
        poller.register(self._bell, zmq.POLLIN)
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
        handlers = {
            self._sockets[name]: (name, handle)
            for name, handle in (
                ("frames", self._on_frames),
                ("episodes", self._on_episodes),
                ("weights", self._on_weights),
                ("health", self._on_health),
            )
        }
        try:
            while not self._stop.is_set():
                for source, _ in poller.poll(POLL_MS):
                    if source in handlers:
                        self._receive(*handlers[source])
                self._hear_threads()
                self._receiver.tick()
                self._watch_robots()
                self._follow_keys()
                self._door.report(self._peers.refused)
                if not self._worker.is_alive() and not self._stop.is_set():
                    raise EntracteError(
                        "the trainer's worker ended",
                        found=self._worker.failure,
                        remedy="mend that and start again with the same folder: nothing is lost",
                    )
        finally:
            self._stop.set()
            self._worker.put(None)
            self._worker.join()
            self._keeper.stop()
            self._door.report(self._peers.refused, now=True)
            self._close_sockets()
            self.metrics.add("stop", iteration=self._work.iteration, logs_aside=self._worker.aside)

    def stop(self) -> None:
        self._stop.set()

    # The I/O thread.

    def _receive(self, name: str, handle: Callable[[bytes, Packet], None]) -> None:
        left = BYTES_PER_TURN
        while left > 0:
            try:
                frames = self._sockets[name].recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            left -= MESSAGE_BYTES + sum(len(frame) for frame in frames)
            visitor = self._door.admit(frames)
            if visitor is None:
                continue
            peer = frames[0].bytes
            with self._bearing():
                try:
                    packet = wire.unpack([frame.buffer for frame in frames[1:]])
                except VersionMismatch as error:
                    if name in GREETED:
                        answer = self._peers.turn_away("version", str(error))
                        self._send(name, peer, wire.pack(answer))
                    raise
                self._door.check_speaker(visitor, packet.message)
                if name in GREETED and not self._is_known(name, peer, packet.message, visitor):
                    continue
                if isinstance(packet.message, RobotKey | NextKeyStored):
                    self._take_key(name, peer, visitor, packet.message)
                    continue
                handle(peer, packet)

    @contextlib.contextmanager
    def _bearing(self) -> Iterator[None]:
        """What one message brings about costs that message its answer, and nobody else anything."""
        try:
            yield
        except EntracteError as error:
            self.malformed += 1
            if self.malformed <= MAX_NOTED:
                self.metrics.add("malformed", problem=str(error)[:500])
        except OSError as error:
            self._disk.failed(str(error))  # nothing was acknowledged: it is told again

    def _take_key(
        self, name: str, peer: bytes, visitor: Visitor, message: RobotKey | NextKeyStored
    ) -> None:
        """A robot's new key, or that it has our next one; its list is synced beside this thread. One of each
        kind of a robot at a time."""
        under_way = visitor.name, type(message)

        def note() -> RobotKeyStored | None:
            if isinstance(message, RobotKey):
                return self._door.renew(visitor, message)
            self._door.stored(visitor, message)
            return None

        def answer(stored: RobotKeyStored | Exception | None) -> None:
            self._renewing.discard(under_way)
            if isinstance(stored, Exception):
                raise stored
            if stored is not None:
                self._send(name, peer, wire.pack(stored))

        if under_way not in self._renewing:
            self._renewing.add(under_way)
            self._keeper.aside(note, answer)

    def _is_known(self, name: str, peer: bytes, message: Any, visitor: Visitor) -> bool:
        """Whether to listen: greetings are answered here, who has not greeted is told to, and nobody may
        speak for another robot."""
        if isinstance(message, Hello):
            answer = self._peers.greet(name, peer, message, visitor.name)
            if isinstance(answer, Goodbye) and self._peers.refused[answer.reason] <= MAX_NOTED:
                self.metrics.add(
                    "refused",
                    robot_id=message.robot_id[:80],
                    reason=answer.reason,
                    detail=answer.detail,
                    versions=message.versions,
                )
            self._send(name, peer, wire.pack(answer))
            if name == "weights" and isinstance(answer, Welcome):
                for keys in self._door.to_tell(answer.features):
                    self._send(name, peer, wire.pack(keys))
            return False
        known = self._peers.known(name, peer)
        if known is None:
            self._send(name, peer, wire.pack(self._peers.turn_away("unknown", "say hello first")))
            return False
        check_speaker(known, getattr(message, "robot_id", known.robot_id))
        return True

    def _follow_keys(self) -> None:
        """Keys that a command has changed: serve with them, and tell every robot at once; who is away hears
        of them after its greeting."""
        if not self._door.looks():
            return
        if (pair := self._door.replaced()) is not None:
            for name, address in self.endpoints.items():
                bind_anew(self._sockets[name], address, pair)
        for message in self._door.news():
            feature = NEXT_KEY if isinstance(message, NextKey) else ""
            for peer in self._peers.on_socket("weights", feature):
                self._send("weights", peer, wire.pack(message))

    def _on_frames(self, peer: bytes, packet: Packet) -> None:
        self._live.take(peer, packet)
        self._ages.live(peer, packet.message)

    def _on_episodes(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, EpisodeOffer):
            self._receiver.on_offer(peer, message)
        elif isinstance(message, EpisodeChunk):
            self._receiver.on_chunk(message, packet)
        else:
            raise WireError("message out of place", found=type(message).__name__)

    def _on_weights(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, ReleaseQuery):
            known = self._peers.known("weights", peer)
            features = known.features if known is not None else frozenset()
            self._desk.on_query(peer, message, self._work, features)
        elif isinstance(message, ReleaseWant):
            self._desk.on_want(peer, message, self._work)
        elif isinstance(message, ReleaseOutcome):
            self._desk.on_outcome(peer, message)
        else:
            raise WireError("message out of place", found=type(message).__name__)

    def _on_health(self, peer: bytes, packet: Packet) -> None:
        beat, received_s = packet.message, time.monotonic()
        if not isinstance(beat, Heartbeat):
            raise WireError("message out of place", found=type(beat).__name__)
        echo = HeartbeatEcho(beat.robot_id, beat.sent_s, received_s, time.monotonic())
        self._send("health", peer, wire.pack(echo))
        if beat.robot_id not in self._beats:
            if len(self._beats) >= MAX_PEERS:
                return
            self.metrics.add("robot", robot_id=beat.robot_id, state="seen")
        self._beats[beat.robot_id] = (time.monotonic(), beat)
        self._ages.heard(beat)

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
                    **self._ages.report(robot_id),
                )

    def _send(self, name: str, peer: bytes, parts: list[bytes | memoryview]) -> None:
        try:
            self._sockets[name].send_multipart([peer, *parts], zmq.NOBLOCK)
        except zmq.Again:
            pass  # the peer's queue is full or it has left: it asks again
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise

    def _hear_threads(self) -> None:
        """What the keeper has stored is acknowledged and worked on; what the worker published is offered."""
        self._bell.hush()
        while not self._keeper.results.empty():
            key, sha256, problem = self._keeper.results.get()
            if problem:
                self._disk.failed(problem)
            self._receiver.kept(key, sha256, problem)
        while not self._keeper.done.empty():
            with self._bearing():
                self._keeper.done.get()()
        for entry in self.store.since(self._handed_on):
            if entry.arrival >= self._untold:
                at = self._ages.stored(entry.robot_id)
                self.metrics.add("stored", key=str(entry.key), **at)
            self._worker.put(entry)
            self._handed_on = entry.arrival + 1
        self._desk.send_offers()

    def _close_sockets(self) -> None:
        for socket in self._sockets.values():
            socket.close(linger=200)
        self._door.doorman.close()
        self._context.term()
        self._bell.close()
