"""Diffusion steering on a real, small flow policy behind a noise actor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_policy import LENGTH, iteration, same

from contracts.errors import ConfigError, PackageError
from trainer.policies.actors import policy_of_package
from trainer.policies.noise import FeatureNoise
from trainer.policies.noise_actor import SteeredHead
from trainer.refiners.critics import Rewarding
from trainer.refiners.dsrl import Dsrl, DsrlLearner, DsrlOptions
from trainer.refiners.experience import Trajectory

OPTIONS = {"steps": 6, "batch": 8, "after": 1, "hidden": 16, "execute": 2, "ensemble": 2}


@pytest.fixture
def make(steered, demonstrations):
    def build(seed: int = 0, **options):
        return Dsrl(
            package=steered.folder,
            demonstrations=[demonstrations],
            options={**OPTIONS, **options},
            seed=seed,
        )

    return build


def test_the_base_acts_until_enough_was_seen(make, steered):
    waits = make(after=5)
    assert same(waits.update(iteration(1), 1).tensors, steered.refinable_weights())
    assert not same(waits.update(iteration(2), 2).tensors, steered.refinable_weights())


def test_a_package_without_an_actor_is_refused(package, demonstrations):
    with pytest.raises(PackageError, match="flow-noise-actor"):
        Dsrl(package=package.folder, demonstrations=[demonstrations], options={}, seed=0)


def learner(steered, **options) -> DsrlLearner:
    head = policy_of_package(steered, SteeredHead).head
    assert isinstance(head, SteeredHead)
    return DsrlLearner(head, [], DsrlOptions(**{**OPTIONS, **options}), 0)


def test_the_likelihood_is_that_of_a_squashed_gaussian(steered):
    made = learner(steered)
    with torch.no_grad():
        made.actor.mean.bias.uniform_(-2.0, 2.0)
        features = torch.randn(5, made.head.config.features)
        noises, log_pi = made.draw(features, torch.Generator().manual_seed(0))
        mean, log_std = made.actor.distribution(features)
    bound = made.actor.noise.bound
    expected = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()),
        [
            torch.distributions.transforms.TanhTransform(cache_size=0),
            torch.distributions.transforms.AffineTransform(0.0, bound),
        ],
    )
    assert noises.abs().max() < bound
    torch.testing.assert_close(log_pi, expected.log_prob(noises).sum(1), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("wanted", [1.0, -1.0])
def test_the_actor_steers_the_flow_to_what_succeeds(steered, wanted):
    """One chunk an episode; it succeeds if the first joint goes the wanted way. Nobody says which noises the
    chunks came from: they were drawn at random around where the arm is."""
    made = learner(steered, steps=150, batch=64, learning_rate=5e-3, temperature=1e-3, entropy=-1.0)
    head, rng = made.head, np.random.default_rng(0)
    size = head.config.features

    def reached(features: torch.Tensor) -> float:
        with torch.no_grad():
            noise = torch.zeros(len(features), LENGTH, 6)
            steered_noise = made.actor(features, noise).flatten(1)
            chunks = head.integrate(features, steered_noise)
        return float(chunks.reshape(-1, LENGTH, 6)[:, :2, 0].mean())

    features = rng.normal(size=(1, 60, size)).astype(np.float32)
    with torch.no_grad():
        noise = torch.randn(60, LENGTH * 6, generator=torch.Generator().manual_seed(1))
        flat = head.integrate(torch.from_numpy(features[0]), noise)
        chunks = head.denormalise(torch.from_numpy(features[0]), flat).numpy()
    went = flat.reshape(60, LENGTH, 6)[:, :2, 0].mean(1).numpy() * wanted
    nothing, nobody = np.zeros(1), np.zeros(1, bool)
    episodes = [
        Trajectory(features[:, [i]], chunks[[i]], nothing, nothing, went[i] > 0, nobody)
        for i in range(60)
    ]
    seen = torch.from_numpy(features[0])
    before = reached(seen) * wanted
    found = made.learn(episodes, 0, 1)
    assert reached(seen) * wanted > before + 0.3
    assert 0.2 < found.metrics["value"] < 1.2


def test_the_noise_on_the_state_is_none_on_what_was_executed_there(steered):
    """It keeps scenes from being learned by heart. Put on chunks, which are relative to the state, too, it
    is more than what sets the chunks of a situation apart: critics then tell six of ten right here."""
    much = FeatureNoise(state=3.0)
    made = learner(steered, steps=150, batch=64, learning_rate=5e-3, noise=much)
    head, rng = made.head, np.random.default_rng(0)

    def drawn(count: int, seed: int) -> tuple[np.ndarray, torch.Tensor, np.ndarray]:
        """Features, the flow's normalised chunks there, and how far each moves the first joint."""
        features = rng.normal(size=(count, head.config.features)).astype(np.float32)
        features[:, -6:] *= 10.0  # what is known of the state says little of the noise on it
        noise = torch.randn(count, LENGTH * 6, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            flat = head.integrate(torch.from_numpy(features), noise)
        return features, flat, flat.reshape(count, LENGTH, 6)[:, :2, 0].mean(1).numpy()

    features, flat, went = drawn(200, 1)
    relative = flat.reshape(-1, LENGTH, 6) * head.chunk_std + head.chunk_mean
    chunks = (relative + head._origin(torch.from_numpy(features))).numpy()
    nothing, nobody = np.zeros(1), np.zeros(1, bool)
    rows = [(features[None, [i]], chunks[[i]], bool(went[i] > 0)) for i in range(200)]
    episodes = [Trajectory(f, c, nothing, nothing, hit, nobody) for f, c, hit in rows]
    made.learn(episodes, 0, 1)
    features, flat, went = drawn(400, 2)
    with torch.no_grad():
        values = made.q_a(torch.from_numpy(features), made._judged(flat)).mean(0).numpy()
    assert ((values > np.median(values)) == (went > 0)).mean() > 0.75


def test_a_potential_beside_demonstrations_that_nobody_scored_is_refused(make, steered):
    """What they do would look better than what the robot does by as much as the potential is there."""
    with pytest.raises(ConfigError, match=r"^refiner\.options\.shaping: expected 0 .*, found 0\.5"):
        make(shaping=0.5)
    Dsrl(package=steered.folder, demonstrations=[], options={**OPTIONS, "shaping": 0.5}, seed=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("demonstration_share", 1.5), ("temperature", 0.0), ("ensemble", 0), ("average_decay", 1.0)],
)
def test_an_option_out_of_range_is_named(make, name, value):
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{name}: expected "):
        make(**{name: value})


def test_the_temperature_keeps_the_entropy_that_is_asked_for(steered):
    found = {}
    for entropy in (-1.5, 0.9):
        made = learner(
            steered,
            steps=120,
            entropy=entropy,
            temperature=0.1,
            temperature_rate=0.1,
            learning_rate=3e-3,
        )
        rng = np.random.default_rng(0)
        features = rng.normal(size=(1, 8, made.head.config.features)).astype(np.float32)
        chunks = rng.normal(size=(8, LENGTH, 6)).astype(np.float32)
        kept = Trajectory(features, chunks, np.zeros(8), np.zeros(8), True, np.zeros(8, bool))
        made.learn([kept], 0, 1)
        found[entropy] = made.learn([], 0, 2).metrics["entropy"]
    assert found[-1.5] < 0.0
    assert found[0.9] > 0.6


def test_rewards_are_the_outcome_and_the_potential_between():
    nothing = np.zeros((6, 1, 1), np.float32)
    along = np.array([0.0, 0.1, 0.4, 0.2, 0.6, 0.8], np.float32)
    kept = Trajectory(nothing[None], nothing, along, along, True, np.zeros(6, bool))
    rewarding = Rewarding(stride=2, discount=0.9, outcome=1.0, shaping=0.5)
    assert rewarding.of(kept, 1) == (pytest.approx(0.5 * (0.9 * 0.2 - 0.1)), 0.9, 3)
    assert rewarding.of(kept, 4) == (pytest.approx(1.0 - 0.5 * 0.6), 0.0, 5)
    # Along any way to the end the shaping sums to minus the potential at the start: it rewards no detour.
    total, weight, at = 0.0, 1.0, 0
    while weight:
        reward, discount, after = rewarding.of(kept, at)
        total, weight, at = total + weight * reward, weight * discount, after
    assert total == pytest.approx(0.9**2 * 1.0 - 0.5 * 0.0)
