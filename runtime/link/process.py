"""The link process: everything on the robot that waits for a disk or a network, so that control never does.

Ring → spool and live stream; spool → trainer; trainer → slots; board → heartbeat. One loop, one thread;
no call in it waits for the other end. Losing the trainer costs nothing but time.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from contracts import images, live_video, wire
from contracts.errors import EntracteError, WireError
from contracts.files.lock import FolderLock
from contracts.files.packages import read_manifest
from contracts.messages import (
    EpisodeStored,
    EpisodeWait,
    EpisodeWant,
    Heartbeat,
    HeartbeatEcho,
    OutcomeStored,
    ReleaseChunk,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
)
from contracts.package import package_id
from runtime.board import Board, LoopState
from runtime.calibration import own_id
from runtime.link.clock_offset import ClockOffset
from runtime.link.episodes import LiveStream, Recorder, Stalled
from runtime.link.outcomes import OutcomeSpool
from runtime.link.pictures import LiveColour
from runtime.link.releases import ReleaseFetcher
from runtime.link.sockets import DEAD_S, LinkSockets
from runtime.link.spool import Spool
from runtime.link.uploads import Uploader
from runtime.ring import Ring
from runtime.run import Run, run_of_process
from runtime.system.log import log_without_errors
from runtime.weights.release_files import write_own
from runtime.weights.slots import SlotError, SlotStore

HEARTBEAT_S = 0.1
IDLE_MS = 2
RECORDS_PER_TURN = 16
DRAIN_S = 15.0
"""How long the link goes on uploading after it was asked to stop; what is left stays in the spool."""
STALL_S = 0.25
TELL_AGAIN_S = 30.0
SILENT_S = 3.0
"""A trainer that said nothing for so long is away: it answers at least every `OFFER_AGAIN_S`."""


class Link:
    """One robot's link. `turn` does a slice of everything; `run` repeats it until asked to stop."""

    def __init__(self, run: Run, board: Board, ring: Ring, *, dead_s: float = DEAD_S) -> None:
        config = run.config
        self._run, self._board, self._ring = run, board, ring
        self._robot_id = config.robot.id
        codec = _live_codec(config.link.colour_codec) if config.link.live else ""
        self._sockets = LinkSockets(run, (codec,) if codec else (), dead_s=dead_s)
        self._clock_offset = ClockOffset()
        self._spool = Spool(
            run.spool_dir, config.link.spool_max_mib << 20, config.link.spool_min_free_mib << 20
        )
        self._lock = FolderLock(run.spool_dir, "link")
        self._live = LiveStream(self._sockets.sender("frames"), config.link.live_queue)
        colour = LiveColour(
            codec, config.link.colour_crf, lambda: codec in self._sockets.features("episodes")
        )
        self._recorder = Recorder(
            self._spool,
            self._live if config.link.live else None,
            config.link.jpeg_quality,
            waits=config.link.on_full == "hold",
            colour=colour if codec else None,
        )
        self._stalled_until_s = 0.0
        self._stalled = ""
        self._told_s: dict[str, float] = {}
        self._background = ThreadPoolExecutor(1, "background")
        self._uploader = Uploader(
            self._spool, self._robot_id, self._sockets.sender("episodes"), self._background.submit
        )
        # Of a link of this run that ended: what it counted counts.
        self._unkept_before = board.episodes_unkept
        self._aside_before = max(0, board.episodes_aside - len(self._uploader.aside))
        self._outcomes = OutcomeSpool(run.spool_dir / "outcomes", self._sockets.sender("weights"))
        self._fetchers = self._open_fetchers()
        self._last_beat_s = 0.0
        self._last_tick = -1
        self._stopping = 0
        self.malformed = 0

    def _open_fetchers(self) -> dict[str, ReleaseFetcher]:
        config = self._run.config
        calibration_id = own_id(config.calibration, config.robot.id)
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

            slots = SlotStore(self._run.slots_dir / target, package_id(manifest))

            def staged(seq: int, target: str = target) -> None:
                setattr(self._board, f"staged_{target}_seq", seq)

            def refused(seq: int, target: str = target) -> None:
                if target == "policy":
                    self._board.refused_policy_seq = seq

            fetchers[target] = ReleaseFetcher(
                target,
                manifest,
                slots,
                robot_id=self._robot_id,
                session_id=self._run.session_id,
                key_path=Path(self._run.run_dir) / config.link.trainer_key,
                send=self._sockets.sender("weights"),
                report=self._outcomes.add,
                on_staged=staged,
                on_refused=refused,
                own=write_own(Path(folder), manifest, slots),
                calibration_id=calibration_id,
                features=lambda: self._sockets.features("weights"),
                background=self._background.submit,
                poll_s=config.link.release_poll_s,
            )
        return fetchers

    def run(self) -> None:
        """Until `stop`, and then until everything is uploaded: at most `DRAIN_S` longer, and no longer
        than `SILENT_S` for a trainer that is away. Raises `EntracteError` where the disk did not take the
        end of the last episode in that time."""
        self._board.link_ready = 1
        asked_s = 0.0
        while True:
            self.turn()
            if not self._stopping:
                continue
            now_s = time.monotonic()
            asked_s = asked_s or now_s
            if self._ring.waiting == 0 and self._close_log():
                heard_s = max(asked_s, self._board.trainer_seen_s)
                if now_s - heard_s > SILENT_S or not (self._spool.waiting or len(self._outcomes)):
                    return
            if now_s - asked_s > DRAIN_S or self._stopping > 1:
                self._close_log()
                if left := self._ring.waiting:
                    why = self._stalled or "told to leave at once"
                    raise EntracteError(
                        "the end of the last episode is lost",
                        found=f"{left} records that the spool did not take ({why})",
                        remedy="make room; what came before goes to the trainer after the next start",
                    )
                return

    def _close_log(self) -> bool:
        """False where the disk is full: what there is is found at the next start."""
        try:
            self._recorder.close()
        except (Stalled, OSError) as error:
            self._stall(str(error))
            return False
        return True

    def stop(self) -> None:
        """Finish what is in the ring, upload, and leave; a second call leaves at once."""
        self._stopping += 1

    def turn(self) -> None:
        worked = self._drain_ring()
        self._live.flush()
        for name, parts in self._sockets.poll(0 if worked else IDLE_MS):
            self._receive(name, parts)
        now_s = time.monotonic()
        self._sockets.tick(now_s)
        if self._sockets.welcomed("episodes"):
            self._uploader.tick(now_s)
        if self._sockets.welcomed("weights"):
            self._outcomes.tick(now_s)
            for fetcher in self._fetchers.values():
                try:
                    fetcher.tick(now_s)
                except OSError as error:
                    self._note_trouble(f"the disk takes nothing: {error}")  # tried again later
                except SlotError as error:
                    self._note_trouble(f"no release can be taken: {error}")
        if now_s - self._last_beat_s >= HEARTBEAT_S:
            self._beat(now_s)

    def close(self) -> None:
        self._board.spooled = len(self._spool.waiting)
        self._background.shutdown(cancel_futures=True)
        self._sockets.close()

    def _drain_ring(self) -> int:
        if time.monotonic() < self._stalled_until_s:
            return 0
        for count in range(RECORDS_PER_TURN):
            parts = self._ring.pop()
            if parts is None:
                self._stalled = ""
                return count
            try:
                self._take(wire.unpack(parts))
            except WireError:
                self.malformed += 1
            except (Stalled, OSError) as error:
                del parts
                self._ring.put_back()
                self._stall(str(error))
                return count
            del parts
            self._ring.release()
            self._stalled = ""
        return RECORDS_PER_TURN

    def _stall(self, why: str) -> None:
        """The disk took nothing of a record: it stays in the ring, and is tried again in a while."""
        self._stalled, self._stalled_until_s = why, time.monotonic() + STALL_S

    def _take(self, packet: wire.Packet) -> None:
        message = packet.message
        if isinstance(message, ReleaseOutcome):
            fetcher = self._fetchers.get(message.target)
            if fetcher is not None:
                fetcher.report(message)
            return
        self._recorder.take(packet)

    def _receive(self, name: str, parts: list[bytes]) -> None:
        now_s = time.monotonic()
        try:
            packet = wire.unpack(parts)
            if not self._sockets.take(name, packet.message, now_s):
                self._handle(packet, now_s)
        except WireError:
            self.malformed += 1
        except OSError as error:
            self._note_trouble(f"the disk takes nothing: {error}")  # asked for again later
        except SlotError as error:
            self._note_trouble(f"no release can be taken: {error}")
        self._board.trainer_seen_s = now_s

    def _handle(self, packet: wire.Packet, now_s: float) -> None:
        message = packet.message
        if isinstance(message, EpisodeWant):
            self._uploader.on_want(message, now_s)
        elif isinstance(message, EpisodeStored):
            self._uploader.on_stored(message, now_s)
        elif isinstance(message, EpisodeWait):
            self._uploader.on_wait(message, now_s)
        elif isinstance(message, OutcomeStored):
            self._outcomes.on_stored(message, now_s)
        elif isinstance(message, HeartbeatEcho):
            if message.robot_id == self._robot_id:
                times = (message.sent_s, message.received_s, message.answered_s, now_s)
                self._clock_offset.add(*times)
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

    def _note_room(self) -> None:
        """Whether there is room for another episode, on the board; what changes is said once."""
        board, uploader = self._board, self._uploader
        full = self._stalled or self._spool.no_room()
        board.spool_full, board.trainer_full = int(bool(full)), int(bool(uploader.waits_for))
        board.episodes_unkept = self._unkept_before + self._recorder.unkept
        board.episodes_aside = self._aside_before + len(uploader.aside)
        if full:
            self._note_trouble(f"no room for another episode: {full}")
        elif uploader.waits_for:
            self._note_trouble(f"the trainer takes nothing in: {uploader.waits_for}")
        elif uploader.aside:
            where, why = list(uploader.aside.items())[-1]
            self._note_trouble(f"an episode is set aside: {where}, {why}")

    def _note_trouble(self, what: str) -> None:
        """Tell people, each kind of trouble once in a while."""
        kind, now_s = what.partition(":")[0], time.monotonic()
        if now_s - self._told_s.get(kind, -math.inf) > TELL_AGAIN_S:
            self._told_s[kind] = now_s
            print(f"link: {what}", file=sys.stderr, flush=True)

    def _beat(self, now_s: float) -> None:
        board, live = self._board, self._live
        self._last_beat_s = now_s
        board.link_state = int(self._sockets.state())
        clock, error_s = self._clock_offset, self._clock_offset.error_s(now_s)
        if clock.exchanges:
            board.clock_offset_s, board.clock_error_s = clock.offset_s, error_s
        board.link_beat_s = now_s
        board.frames_sent, board.frames_dropped = live.sent, live.dropped
        board.live_bytes_sent = live.bytes_sent
        board.spooled = len(self._spool.waiting)
        if ages := self._recorder.ages:
            board.spooled_age_p50_s = ages.percentile(50.0)
            board.spooled_age_p99_s = ages.percentile(99.0)
        board.releases_rejected = sum(f.rejected for f in self._fetchers.values())
        board.bytes_fetched = sum(f.bytes_fetched for f in self._fetchers.values())
        board.trainer_iteration = max(
            (f.trainer_iteration for f in self._fetchers.values()), default=-1
        )
        board.link_error = int(bool(self._recorder.error))
        self._note_room()
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
            sent_s=time.monotonic(),
            clock_offset_s=clock.offset_s,
            clock_error_s=error_s,
        )
        self._sockets.say("health", wire.pack(beat))


def _live_codec(wanted: str) -> str:
    """The video codec of the live stream; "" for JPEG, which it stays where this end can't write video."""
    if wanted == images.JPEG or live_video.encodes(wanted):
        return "" if wanted == images.JPEG else wanted
    why = f"no encoder of {wanted} here (PyAV with libx264 or libx265)"
    print(f"link: {why}: the live stream's colour stays JPEG", file=sys.stderr, flush=True)
    return ""


def main() -> int:
    """`python -m runtime.link.process --run-dir <dir>`; ends on SIGTERM or SIGINT."""
    try:
        run = run_of_process("runtime.link.process")
        images.use_one_thread()  # the other cores are the loop's
        with Board.open(run.board_path) as board, Ring.open(run.ring_path) as ring:
            link = Link(run, board, ring)

            def stop(_number: int, _frame: Any) -> None:
                link.stop()

            signal.signal(signal.SIGTERM, stop)
            signal.signal(signal.SIGINT, stop)
            # The supervisor held them back until here: told before it listens, it ends in order as well.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
            try:
                link.run()
            finally:
                link.close()
    except EntracteError as error:
        print(f"link: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    log_without_errors()
    sys.exit(main())
