"""What a person does in the middle of an episode, with the real processes, reaches a refiner as shown."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import small_policy
from people import Person, robot, ticks
from robots import policy_package, until

from runtime.operator.commands import Answer, Command
from runtime.operator.floor import Flag, Phase, read_phase
from runtime.run import RunPlan
from runtime.teleoperation.page import LEADER, HandPage
from trainer.policies.flow import FlowPolicy
from trainer.refiners.experience import FrozenTrunk
from trainer.store import load_dataset


def test_a_takeover_reaches_the_refiner_as_what_was_executed(tmp_path: Path) -> None:
    package = policy_package(tmp_path / "package")
    plan = RunPlan(purpose="evaluate", episodes=1, sink="dataset", output=str(tmp_path / "set"))
    overrides = [f"policy.package={package.folder}", "operator.blend_s=0.4", "operator.keys=false"]
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
        until(lambda: board.step > waits + 15)
        near = np.add(ticks(run)[-1].action, [6, 6, -6, 6, 6, 6])
        page.write(LEADER, tuple(near.tolist()), time.monotonic() + 60, 0.0)
        until(lambda: np.abs(ticks(run)[-1].action - near).max() < 0.1)
        there = board.step
        until(lambda: board.step > there + 15)
        assert person.ask(Command.HAND_BACK) is Answer.DONE
        back = board.step
        until(lambda: board.step > back + 40)
        assert person.ask(Command.END) is Answer.DONE
        assert machine.wait().code == 0

    (stored,) = load_dataset(tmp_path / "set")
    reads = small_policy.packaged(small_policy.policy(), tmp_path / "reads")
    trunk = FrozenTrunk(reads, FlowPolicy.from_package(reads))
    kept = trunk.trajectory(stored, success=True, thin=1)
    by_hand = stored.columns["intervention"][:: trunk.ticks_per_action(stored)]
    assert by_hand.any() and not by_hand.all()
    assert not kept.helped[~by_hand].any()
    waited = by_hand & ~kept.helped
    assert waited.sum() >= 3, "while it waited for the hand nobody showed anything"
    first = np.abs(kept.chunks[:, 0] - near).max(1)
    assert kept.helped[first < 0.2].sum() >= 3, "the pose that the person held"
    assert kept.helped.sum() + waited.sum() == by_hand.sum()
