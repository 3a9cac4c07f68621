"""A disk that is really full: recording stops or is skipped, in one sentence; finished episodes stay."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from recording_run import (
    begin,
    check_whole,
    packets,
    recorder_of,
    recording_run,
    session,
)
from robots import until

from contracts import wire
from contracts.files.dataset_reader import DatasetReader
from contracts.messages import EpisodeRerecord
from runtime.board import Board, RecorderError
from runtime.recording.recorder import Recorder, RecordingStopped
from runtime.system.log import Log

MIB = 3
"""Of the small disk: depth is noise of 6 kB a step, so some 400 steps fill it."""
UNCHECKED = "recording.min_free_mib=0"


@pytest.fixture()
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        if subprocess.run(["umount", str(folder)], check=False).returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
            pytest.fail("a file on the full disk was left open: its room is not free again")


def fill(disk: Path, left_bytes: int) -> None:
    """Leave so much room."""
    # Others may write there too: who comes last finds no room.
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - left_bytes)))


def feed(recorder: Recorder, seq: int, steps: int) -> None:
    for parts in packets(seq, steps):
        recorder.take(parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [0, 9_000, 40_000, 120_000, 200_000])
def test_a_disk_that_fills_during_an_episode_costs_that_episode(disk: Path, left: int) -> None:
    """At the first byte, in the pictures, at the end of the files, in the tables: it is the same."""
    root = disk / "data"
    with (
        recording_run(disk.parent / "run", root, UNCHECKED) as run,
        Board.open(run.board_path) as board,
        recorder_of(run) as recorder,
    ):
        recorder.take(session())  # type: ignore[arg-type]
        feed(recorder, 0, 6)
        recorder._largest_bytes = 0  # as after a long episode: no forecast saves it
        fill(disk, left)
        with pytest.raises(
            RecordingStopped, match=r"is full.*1 finished episodes.* are whole; free"
        ):
            feed(recorder, 1, 40)
        assert board.recorder_error == RecorderError.DISK_FULL
    assert check_whole(root) == [0]
    assert not list(root.rglob("*.tmp"))
    (disk / "ballast").unlink()
    with recording_run(disk.parent / "again", root, UNCHECKED) as run, recorder_of(run) as recorder:
        recorder.take(session())  # type: ignore[arg-type]
        feed(recorder, 2, 6)
    assert check_whole(root) == [0, 2]


def test_a_run_may_go_on_without_recording(disk: Path) -> None:
    root = disk / "data"
    options = (UNCHECKED, "recording.on_full=continue")
    with (
        recording_run(disk.parent / "run", root, *options) as run,
        Board.open(run.board_path) as board,
        recorder_of(run) as recorder,
    ):
        recorder.take(session())  # type: ignore[arg-type]
        feed(recorder, 0, 6)
        fill(disk, 50_000)
        for seq in (1, 2):
            feed(recorder, seq, 40)
        assert board.recorder_error == RecorderError.DISK_FULL
        assert (recorder.kept, recorder.unrecorded) == (1, 2)
        (disk / "ballast").unlink()
        feed(recorder, 3, 40)
        assert board.recorder_error == RecorderError.NONE
        assert "the run goes on without recording" in recorder.notes[0]
        assert "recording goes on" in recorder.notes[1]
    assert check_whole(root) == [0, 3]


def test_a_log_on_the_full_disk_does_not_end_a_run_that_goes_on_without(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said goes to a file of the run's folder; the sentence that the disk is full did not fit."""
    root = disk / "data"
    options = (UNCHECKED, "recording.on_full=continue")
    with (
        recording_run(disk.parent / "run", root, *options) as run,
        recorder_of(run) as recorder,
    ):
        recorder.take(session())  # type: ignore[arg-type]
        feed(recorder, 0, 6)
        with (disk / "log").open("w") as log, monkeypatch.context() as patched:
            patched.setattr(sys, "stderr", Log(log))
            recorder._largest_bytes = 0  # no forecast: it fails in the episode
            fill(disk, 0)
            feed(recorder, 1, 40)
            (disk / "ballast").unlink()
            feed(recorder, 2, 6)
        assert (recorder.kept, recorder.unrecorded, len(recorder.notes)) == (2, 1, 2)
    assert check_whole(root) == [0, 2]


@pytest.mark.parametrize("on_full", ["stop", "continue"])
def test_an_episode_that_a_full_disk_kept_is_taken_out_later(disk: Path, on_full: str) -> None:
    """Before the next one, or at the end; and never another in its place."""
    root = disk / "data"
    with (
        recording_run(disk.parent / "run", root, UNCHECKED, f"recording.on_full={on_full}") as run,
        recorder_of(run) as recorder,
    ):
        recorder.take(session())  # type: ignore[arg-type]
        for seq in (0, 1):
            feed(recorder, seq, 6)
        fill(disk, 0)
        again = wire.pack(EpisodeRerecord(1))
        stops = on_full == "stop"
        with pytest.raises(RecordingStopped) if stops else contextlib.nullcontext():
            recorder.take(again)  # type: ignore[arg-type]
        assert check_whole(root) == [0, 1]
        (disk / "ballast").unlink()
        if not stops:
            feed(recorder, 2, 6)
            assert check_whole(root) == [0, 2]
            assert recorder.report()["dropped"] == 1
    assert check_whole(root) == ([0] if stops else [0, 2])


def test_room_is_looked_for_before_an_episode_begins(disk: Path) -> None:
    """The least that is to stay free, and as much as the largest episode took."""
    root = disk / "data"
    with (
        recording_run(disk.parent / "run", root, "recording.min_free_mib=1") as run,
        recorder_of(run) as recorder,
    ):
        recorder.take(session())  # type: ignore[arg-type]
        feed(recorder, 0, 100)
        files = sorted(root.rglob("*"))
        fill(disk, (1 << 20) + 300_000)
        with pytest.raises(RecordingStopped, match=r"nearly full \(1\.3 MiB free, 1\.6 needed"):
            recorder.take(begin(1))  # type: ignore[arg-type]
        assert sorted(root.rglob("*")) == files
    with (
        recording_run(disk.parent / "again", root, "recording.min_free_mib=2") as run,
        pytest.raises(RecordingStopped, match="nearly full"),
        recorder_of(run),
    ):
        pass


def test_a_full_disk_ends_the_run_in_order(disk: Path, tmp_path: Path) -> None:
    """The whole robot: one sentence, the arm in hold, finished episodes whole, nothing left behind."""
    root, folder = disk / "data", tmp_path / "run"
    fill(disk, 1_500_000)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "runtime.app", "record", "--expert", "--task", "open-drawer"),
            *("--output", str(root), "--run-dir", str(folder), "--episodes", "50", "--json"),
            *("--set", "link.enabled=false", "--set", UNCHECKED, "--set", "episode.max_s=2"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("robot-run: ")]
    assert "full" in sentence and "finished episodes" in sentence and "Traceback" not in done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["watchdog"] == "none" and report["exit_codes"]["control"] == 0
    rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    assert rows[-1]["reason"] == "aborted" and 1 <= report["kept"] < len(rows) + 1
    assert not list(root.rglob("*.tmp"))


def test_a_full_disk_under_the_run_folder_ends_the_run_in_order(disk: Path, tmp_path: Path) -> None:
    """No number for the next episode can be written down: none begins, and the arm holds."""
    (disk / "run").mkdir()
    robot = subprocess.Popen(
        [
            *(sys.executable, "-m", "runtime.app", "record", "--expert", "--task", "open-drawer"),
            *("--output", str(tmp_path / "data"), "--run-dir", str(disk / "run")),
            *("--episodes", "500", "--set", "link.enabled=false", "--set", "episode.max_s=2"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: (disk / "run" / "episodes.jsonl").exists() or robot.poll() is not None, 90)
        fill(disk, 0)
        _, words = robot.communicate(timeout=60)
    finally:
        robot.kill()
    assert robot.returncode == 3, words
    assert "can't be written" in words and "free some space" in words and "Traceback" not in words
    assert DatasetReader(tmp_path / "data").num_episodes >= 1


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    """Where no disk can be mounted: the kernel's limit on the size of a file, in a process of its own."""
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root, UNCHECKED) as run:
        done = subprocess.run(
            [sys.executable, __file__, run.run_dir],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "is full" in done.stdout and check_whole(root) == [0]


def _limited(run_dir: Path) -> None:
    import resource
    import signal

    from runtime.run import Run

    run = Run.load(run_dir)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with recorder_of(run) as recorder:
        recorder.take(session())  # type: ignore[arg-type]
        feed(recorder, 0, 6)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            feed(recorder, 1, 40)
        except RecordingStopped as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            print(error)


if __name__ == "__main__":
    _limited(Path(sys.argv[1]))
