"""A recording that is killed, at any moment, leaves its finished episodes; the next start goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from recorder_kills import kill_many
from recording_run import check_whole, packets, recorder_of, recording_run, session

from contracts.files.dataset_reader import DatasetReader

SIDE = Path(__file__).resolve().parents[2] / "peers" / "lerobot_side.py"
LEROBOT = os.environ.get("ENTRACTE_LEROBOT_PYTHON")


def test_kills_at_random_moments_leave_whole_episodes(tmp_path: Path) -> None:
    kill_many(tmp_path, 4, seed=int.from_bytes(os.urandom(4), "big"))


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each of a hundred kills left, before our own writer cleaned up: each checked to its last byte."""
    folder = tmp_path_factory.mktemp("kills")
    snapshots = folder / "snapshots"
    found = kill_many(folder, 100, seed=5, snapshots=snapshots)
    print(found)
    assert found["torn"] > 20, "the kills did not strike while something was being written"
    return snapshots


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_kills_leave_whole_episodes(hundred: Path) -> None:
    assert len(list(hundred.iterdir())) == 100


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.lerobot
@pytest.mark.skipif(not LEROBOT, reason="ENTRACTE_LEROBOT_PYTHON is not set (see docs/dataset.md)")
def test_lerobot_opens_what_a_hundred_kills_leave(hundred: Path, tmp_path: Path) -> None:
    """All in one process of LeRobot's."""
    out = tmp_path / "opened.json"
    done = subprocess.run(
        [str(LEROBOT), str(SIDE), "open", str(hundred), str(out)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    opened = json.loads(out.read_text())
    assert len(opened) == 100
    for name, found in opened.items():
        reader = DatasetReader(hundred / name)
        assert found == [reader.num_episodes, reader.num_frames], name


def test_the_next_start_says_what_it_removed_and_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with recording_run(tmp_path / "run", root) as run, recorder_of(run) as recorder:
        for parts in (session(), *packets(0), *list(packets(1))[:-1]):
            recorder.take(parts)  # type: ignore[arg-type]
        shutil.copytree(root, tmp_path / "killed")
    root = tmp_path / "killed"
    assert check_whole(root) == [0]
    with recording_run(tmp_path / "again", root) as run, recorder_of(run) as recorder:
        (note,) = recorder.notes
        assert "removed 2 files" in note and "its 1 finished episodes are whole" in note
        for parts in (session(), *packets(2)):
            recorder.take(parts)  # type: ignore[arg-type]
    assert check_whole(root) == [0, 2] and not list(root.rglob("*.tmp"))


def _record(root: Path, folder: Path, episodes: int) -> list[str]:
    return [
        *(sys.executable, "-m", "runtime.app", "record", "--expert", "--task", "open-drawer"),
        *("--output", str(root), "--run-dir", str(folder), "--episodes", str(episodes)),
        *("--set", "link.enabled=false", "--set", "episode.max_s=3"),
    ]


def test_all_processes_killed_at_once_leave_whole_episodes(tmp_path: Path) -> None:
    root, folder = tmp_path / "data", tmp_path / "run"
    robot = subprocess.Popen(
        _record(root, folder, 500), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    children: list[psutil.Process] = []
    try:
        give_up_s = time.monotonic() + 40
        while not (root / "meta/episodes").exists():
            assert time.monotonic() < give_up_s and robot.poll() is None
            time.sleep(0.01)
        children = psutil.Process(robot.pid).children(recursive=True)
    finally:
        for process in (*children, psutil.Process(robot.pid)):
            process.send_signal(signal.SIGKILL)
        robot.wait()
        shutil.rmtree(json.loads((folder / "config.json").read_text())["shm_dir"])
    reader = DatasetReader(root)
    count = reader.num_episodes
    for episode in range(count):
        steps = reader.length(episode)
        assert len(reader.frames(episode, "observation.images.front")) == steps
        assert len(reader.depth(episode, "observation.depth.wrist")) == steps
    done = subprocess.run(
        _record(root, folder, 1), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert DatasetReader(root).num_episodes == count + 1
    assert not list(root.rglob("*.tmp"))
