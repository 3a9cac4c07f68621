"""Kills a recorder at random moments of a data set's growth, and looks at what is left each time."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

from recording_run import check_whole, packets, push, recording_run, session, start_recorder

from contracts.files.dataset import DatasetWriter
from runtime.board import Board
from runtime.ring import Ring

MOST_S = 0.9
"""Moments are drawn from the first so many seconds after the first episode was finished: about ten more."""


def kill_many(folder: Path, count: int, seed: int, snapshots: Path | None = None) -> dict[str, int]:
    """Kill `count` recorders of one growing data set; returns how many left something behind, and how many
    episodes there are in the end. Copies of what each left go to `snapshots`.

    After each kill every episode that was there before, or was said to be stored, is there and whole.
    """
    rng, root = random.Random(seed), folder / "data"
    seq, torn = 0, 0
    for number in range(count):
        before = check_whole(root) if root.exists() else []
        seq, stored = _one_life(folder / "run", root, seq, rng)
        found = check_whole(root)
        assert found[: len(before)] == before
        assert len(found) >= len(before) + stored
        assert found == sorted(found)
        left = _left_behind(root)
        torn += bool(left)
        if snapshots is not None:
            shutil.copytree(root, snapshots / f"{number:03d}")
        if number % 10 == 9:  # or the data set outgrows the test
            shutil.rmtree(root)
    if root.exists():
        with DatasetWriter.open(root):
            pass
        assert not _left_behind(root)
    return {"torn": torn, "episodes": seq}


def _one_life(folder: Path, root: Path, seq: int, rng: random.Random) -> tuple[int, int]:
    """From start to SIGKILL: the next episode's number, and how many the board said were stored."""
    with recording_run(folder, root) as run:
        recorder = start_recorder(run)
        try:
            with Board.open(run.board_path) as board, Ring.open(run.ring_path) as ring:
                die_at_s = 0.0
                push(ring, session())
                while recorder.poll() is None:
                    for parts in packets(seq, steps=rng.choice((2, 6, 40))):
                        if board.recorder_kept and not die_at_s:
                            die_at_s = time.monotonic() + rng.uniform(0.0, MOST_S)
                        if die_at_s and time.monotonic() > die_at_s:
                            recorder.kill()
                            recorder.wait()
                            return seq + 1, board.recorder_kept
                        if not push(ring, parts, timeout_s=60.0):
                            recorder.kill()
                            raise AssertionError(recorder.communicate()[1])
                        time.sleep(0.001)
                    seq += 1
        finally:
            recorder.kill()
            _, words = recorder.communicate()
    raise AssertionError(f"the recorder ended by itself: {words}")


def _left_behind(root: Path) -> list[Path]:
    """Files of an episode that does not count."""
    return [path for path in root.rglob(".*.tmp")]
