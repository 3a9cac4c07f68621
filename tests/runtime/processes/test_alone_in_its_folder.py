"""A run folder has one robot at a time: a second start leaves what the first one has there as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from robots import config, policy_package

from benchmarks.probation_trials import stage
from contracts.errors import EntracteError
from runtime.board import Board
from runtime.processes.supervisor import alone_in, make_run, supervise
from runtime.run import RunPlan, forget_the_killed
from runtime.weights.slots import STATE_FILE, SlotStore


def test_a_second_start_is_refused_and_takes_nothing_from_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    package = policy_package(tmp_path / "policy")
    slots = SlotStore(folder / "slots" / "policy", package.package_id)
    stage(slots, package, 1, dict(package.refinable_weights()))
    settings = config(
        *(f"policy.package={package.folder}", "episode.task=open-drawer", "episode.max_s=600"),
        "iteration.wait_for_release=false",
    )
    plan = RunPlan(purpose="refine", episodes=1, sink="none")
    files = folder / "config.json", slots.folder / STATE_FILE
    refused: list[object] = []
    begun: list[bool] = []

    def watch(board: Board) -> None:
        if refused or not board.step:
            return
        before = [path.read_bytes() for path in files]
        held = {str(link.readlink()) for link in Path(f"/proc/{board.control_pid}/fd").iterdir()}
        assert str(folder / "robot.lock") not in held, (
            "or a killed robot-run would not let go of it"
        )
        with pytest.raises(EntracteError, match="in use by another robot-run") as error:
            supervise(settings, plan, folder, first=lambda: begun.append(True))
        refused.append(error)
        assert not begun, "it would have looked through the cameras of the one at work"
        assert [path.read_bytes() for path in files] == before
        assert slots.find("probation") is not None
        board.stop_requested = 1

    supervise(settings, plan, folder, watch)
    assert refused, (folder / "logs" / "control.log").read_text()
    with alone_in(folder):
        pass  # it is free again


def test_a_folder_that_can_not_be_locked_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "robot.lock").mkdir()
    with pytest.raises(EntracteError, match=r"robot.lock can't be opened"), alone_in(tmp_path):
        pass


def test_what_a_killed_start_left_in_memory_goes_with_the_next(tmp_path: Path) -> None:
    killed = make_run(config(), RunPlan(), tmp_path / "run")
    (Path(killed.shm_dir) / "ring").write_bytes(b"of a run whose supervisor was killed")
    # What a description names that is no memory of a run is nobody's to remove.
    strange = tmp_path / "entracte-mine"
    strange.mkdir()
    msgspec.structs.replace(killed, run_dir=str(tmp_path), shm_dir=str(strange)).save()
    for folder in (tmp_path / "run", tmp_path, tmp_path / "never-begun"):
        forget_the_killed(folder)
    assert not Path(killed.shm_dir).exists() and strange.exists()


def test_a_folder_that_was_copied_takes_nothing_from_the_robot_of_the_first(tmp_path: Path) -> None:
    at_work = make_run(config(), RunPlan(), tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    forget_the_killed(tmp_path / "copy")
    assert Path(at_work.shm_dir).exists()
    forget_the_killed(tmp_path / "run")
    assert not Path(at_work.shm_dir).exists()
