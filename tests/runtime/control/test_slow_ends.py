"""What comes after an episode and after the run may take its time: the watchdog waits for ticks only where
there are some to come."""

from __future__ import annotations

from pathlib import Path

import pytest
from robots import REALTIME, config, until

from runtime.board import LoopState, StopCheck
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan


def _robot(folder: Path, episodes: int) -> Supervisor:
    """Its watchdog waits for less than what is slow takes."""
    patient = ("loop.watchdog_timeout_s=1", "loop.lease_s=1", "episode.max_s=1")
    plan = RunPlan(purpose="record", driver="expert", style="idle", episodes=episodes, sink="none")
    robot = Supervisor(make_run(config(*REALTIME, *patient), plan, folder))
    robot.child("control").module = "slow_end"
    return robot


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")


def test_a_long_episode_is_summed_up_with_the_loop_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an hour's ticks that takes longer than a watchdog waits."""
    monkeypatch.setenv("SLOW_END", "report")
    with _robot(tmp_path, 2) as robot:
        outcome = robot.wait()
        assert robot.board.watchdog_tripped == 0
        assert robot.board.episodes_done == 2
    assert outcome.code == 0, outcome.what


def test_a_trace_is_written_once_the_arm_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLOW_END", "trace")
    with _robot(tmp_path, 1) as robot:
        outcome = robot.wait()
        assert robot.board.watchdog_tripped == 0
        assert robot.board.stop_check == StopCheck.VERIFIED
    assert outcome.code == 3 and "a mistake of ours" in outcome.what


@pytest.mark.parametrize(("stopped", "code"), [(False, 0), (True, 5)])
def test_a_slow_disk_at_the_end_of_a_run_is_no_stall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool, code: int
) -> None:
    """Nor does it take the place of why the run ended."""
    monkeypatch.setenv("SLOW_END", "disk")
    with _robot(tmp_path, 1) as robot:
        board = robot.board
        if stopped:
            until(lambda: board.loop_state == LoopState.RUNNING and board.step > 3)
            board.estop_requested = 1
        outcome = robot.wait()
        assert board.watchdog_tripped == 0
    assert outcome.code == code, outcome.what
    dumps = [path.name for path in (tmp_path / "blackbox").glob("*.safetensors")]
    assert dumps == (["001-estop.safetensors"] if stopped else [])
    assert (tmp_path / "loop.json").exists()
