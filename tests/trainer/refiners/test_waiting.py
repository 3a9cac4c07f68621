"""Where the arm only waited nothing is imitated: a policy that learned it would wait there for ever."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_policy import LENGTH, episode, same

from contracts.files.packages import Package
from contracts.messages import GateBit
from trainer.policies.flow import FlowPolicy
from trainer.refiners.awr import AwrLearner, AwrOptions
from trainer.refiners.bestofn import BestOfNOptions, Learner
from trainer.refiners.experience import FrozenTrunk, Trajectory


@pytest.fixture(scope="module")
def trunk(package: Package) -> FrozenTrunk:
    return FrozenTrunk(package, FlowPolicy.from_package(package))


def kept(trunk: FrozenTrunk, **columns: np.ndarray) -> Trajectory:
    """A success of 24 ticks at the chunk rate, every second of them kept."""
    stored = episode(3, steps=24)
    changed = dataclasses.replace(stored, columns={**stored.columns, **columns})
    return trunk.trajectory(changed, True, thin=2)


def starts(found: Trajectory) -> list[int]:
    """Ticks at which chunks begin that are not imitated."""
    return sorted({*range(0, 24, 2)} - {2 * step for step in found.moving})


TAKEN = (np.arange(24) >= 8) & (np.arange(24) < 20)


def test_somebody_who_takes_over_and_does_nothing_is_not_imitated(trunk: FrozenTrunk) -> None:
    asked = episode(3, steps=24).columns["requested"].copy()
    asked[8:20] = asked[7]
    idle = kept(trunk, intervention=TAKEN, requested=asked)
    assert starts(idle) == [8, 10, 12, 14, 16]
    asked[13:20, 2] += 1.0  # one key
    assert starts(kept(trunk, intervention=TAKEN, requested=asked)) == [8, 14, 16]
    again = Trajectory.of(idle.tensors("own/0/"), "own/0/", True)
    assert starts(again) == starts(idle)


def test_an_arm_that_the_gate_holds_is_not_imitated_and_a_person_who_moves_it_is(
    trunk: FrozenTrunk,
) -> None:
    held = np.where(TAKEN, GateBit.HELD, 0)
    assert starts(kept(trunk, **{"gate.verdict": held})) == [8, 10, 12, 14, 16]
    assert starts(kept(trunk, intervention=TAKEN)) == []
    first = np.where(np.arange(24) == 0, GateBit.HELD, 0)  # until there is a chunk
    assert starts(kept(trunk, **{"gate.verdict": first})) == []


def told(success: bool, stood: list[bool], size: int) -> Trajectory:
    """Chunks of a hundred degrees where the arm stood."""
    count = len(stood)
    rng, nothing = np.random.default_rng(count), np.zeros(count, np.float32)
    features = rng.normal(size=(1, count, size)).astype(np.float32)
    chunks = np.zeros((count, LENGTH, 6), np.float32)
    chunks[np.array(stood)] = 100.0
    return Trajectory(features, chunks, nothing, nothing, success, nothing > 0, np.array(stood))


def test_imitation_of_successes_leaves_it_out(package: Package) -> None:
    """To the bit as where there was nothing else in the episode."""
    size = FlowPolicy.from_package(package).config.features
    long, short = told(True, [False, True, True], size), told(True, [False], size)
    moved = dataclasses.replace(
        short, features=long.features[:, :1].copy(), chunks=long.chunks[:1].copy()
    )
    options = BestOfNOptions(gradient_steps=6, batch=8, samples=1)
    found = [
        Learner(FlowPolicy.from_package(package).head, [], options).learn([one], 0, 1).tensors
        for one in (long, moved)
    ]
    assert same(*found)
    waits = Learner(FlowPolicy.from_package(package).head, [], options)
    assert waits.learn([told(True, [True, True], size)], 0, 1).metrics["gradient_steps"] == 0


def test_weighted_imitation_gives_it_no_weight(package: Package) -> None:
    head = FlowPolicy.from_package(package).head
    size = head.config.features
    options = AwrOptions(steps=1, value_steps=1, batch=64, hidden=16)
    made = AwrLearner(head, [], options, 0)
    made.own = [told(True, [False, True, False, True], size), told(False, [False] * 3, size)]
    returns = [made._rewarding.returns(one) for one in made.own]
    _, chunks, weights = made._weighted(200, returns, np.random.default_rng(0))
    stood = (chunks == 100.0).all(2).all(1)
    assert 20 < stood.sum() < 100
    assert not weights[stood].any() and weights[~stood].any()
