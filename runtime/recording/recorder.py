"""The recorder process: takes episodes from the ring and writes them as a LeRobotDataset v3.0.

`python -m runtime.recording.recorder --run-dir <dir>`. It takes the link's place in `robot-run record`.
Pictures are encoded as they come (`runtime.recording.episode`); an episode is in the data set a moment after
its end, whole, or not at all. Control never waits for any of it. docs/recording.md says what happens when.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from contracts import wire
from contracts.errors import EntracteError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import INFO_PATH, require_alike
from contracts.files.log_to_dataset import create_for, features_of, fps_of
from contracts.files.stop_event import StopEvent
from contracts.messages import (
    ABORTED,
    EpisodeEnd,
    EpisodeRerecord,
    EpisodeStart,
    SessionStart,
    Step,
)
from runtime.board import Board, RecorderError
from runtime.recording.episode import Recording, shapes_of
from runtime.ring import Ring
from runtime.run import Run, run_of_process
from runtime.system.log import log_without_errors

_PAUSE_S = 0.001
UNWANTED = (ABORTED, "fault", "rerecord")
"""Ends of an episode that no data set takes."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RecordingStopped(EntracteError):
    """Nothing more can be recorded; what was finished is whole."""


class Recorder:
    """One data set, one episode at a time."""

    def __init__(self, run: Run, board: Board) -> None:
        """Raises `DatasetError` for a data set that is not ours or is in use and for a rate that none can
        have, `RecordingStopped` where there is no room."""
        fps_of(run.config.loop.rate_hz)  # before the arm is taken
        self._run, self._board = run, board
        self._options = run.config.recording
        self._root = Path(run.plan.output)
        self._session: SessionStart | None = None
        self._recording: Recording | None = None
        self._writer: DatasetWriter | None = None
        self._last_seq = -1
        self._largest_bytes = 0
        self._unwanted: tuple[int, int] | None = None
        """A stored episode that is to be taken out again: its number, and how many there were with it."""
        self.kept = self.dropped = self.unrecorded = self.lost = self.steps_lost = 0
        self.notes: list[str] = []
        self._open()
        try:
            self._look_for_room()
        except RecordingStopped:
            self.close()
            raise

    def take(self, parts: list[memoryview]) -> None:
        """One record of the ring, in order; nothing of it is referred to afterwards."""
        packet = wire.unpack(parts)
        message = packet.message
        try:
            if isinstance(message, SessionStart):
                self._session = message
            elif isinstance(message, EpisodeStart):
                self._begin(message)
            elif isinstance(message, Step):
                if self._recording is not None:
                    self._recording.step(packet)
                    self._board.recorder_queue = self._recording.waiting
                    self._board.recorder_dropped = self.lost + self._recording.lost
            elif isinstance(message, EpisodeEnd):
                self._end(message)
            elif isinstance(message, EpisodeRerecord):
                self._forget(message.episode_seq)
        except OSError as error:
            self.unrecorded += isinstance(message, EpisodeStart | Step | EpisodeEnd)
            self._give_up(_sentence(error, self._root))

    def close(self) -> None:
        """Forget an episode that has no end; what is finished is on disk."""
        if self._recording is not None:
            seq = self._recording.start.episode_seq
            self._discard()
            self.dropped += 1
            self._note(f"episode {seq} had no end and was not recorded")
        if self._unwanted:
            try:
                self._take_out()
            except (OSError, EntracteError) as error:
                self._note(
                    f"episode {self._unwanted[0]} was to be recorded again and could not be taken out "
                    f"({error}): it is the last one of {self._root}"
                )
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    # -- episodes

    def _begin(self, start: EpisodeStart) -> None:
        if self._recording is not None:
            self._note(f"episode {self._recording.start.episode_seq} had no end")
            self._discard()
            self.dropped += 1
        self._take_out()
        if not self._look_for_room():
            self.unrecorded += 1
            return
        assert self._session is not None
        config = self._run.config
        self._recording = Recording(
            self._writer_for(self._session),
            self._session,
            start,
            reserve=math.ceil(config.episode.max_s * config.loop.rate_hz) + 1,
            queue_frames=self._options.queue_frames,
        )

    def _end(self, end: EpisodeEnd) -> None:
        recording = self._recording
        if recording is None:
            return
        wanted, label = end.reason not in UNWANTED and end.steps > 0, end.operator_success
        if wanted and self._run.plan.keep == "success":
            wanted = label is True
            if label is None:
                self._note(
                    f"episode {end.episode_seq} is left out (--keep success): nobody said that it was one"
                )
        if not wanted:
            self._discard()
            self.dropped += 1
            return
        if self.kept and (lacking := recording.lacks()):
            # So short that all of it fell into a moment in which the ring was full: others had it.
            self._discard()
            self.unrecorded += 1
            self._note(
                f"episode {end.episode_seq} came without any picture of {lacking} and was not recorded"
            )
            return
        self._recording = None
        recording.keep(end)
        self._board.recorder_queue = 0
        self._largest_bytes = max(self._largest_bytes, recording.nbytes)
        self._last_seq = end.episode_seq
        self.lost += recording.lost
        if missing := recording.missing(end):
            self.steps_lost += missing
            self._note(f"episode {end.episode_seq} lacks {missing} of its {end.steps} steps")
        self._count(1)

    def _forget(self, seq: int) -> None:
        """The operator wants that episode again."""
        if self._recording is not None and self._recording.start.episode_seq == seq:
            self._discard()
            self.dropped += 1
        elif seq == self._last_seq and self._writer is not None:
            self._unwanted = (seq, self._writer.num_episodes)
            self._take_out()
        else:
            self._note(f"episode {seq} can't be forgotten: it is not the last one recorded")

    def _take_out(self) -> None:
        """The stored episode that nobody wants. Raises `OSError` from the disk: the wish stays, and it
        comes before whatever is recorded next."""
        if self._unwanted is None:
            return
        if self._writer is None:
            self._open()
        # It may have been taken out before the disk failed: then another one is the last.
        if self._episodes() == self._unwanted[1]:
            assert self._writer is not None
            self._writer.drop_last()
        self._last_seq, self._unwanted = -1, None
        self.dropped += 1
        self._count(-1)

    def _discard(self) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            with contextlib.suppress(OSError):  # what can't be removed now, the next start removes
                recording.discard()
        self._board.recorder_queue = 0

    def _count(self, change: int) -> None:
        self.kept += change
        self._board.recorder_kept = self.kept
        self._board.recorder_dropped = self.lost

    # -- the data set and its disk

    def _open(self) -> None:
        if not (self._root / INFO_PATH).exists():
            return
        self._writer = DatasetWriter.open(self._root)
        if self._writer.removed:
            self._note(
                f"removed {self._writer.removed} files that an interrupted recording left in "
                f"{self._root}; its {self._writer.num_episodes} finished episodes are whole"
            )

    def _writer_for(self, session: SessionStart) -> DatasetWriter:
        """The data set, made for this robot. Raises `DatasetError` if it was made for another."""
        if self._writer is None:
            self._open()
        colour, depth = shapes_of(session, self._options.depth)
        features = features_of(session, colour, depth)
        if self._writer is None:
            self._writer = create_for(self._root, session, features, session.loop_rate_hz)
        writer = self._writer
        given = fps_of(session.loop_rate_hz), features
        require_alike(self._root, (writer.fps, writer.given_features), given)
        return writer

    def _look_for_room(self) -> bool:
        """Whether one more episode fits: the least that is to stay free and the largest so far. Without
        room the run stops or goes on unrecorded, as `recording.on_full` says."""
        needed = (self._options.min_free_mib << 20) + self._largest_bytes
        free = self._free()
        if free >= needed:
            if self._board.recorder_error == RecorderError.DISK_FULL:
                self._note("there is room again: recording goes on")
            self._board.recorder_error = RecorderError.NONE
            return True
        self._give_up(
            f"the disk of {self._root} is nearly full ({free / 2**20:.1f} MiB free, "
            f"{needed / 2**20:.1f} needed)"
        )
        return False

    def _free(self) -> int:
        folder = self._root
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def _give_up(self, why: str) -> None:
        """Forget the episode under way. Raises `RecordingStopped` unless the run goes on without."""
        self._discard()
        self._reopen()
        first = self._board.recorder_error == RecorderError.NONE
        self._board.recorder_error = RecorderError.DISK_FULL
        if self._options.on_full == "stop":
            raise RecordingStopped(
                f"{why}: recording stopped; {self._episodes()} finished episodes in {self._root} are whole",
                remedy="free some space and start again: it goes on where it was",
            )
        if first:
            self._note(f"{why}: the run goes on without recording until there is room")

    def _episodes(self) -> int:
        return self._writer.num_episodes if self._writer is not None else 0

    def _reopen(self) -> None:
        """A writer that failed while it committed closed itself; what counts is on disk."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        with contextlib.suppress(OSError):
            self._open()

    def _note(self, sentence: str) -> None:
        self.notes.append(sentence)
        print(f"recorder: {sentence}", file=sys.stderr, flush=True)

    def report(self) -> dict[str, object]:
        """What `robot-run` says of it at the end."""
        return {
            "kept": self.kept,
            "dropped": self.dropped,
            "unrecorded": self.unrecorded,
            "pictures_lost": self.lost,
            "steps_lost": self.steps_lost,
            "notes": self.notes,
        }


def _sentence(error: OSError, root: Path) -> str:
    full = error.errno in _FULL
    return f"the disk of {root} is full" if full else f"{root} can't be written ({error})"


def run(recorder: Recorder, ring: Ring, stop: threading.Event) -> None:
    """Take records until asked to stop and the ring is empty."""
    while True:
        parts = ring.pop()
        if parts is None:
            if stop.is_set():
                return
            time.sleep(_PAUSE_S)
            continue
        try:
            recorder.take(parts)
        finally:
            del parts
            ring.release()


def main() -> int:
    described = run_of_process("runtime.recording.recorder")
    report = Path(described.run_dir) / "recorder.json"
    report.unlink(missing_ok=True)  # of an earlier start in the same folder
    stop = StopEvent()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The supervisor held them back until here: told while it was being imported, it ends in order as well.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    with Board.open(described.board_path) as board, Ring.open(described.ring_path) as ring:
        recorder: Recorder | None = None
        try:
            recorder = Recorder(described, board)
            run(recorder, ring, stop)
            return 0
        except (EntracteError, OSError) as error:
            board.recorder_error = board.recorder_error or RecorderError.FAILED
            print(f"recorder: {error}", file=sys.stderr, flush=True)
            return 1
        except Exception as error:  # a defect: said in one line, below its traceback
            board.recorder_error = board.recorder_error or RecorderError.FAILED
            traceback.print_exc()
            what = str(error).split("\n", 1)[0]
            print(f"recorder: {type(error).__name__}: {what}", file=sys.stderr, flush=True)
            return 1
        finally:
            if recorder is not None:
                recorder.close()
                with contextlib.suppress(OSError):
                    _leave(report, recorder.report())


def _leave(path: Path, report: dict[str, object]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(report))
    os.replace(temporary, path)


if __name__ == "__main__":
    log_without_errors()
    sys.exit(main())
