"""What a person does in the middle of an episode, with the real processes, reaches a refiner as shown."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip(
    "torch", reason="what a refiner is shown is asked of the refiners' own code: torch"
)
import small_policy
from people import Person, robot, ticks
from robots import policy_package, until

from contracts.messages import GateBit
from runtime.operator.commands import Answer, Command
from runtime.operator.floor import Flag, Phase, read_phase
from runtime.run import RunPlan
from runtime.teleoperation.page import LEADER, HandPage
from trainer.interfaces import StoredEpisode
from trainer.policies.flow import FlowPolicy
from trainer.refiners.experience import FrozenTrunk
from trainer.store import load_dataset

EXECUTED = 4
"""Actions of a chunk."""


def shown(folder: Path, data_set: Path) -> tuple[StoredEpisode, np.ndarray, int]:
    """The only episode of the data set; int[M] ticks from which a person showed chunks; ticks of a chunk."""
    (stored,) = load_dataset(data_set)
    reads = small_policy.packaged(small_policy.policy(), folder)
    trunk = FrozenTrunk(reads, FlowPolicy.from_package(reads))
    kept = trunk.trajectory(stored, success=True, thin=1, execute=EXECUTED)
    every = trunk.ticks_per_action(stored)
    return stored, every * np.flatnonzero(kept.helped), every * EXECUTED


def plan_and_settings(folder: Path) -> tuple[RunPlan, list[str]]:
    package = policy_package(folder / "package")
    plan = RunPlan(purpose="evaluate", episodes=1, sink="dataset", output=str(folder / "set"))
    return plan, [f"policy.package={package.folder}", "operator.blend_s=0.4", "operator.keys=false"]


def test_a_takeover_reaches_the_refiner_as_what_was_executed(tmp_path: Path) -> None:
    plan, overrides = plan_and_settings(tmp_path)
    with robot(tmp_path / "run", plan, *overrides) as machine:
        person, board, run = Person(machine.board, machine.run), machine.board, machine.run
        person.sees(Phase.RUNNING, 20)
        page = HandPage.open(run.hand_path("device"))
        at = ticks(run)[-1].action
        # The leader stands elsewhere: the arm is a person's, and waits.
        page.write(LEADER, tuple((at + 20.0).tolist()), time.monotonic() + 60, 0.0)
        assert person.ask(Command.TAKE_OVER) is Answer.DONE
        until(lambda: Flag.MATCHING in read_phase(board)[1])
        waits = board.step
        until(lambda: board.step > waits + 30)
        came = board.step
        near = np.add(ticks(run)[-1].action, [6, 6, -6, 6, 6, 6])
        page.write(LEADER, tuple(near.tolist()), time.monotonic() + 60, 0.0)
        until(lambda: np.abs(ticks(run)[-1].action - near).max() < 0.1)
        there = board.step

        def moves_on() -> bool:
            to = near + 2.0 * math.sin(0.1 * (board.step - there))
            page.write(LEADER, tuple(to.tolist()), time.monotonic() + 60, 0.0)
            return bool(board.step > there + 40)

        until(moves_on)
        gives = board.step
        assert person.ask(Command.HAND_BACK) is Answer.DONE
        back = board.step
        until(lambda: board.step > back + 40)
        assert person.ask(Command.END) is Answer.DONE
        assert machine.wait().code == 0

    stored, starts, long = shown(tmp_path / "reads", tmp_path / "set")
    assert stored.steps > back + 40
    # By the board's own count of ticks, not by what the log says of who had the arm.
    assert len(starts) >= 3
    assert starts.min() > came - long, "while it waited for the hand nobody showed anything"
    assert starts.max() < back + 2, "nobody showed what the policy did once it had the arm back"
    assert ((there <= starts) & (starts <= gives - long)).sum() >= 3, "what the person did"


def test_somebody_who_takes_over_and_presses_no_key_shows_nothing(tmp_path: Path) -> None:
    plan, overrides = plan_and_settings(tmp_path)
    with robot(tmp_path / "run", plan, *overrides) as machine:
        person, board = Person(machine.board, machine.run), machine.board
        person.sees(Phase.RUNNING, 20)
        assert person.ask(Command.TAKE_OVER) is Answer.DONE
        until(lambda: Flag.TAKEN_OVER in read_phase(board)[1])
        taken = board.step
        until(lambda: board.step > taken + 40)
        idle = board.step
        assert person.ask(Command.HAND_BACK) is Answer.DONE
        assert person.ask(Command.END) is Answer.DONE
        assert machine.wait().code == 0

    stored, starts, _ = shown(tmp_path / "reads", tmp_path / "set")
    theirs = stored.columns["intervention"][taken + 1 : idle]
    assert len(theirs) >= 30 and theirs.all()
    assert not (stored.columns["gate.verdict"][taken + 1 : idle] & GateBit.HELD).any()
    assert not len(starts)
