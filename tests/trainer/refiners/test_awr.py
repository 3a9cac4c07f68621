"""Advantage-weighted imitation on a real, small flow policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_policy import LENGTH, same, scored

from contracts.errors import ConfigError
from trainer.policies.flow import FlowPolicy
from trainer.refiners.awr import Awr, AwrLearner, AwrOptions
from trainer.refiners.critics import Rewarding
from trainer.refiners.experience import Trajectory

OPTIONS = {"steps": 6, "value_steps": 6, "batch": 8, "hidden": 16}


@pytest.fixture
def make(package, demonstrations):
    def build(seed: int = 0, **options):
        return Awr(
            package=package.folder,
            demonstrations=[demonstrations],
            options={**OPTIONS, **options},
            seed=seed,
        )

    return build


def test_without_an_episode_the_demonstrations_are_imitated(make, package):
    update = make().update([scored(77, None)], 1)
    assert update.metrics["gradient_steps"] == OPTIONS["steps"]
    assert not same(update.tensors, package.refinable_weights())


@pytest.mark.parametrize("by", ["outcome", "gain"])
def test_what_led_to_more_is_imitated_and_the_rest_is_not(package, by):
    """From everywhere half of the chunks go up, half down, and one half succeeds, or gains though all fail:
    the policy goes there. A gain as a potential would be taken off again with the value."""
    went = {}
    for wanted in (1.0, -1.0):
        head = FlowPolicy.from_package(package).head
        size = head.config.features
        options = AwrOptions(steps=200, value_steps=100, batch=64, learning_rate=3e-3)
        made = AwrLearner(head, [], options, 0)
        rng = np.random.default_rng(0)
        for _ in range(60):
            side = np.float32(rng.choice([-1.0, 1.0]))
            chunks = rng.normal(size=(1, LENGTH, 6)).astype(np.float32)
            chunks[..., 0] += 30 * side
            features = rng.normal(size=(1, 1, size)).astype(np.float32)
            gains = np.array([0.3 * side * wanted * (by == "gain")], np.float32)
            success = bool(side == wanted) and by == "outcome"
            kept = Trajectory(features, chunks, gains, np.zeros(1), success, np.zeros(1, bool))
            made.own.append(kept)
        found = made.learn([], 0, 1)
        seen = torch.from_numpy(np.concatenate([kept.features[0] for kept in made.own]))
        with torch.no_grad():
            noise = torch.randn(60, LENGTH * 6, generator=torch.Generator().manual_seed(1))
            flat = made.trainer.average.integrate(seen, noise)
            chunks = made.trainer.average.denormalise(seen, flat)
        went[wanted] = float(chunks[:, :, 0].mean())
        assert 0.0 < found.metrics["weight"] < options.most_weight
    # All imitated alike ends in between, whichever side succeeds.
    assert went[1.0] > went[-1.0] + 30


def lost(package, count: int) -> list[Trajectory]:
    """Failures of which nobody said how far they came: a person labelled them."""
    size = FlowPolicy.from_package(package).config.features
    rng = np.random.default_rng(0)
    nothing, nobody = np.zeros(5, np.float32), np.zeros(5, bool)
    drawn = [
        (rng.normal(size=(1, 5, size)), 30 + rng.normal(size=(5, LENGTH, 6))) for _ in range(count)
    ]
    return [
        Trajectory(f.astype(np.float32), c.astype(np.float32), nothing, nothing, False, nobody)
        for f, c in drawn
    ]


def test_failures_alone_are_not_imitated(package):
    """What V is off by is no advantage, however little it is: weights go by standard deviations of it."""
    options = AwrOptions(**OPTIONS)
    alone = AwrLearner(FlowPolicy.from_package(package).head, [], options, 0)
    update = alone.learn(lost(package, 10), 0, 1)
    assert update.metrics["gradient_steps"] == 0 and update.metrics["failures"] == 10
    assert same(update.tensors, package.refinable_weights())
    shown = lost(package, 2)
    beside, without = (
        AwrLearner(FlowPolicy.from_package(package).head, shown, options, 0) for _ in range(2)
    )
    update = beside.learn(lost(package, 10), 0, 1)
    assert update.metrics["gradient_steps"] == OPTIONS["steps"]
    assert update.metrics["weight"] == 0.0
    assert without.learn([], 0, 1).metrics["weight"] == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("demonstration_share", 1.5), ("folds", 1), ("beta", 0.0), ("average_decay", 1.0)],
)
def test_an_option_out_of_range_is_named(make, name, value):
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{name}: expected "):
        make(**{name: value})


def test_returns_are_the_discounted_rewards_to_the_end():
    nothing = np.zeros((4, 1, 1), np.float32)
    along = np.array([0.1, 0.3, 0.2, 0.5], np.float32)
    kept = Trajectory(nothing[None], nothing, along, along, True, np.zeros(4, bool))
    plain = Rewarding(1, 0.9, 1.0, 0.0).returns(kept)
    np.testing.assert_allclose(plain, [0.9**3, 0.9**2, 0.9, 1.0], rtol=1e-6)
    shaped = Rewarding(1, 0.9, 1.0, 0.5).returns(kept)
    np.testing.assert_allclose(shaped, plain - 0.5 * along, rtol=1e-5)
