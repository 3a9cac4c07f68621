"""The link process: everything on the robot that waits for a disk or a network, so that control never does.

Ring → spool and live stream; spool → trainer; trainer → slots; board → heartbeat. One loop, one thread;
no call in it waits for the other end. Losing the trainer costs nothing but time.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from contracts import wire
from contracts.errors import EntracteError, WireError
from contracts.files.packages import read_manifest
from contracts.messages import (
    EpisodeStored,
    EpisodeWant,
    Heartbeat,
    OutcomeStored,
    ReleaseChunk,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
)
from contracts.package import package_id
from contracts.sockets import open_socket
from runtime.board import Board, LoopState
from runtime.config import Run
from runtime.link_episodes import LiveStream, Parts, Recorder, Uploader
from runtime.link_releases import ReleaseFetcher
from runtime.outcomes import OutcomeSpool
from runtime.ring import Ring
from runtime.slots import SlotStore
from runtime.spool import Spool

HEARTBEAT_S = 0.1
IDLE_MS = 2
RECORDS_PER_TURN = 16
DRAIN_S = 15.0
"""How long the link goes on uploading after it was asked to stop; what is left stays in the spool."""
SILENT_S = 3.0
"""A trainer that said nothing for so long is away: it answers at least every `OFFER_AGAIN_S`."""


class Link:
    """One robot's link. `turn` does a slice of everything; `run` repeats it until asked to stop."""

    def __init__(self, run: Run, board: Board, ring: Ring) -> None:
        config = run.config
        self._run, self._board, self._ring = run, board, ring
        self._robot_id = config.robot.id
        identity = f"{config.robot.id}:{run.session_id}".encode()
        self._context = zmq.Context(io_threads=1)
        self._frames = open_socket(
            self._context,
            zmq.DEALER,
            connect=config.link.frames,
            high_water_mark=4,
            identity=identity,
        )
        self._episodes = open_socket(
            self._context, zmq.DEALER, connect=config.link.episodes, identity=identity
        )
        self._weights = open_socket(
            self._context, zmq.DEALER, connect=config.link.weights, identity=identity
        )
        self._health = open_socket(
            self._context, zmq.PUB, connect=config.link.health, high_water_mark=4
        )
        self._poller = zmq.Poller()
        self._poller.register(self._episodes, zmq.POLLIN)
        self._poller.register(self._weights, zmq.POLLIN)
        self._spool = Spool(run.spool_dir, config.link.spool_max_mib << 20)
        self._live = LiveStream(lambda parts: _send(self._frames, parts), config.link.live_queue)
        self._recorder = Recorder(
            self._spool, self._live if config.link.live else None, config.link.jpeg_quality
        )
        self._uploader = Uploader(
            self._spool, self._robot_id, lambda parts: _send(self._episodes, parts)
        )
        self._outcomes = OutcomeSpool(
            run.spool_dir / "outcomes", lambda parts: _send(self._weights, parts)
        )
        self._fetchers = self._open_fetchers()
        self._last_beat_s = 0.0
        self._last_tick = -1
        self._stopping = 0
        self.malformed = 0

    def _open_fetchers(self) -> dict[str, ReleaseFetcher]:
        config = self._run.config
        fetchers = {}
        for target, folder in (
            ("policy", config.policy.package),
            ("reward", config.reward.package),
        ):
            if not folder:
                continue
            manifest = read_manifest(Path(folder))
            if not manifest.refinable:
                continue

            def staged(seq: int, target: str = target) -> None:
                setattr(self._board, f"staged_{target}_seq", seq)

            def refused(seq: int, target: str = target) -> None:
                if target == "policy":
                    self._board.refused_policy_seq = seq

            fetchers[target] = ReleaseFetcher(
                target,
                manifest,
                SlotStore(self._run.slots_dir / target, package_id(manifest)),
                robot_id=self._robot_id,
                session_id=self._run.session_id,
                key_path=Path(self._run.run_dir) / config.link.trainer_key,
                send=lambda parts: _send(self._weights, parts),
                report=self._outcomes.add,
                on_staged=staged,
                on_refused=refused,
                poll_s=config.link.release_poll_s,
            )
        return fetchers

    def run(self) -> None:
        """Until `stop`, and then until everything is uploaded: at most `DRAIN_S` longer, and no longer
        than `SILENT_S` for a trainer that is away."""
        self._board.link_ready = 1
        asked_s = 0.0
        while True:
            self.turn()
            if not self._stopping:
                continue
            now_s = time.monotonic()
            asked_s = asked_s or now_s
            if self._ring.waiting == 0:
                self._recorder.close()
                heard_s = max(asked_s, self._board.trainer_seen_s)
                if now_s - heard_s > SILENT_S or not (self._spool.waiting or len(self._outcomes)):
                    return
            if now_s - asked_s > DRAIN_S or self._stopping > 1:
                self._recorder.close()
                return

    def stop(self) -> None:
        """Finish what is in the ring, upload, and leave; a second call leaves at once."""
        self._stopping += 1

    def turn(self) -> None:
        worked = self._drain_ring()
        self._live.flush()
        for socket, _ in self._poller.poll(0 if worked else IDLE_MS):
            self._receive(socket)
        now_s = time.monotonic()
        self._uploader.tick(now_s)
        self._outcomes.tick(now_s)
        for fetcher in self._fetchers.values():
            fetcher.tick(now_s)
        if now_s - self._last_beat_s >= HEARTBEAT_S:
            self._beat(now_s)

    def close(self) -> None:
        self._board.spooled = len(self._spool.waiting)
        for socket in (self._frames, self._episodes, self._weights, self._health):
            # What is acknowledged needs no linger; the last live frames get a moment.
            socket.close(linger=200)
        self._context.term()

    def _drain_ring(self) -> int:
        for count in range(RECORDS_PER_TURN):
            parts = self._ring.pop()
            if parts is None:
                return count
            try:
                self._take(wire.unpack(parts))
            except WireError:
                self.malformed += 1
            finally:
                del parts
                self._ring.release()
        return RECORDS_PER_TURN

    def _take(self, packet: wire.Packet) -> None:
        message = packet.message
        if isinstance(message, ReleaseOutcome):
            fetcher = self._fetchers.get(message.target)
            if fetcher is not None:
                fetcher.report(message)
            return
        self._recorder.take(packet)

    def _receive(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(RECORDS_PER_TURN):
            try:
                parts = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                self._handle(wire.unpack(parts))
            except WireError:
                self.malformed += 1
            self._board.trainer_seen_s = time.monotonic()

    def _handle(self, packet: wire.Packet) -> None:
        message = packet.message
        now_s = time.monotonic()
        if isinstance(message, EpisodeWant):
            self._uploader.on_want(message, now_s)
        elif isinstance(message, EpisodeStored):
            self._uploader.on_stored(message, now_s)
        elif isinstance(message, OutcomeStored):
            self._outcomes.on_stored(message, now_s)
        elif isinstance(message, ReleaseOffer | ReleaseNone | ReleaseChunk):
            fetcher = self._fetchers.get(message.target)
            if fetcher is None:
                raise WireError("message for a target that this robot lacks", found=message.target)
            if isinstance(message, ReleaseOffer):
                fetcher.on_offer(message)
            elif isinstance(message, ReleaseChunk):
                fetcher.on_chunk(message, packet)
            else:
                fetcher.on_none(message)
        else:
            raise WireError("message that only a robot sends", found=type(message).__name__)

    def _beat(self, now_s: float) -> None:
        board, live = self._board, self._live
        self._last_beat_s = now_s
        board.link_beat_s = now_s
        board.frames_sent, board.frames_dropped = live.sent, live.dropped
        board.live_bytes_sent = live.bytes_sent
        board.spooled = len(self._spool.waiting)
        board.releases_rejected = sum(f.rejected for f in self._fetchers.values())
        board.bytes_fetched = sum(f.bytes_fetched for f in self._fetchers.values())
        board.trainer_iteration = max(
            (f.trainer_iteration for f in self._fetchers.values()), default=-1
        )
        board.link_error = int(bool(self._recorder.error))
        if board.tick == self._last_tick:
            return  # a hung loop must look dead from outside, whatever this process does
        self._last_tick = board.tick
        beat = Heartbeat(
            robot_id=self._robot_id,
            session_id=self._run.session_id,
            tick=board.tick,
            state=LoopState(board.loop_state).name.lower(),
            episode_seq=board.episode_seq,
            policy_version=board.policy_version,
            loop_rate_hz=board.loop_rate_hz,
            lateness_p99_s=board.lateness_p99_s,
            frames_sent=live.sent,
            frames_dropped=live.dropped,
            spooled=len(self._spool.waiting),
        )
        _send(self._health, wire.pack(beat))


def _send(socket: zmq.Socket[bytes], parts: Parts) -> bool:
    try:
        socket.send_multipart(parts, zmq.NOBLOCK, copy=True)
    except zmq.Again:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """`python -m runtime.link --run-dir <dir>`; ends on SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="runtime.link")
    parser.add_argument("--run-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        run = Run.load(options.run_dir)
        with Board.open(run.board_path) as board, Ring.open(run.ring_path) as ring:
            link = Link(run, board, ring)

            def stop(_number: int, _frame: Any) -> None:
                link.stop()

            signal.signal(signal.SIGTERM, stop)
            signal.signal(signal.SIGINT, stop)
            try:
                link.run()
            finally:
                link.close()
    except EntracteError as error:
        print(f"link: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
