"""The refiner on a real, small flow policy package and a real data set of demonstrations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_policy import LENGTH, episode, iteration, same, scored

from contracts.errors import ConfigError
from contracts.files.packages import Package, load_package
from contracts.package import check_tensors
from contracts.reward import RewardSignal, abstain
from trainer.policies.flow import FlowPolicy
from trainer.refiners.bestofn import BestOfN, BestOfNOptions, Learner
from trainer.refiners.demonstrations import DemonstrationsOnly
from trainer.refiners.experience import FrozenTrunk, Trajectory, chunks_at, potential

OPTIONS = {"gradient_steps": 6, "batch": 8, "critic_batch": 8, "critic_after": 1, "samples": 4}


@pytest.fixture
def trunk(package: Package) -> FrozenTrunk:
    return FrozenTrunk(package, FlowPolicy.from_package(package))


@pytest.fixture
def make(package: Package, demonstrations: Path):
    def build(kind=BestOfN, seed: int = 0, **options):
        return kind(
            package=package.folder,
            demonstrations=[demonstrations],
            options={**OPTIONS, **options},
            seed=seed,
        )

    return build


def test_an_anchored_head_stays_near_its_beginning_and_resumes_to_the_bit(make, package, tmp_path):
    own = package.refinable_weights()
    flow = [name for name in own if ".flow." in name or "/flow." in name]
    assert flow

    def away(update) -> float:
        return sum(float(np.square(update.tensors[n] - own[n]).sum()) for n in flow)

    free, held = make(learning_rate=3e-3), make(learning_rate=3e-3, anchor=30.0)
    loose = [free.update(iteration(n), n) for n in (1, 2)][-1]
    tight = held.update(iteration(1), 1)
    held.save(tmp_path / "state")
    tight = held.update(iteration(2), 2)
    assert away(tight) < 0.7 * away(loose)
    assert tight.metrics["drift"] > 0 and loose.metrics["drift"] == 0
    resumed = make(learning_rate=3e-3, anchor=30.0)
    resumed.load(tmp_path / "state")
    assert same(tight.tensors, resumed.update(iteration(2), 2).tensors)


def test_without_a_success_the_demonstrations_are_imitated(make, package):
    update = make().update(iteration(1, success=False), 1)
    assert check_tensors(package.manifest.refinable, update.tensors) == []
    assert update.metrics["successes"] == 0
    assert not same(update.tensors, load_package(package.folder).refinable_weights())


def test_abstained_episodes_teach_nothing(make):
    labelled, mixed = iteration(1), [*iteration(1), scored(77, None)]
    expected = make().update(labelled, 1)
    found = make().update(mixed, 1)
    assert same(expected.tensors, found.tensors)
    assert found.metrics["skipped"] == 1
    assert make().update([scored(77, None)], 1).metrics["successes"] == 0


def test_normalisers_stay_as_imitation_set_them(make, package):
    tensors = make().update(iteration(1), 1).tensors
    before = load_package(package.folder).refinable_weights()
    frozen = [n for n in before if n.split("/")[1].startswith(("chunk_", "origin_", "low", "high"))]
    assert all(np.array_equal(before[name], tensors[name]) for name in frozen)
    moved = [n for n in before if n not in frozen and not np.array_equal(before[n], tensors[n])]
    assert any("flow" in name for name in moved)
    assert any("critics" in name for name in moved)


def test_the_control_is_blind_to_episodes(make):
    control = make(DemonstrationsOnly)
    blind = make(DemonstrationsOnly)
    update = control.update(iteration(1), 1)
    assert same(update.tensors, blind.update(iteration(5, success=False), 1).tensors)
    assert update.samples == 1
    assert update.metrics["gradient_steps"] == OPTIONS["gradient_steps"]


def test_potential_is_the_process_between_what_was_scored_and_one_after_a_success():
    signals = [RewardSignal(0, 0.0), abstain(2, "dark"), RewardSignal(4, 0.4), RewardSignal(6, 0.2)]
    failed = potential(signals, 8, success=False, step_discount=0.9)
    np.testing.assert_allclose(failed, [0, 0.1, 0.2, 0.3, 0.4, 0.3, 0.2, 0.2, 0.2], atol=1e-6)
    assert potential(signals, 8, success=True, step_discount=0.9)[-1] == 1.0
    labelled = [RewardSignal(2, 1.0, 1.0)]
    np.testing.assert_allclose(potential(labelled, 3, True, 0.5), [0.125, 0.25, 0.5, 1.0])
    assert not potential(labelled, 3, False, 0.5).any()


def test_a_gain_is_what_the_chunk_brought(trunk):
    process = [RewardSignal(step, min(step, 6) / 10) for step in range(9)]
    for rate_hz, steps, every in ((10.0, 9, 1), (30.0, 27, 3)):
        signals = [RewardSignal(s.step * every, s.process) for s in process]
        found = trunk.trajectory(episode(1, steps, rate_hz), success=False, thin=1, signals=signals)
        expected = [0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0, 0, 0]
        np.testing.assert_allclose(found.gains, expected, atol=1e-6)


def test_critics_choose_what_gained_and_only_where_something_did(package):
    """Chunks that lead up gain, those that lead down lose; nothing else tells them apart."""
    rng = np.random.default_rng(0)
    size = FlowPolicy.from_package(package).config.features

    def own(gains_differ: bool) -> list[Trajectory]:
        found = []
        for _ in range(12):
            side = np.where(rng.random(20) < 0.5, 1.0, -1.0).astype(np.float32)
            chunks = rng.normal(size=(20, LENGTH, 6)).astype(np.float32)
            chunks[..., 0] += 30 * side[:, None]
            features = rng.normal(size=(1, 20, size)).astype(np.float32)
            gains = 0.3 * side * gains_differ
            nothing, nobody = np.zeros_like(gains), np.zeros(20, bool)
            found.append(Trajectory(features, chunks, gains, nothing, True, nobody))
        return found

    options = BestOfNOptions(
        samples=4, gradient_steps=150, critic_after=4, critic_learning_rate=3e-3
    )
    head = FlowPolicy.from_package(package).head
    learner = Learner(head, [], options)
    assert learner.learn(own(gains_differ=True), 0, 1).samples == 4
    features = torch.zeros(1, size)
    up, down = torch.zeros(2, 1, LENGTH, 6)
    up[..., 0], down[..., 0] = 30.0, -30.0
    chunks = head.normalise(features, torch.cat([up, down]))
    with torch.no_grad():
        better, worse = learner.trainer.average.value(features, chunks).tolist()
    assert better > worse + 0.2
    same_for_all = Learner(FlowPolicy.from_package(package).head, [], options)
    assert same_for_all.learn(own(gains_differ=False), 0, 1).samples == 1


def test_what_has_passed_when_a_chunk_arrives_is_not_judged(package):
    """What was commanded then tells how it goes; of a candidate nobody executes it."""
    rng = np.random.default_rng(0)
    head = FlowPolicy.from_package(package).head
    size = head.config.features
    own = []
    for _ in range(12):
        before, mine = np.where(rng.random((2, 20)) < 0.5, 1.0, -1.0).astype(np.float32)
        chunks = rng.normal(size=(20, LENGTH, 6)).astype(np.float32)
        chunks[:, 0, 0] += 30 * before
        chunks[:, 1:, 0] += 30 * mine[:, None]
        features = rng.normal(size=(1, 20, size)).astype(np.float32)
        gains = (0.2 * before + 0.1 * mine).astype(np.float32)
        nothing, nobody = np.zeros_like(gains), np.zeros(20, bool)
        own.append(Trajectory(features, chunks, gains, nothing, True, nobody))
    options = BestOfNOptions(
        samples=4, gradient_steps=150, critic_after=4, critic_learning_rate=3e-3
    )
    learner = Learner(head, [], options)
    learner.learn(own, 0, 1)
    features = torch.zeros(3, size)
    plain, passed, better = torch.zeros(3, 1, LENGTH, 6)
    passed[:, 0, 0], better[:, 1:, 0] = 30.0, 30.0
    chunks = torch.cat([plain, passed, better])
    for one in (learner.trainer.head, learner.trainer.average):
        with torch.no_grad():
            judged = one.value(features, one.normalise(features, chunks)).tolist()
        assert judged[0] == judged[1]
        assert judged[2] > judged[0] + 0.02


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"demonstration_share": 1.5}, "demonstration_share"),
        ({"batch": 0}, "batch"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"least_gain": 0.7}, "least_gain"),
    ],
)
def test_an_option_out_of_range_is_named(make, told, name):
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{name}: expected "):
        make(**told)


def test_chunks_repeat_the_last_action():
    actions = np.arange(5, dtype=np.float32)[:, None]
    chunks = chunks_at(actions, np.array([0, 3]), 4, 1)
    assert chunks[:, :, 0].tolist() == [[0, 1, 2, 3], [3, 4, 4, 4]]


def test_a_faster_loop_is_thinned_to_the_chunk_rate(trunk):
    slow = trunk.trajectory(episode(1, 8), success=True, thin=1)
    fast = trunk.trajectory(episode(1, 24, rate_hz=30.0), success=True, thin=1)
    assert slow.features.shape == fast.features.shape == (1, 8, 36)
    actions = episode(1, 24).actions
    assert np.array_equal(fast.chunks[0], actions[[0, 3, 6, 9]])
