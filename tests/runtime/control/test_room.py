"""A whole robot whose spool is full: it waits in hold before the next episode, until there is room."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from robots import policy_package, until
from serving import ENVIRONMENT, Serving, robot_command

from runtime.board import Board, LoopState
from runtime.operator.floor import Phase, read_phase
from runtime.run import Run


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy").folder


def test_without_room_the_arm_waits_in_hold_until_the_trainer_has_taken_some(
    tmp_path: Path, package: Path
) -> None:
    robot = tmp_path / "robot"
    store_only = ("reward.model=clock", "refiner.kind=''", "reward.purposes=[]")
    with Serving(tmp_path / "trainer", *store_only) as trainer:
        trainer.stop()
        command = robot_command(
            *(robot, package, trainer.endpoints, "episode.max_s=4.0", "link.spool_max_mib=1"),
            "iteration.wait_for_release=false",
        )
        process = subprocess.Popen(
            [*command, "--episodes", "8"],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            until((robot / "config.json").exists, 120)
            until(lambda: process.poll() is not None or _waits(robot), 150)
            assert process.poll() is None, process.communicate()
            with Board.open(Run.load(robot).board_path) as board:
                done, tick = board.episodes_done, board.tick
                assert 1 <= done < 8
                until(lambda: board.spooled == done)  # what was recorded is there
                assert read_phase(board)[0] is Phase.ROOM and board.loop_state == LoopState.HOLD
                until(lambda: board.tick > tick + 20)
                assert board.episodes_done == done, "the loop ticks, and no episode begins"
            trainer.restart()
            stdout, stderr = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, stderr
    report = json.loads(stdout.splitlines()[-1])
    assert (report["episodes"], report["spooled"], report["episodes_unkept"]) == (8, 0, 0)
    index = (trainer.folder / "store" / "index.jsonl").read_text().splitlines()
    assert [json.loads(line)["episode_seq"] for line in index] == list(range(8))
    assert "no room for another episode" in (robot / "logs" / "link.log").read_text()


def _waits(robot: Path) -> bool:
    path = Run.load(robot).board_path
    if not path.exists():
        return False
    with Board.open(path) as board:
        return bool(board.waiting_for_room)
