"""Diffusion steering on a real, small flow policy behind a noise actor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_policy import LENGTH, iteration, same
from small_policy import scored as episode_of

from contracts.errors import ConfigError, PackageError
from contracts.reward import RewardSignal, abstain
from trainer.policies.actors import policy_of_package
from trainer.policies.chance import Chance
from trainer.policies.noise import FeatureNoise
from trainer.policies.noise_actor import SteeredHead
from trainer.refiners.critics import Batch, Rewarding, Source, draw_batch
from trainer.refiners.dsrl import Dsrl, DsrlLearner, DsrlOptions
from trainer.refiners.experience import Trajectory, scored

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
        noises, log_pi = made.draw(features, Chance(torch.Generator().manual_seed(0)))
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


@pytest.mark.parametrize(("wanted", "distil"), [(1.0, False), (-1.0, False), (1.0, True)])
def test_the_actor_steers_the_flow_to_what_succeeds(steered, wanted, distil):
    """One chunk an episode; it succeeds if the first joint goes the wanted way. Nobody says which noises the
    chunks came from: they were drawn at random around where the arm is."""
    quick = {"steps": 150, "batch": 64, "learning_rate": 5e-3, "temperature": 1e-3, "entropy": -1.0}
    made = learner(steered, **quick, distil=distil)
    head, rng = made.head, np.random.default_rng(0)
    size = head.config.features

    def reached(features: torch.Tensor) -> float:
        with torch.no_grad():
            noise = torch.zeros(len(features), LENGTH, 6)
            steered_noise = made.actor(features, noise).flatten(1)
            chunks = head.integrate(features, steered_noise)
        return float(chunks.reshape(-1, LENGTH, 6)[:, 1:3, 0].mean())

    features = rng.normal(size=(1, 60, size)).astype(np.float32)
    with torch.no_grad():
        noise = torch.randn(60, LENGTH * 6, generator=torch.Generator().manual_seed(1))
        flat = head.integrate(torch.from_numpy(features[0]), noise)
        chunks = head.denormalise(torch.from_numpy(features[0]), flat).numpy()
    went = flat.reshape(60, LENGTH, 6)[:, 1:3, 0].mean(1).numpy() * wanted
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
    assert ("q_w_loss" in found.metrics) == distil
    again = learner(steered, **quick, distil=distil)
    again.restore(made.state(), "state")
    again.own[:] = made.own
    assert same(again.learn([], 0, 2).tensors, made.learn([], 0, 2).tensors)


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
        return features, flat, flat.reshape(count, LENGTH, 6)[:, 1:3, 0].mean(1).numpy()

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


def test_what_is_judged_of_a_chunk_is_what_is_executed_of_it(steered, make, capsys):
    """Entry 0 has passed when a chunk arrives: what is executed there is the chunk's before."""
    entries = torch.arange(LENGTH).repeat_interleave(6)[None]
    assert set(learner(steered)._judged(entries)[0].tolist()) == {1, 2}
    assert set(learner(steered, late=0)._judged(entries)[0].tolist()) == {0, 1}
    with pytest.raises(
        ConfigError, match=r"^refiner\.options\.late: expected at most 2: 2 of a chunk's 4 "
    ):
        make(late=3)
    make(steps=1).update(iteration(1), 1)
    assert capsys.readouterr().err == ""
    make(steps=1, late=2).update(iteration(1), 1)
    (told,) = capsys.readouterr().err.splitlines()
    assert (
        "1 actions of a chunk have passed" in told and "late is 2" in told and "Set it to 1" in told
    )


def test_critics_learn_what_came_of_an_episode_too_and_nothing_that_cannot_be():
    nothing = torch.zeros(3, 1)
    rewards, discounts = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.9, 0.9])
    batch = Batch(nothing, nothing, rewards, discounts, nothing, torch.tensor([1.0, 0.0, 0.8]))
    following = torch.tensor([9.0, 0.8, -0.5])
    plain = Rewarding(1, 0.9, outcome=1.0, shaping=0.0)
    assert plain.targets(batch, following, 0.0).tolist() == pytest.approx([1.0, 0.72, 0.0])
    assert plain.targets(batch, following, 0.5).tolist() == pytest.approx([1.0, 0.36, 0.175])
    assert plain.targets(batch, following, 1.0).tolist() == pytest.approx([1.0, 0.0, 0.8])
    shaped = plain._replace(shaping=0.5)
    assert shaped.targets(batch, following, 0.0).tolist() == pytest.approx([1.0, 0.72, -0.45])


def test_a_chunk_of_a_long_episode_is_as_likely_as_one_of_a_short():
    """Else an early state would be drawn with the outcome of the short successes too often."""

    def kept(steps: int, success: bool) -> Trajectory:
        nothing = np.zeros(steps, np.float32)
        features = np.full((1, steps, 3), float(success), np.float32)
        helped = np.zeros(steps, bool)
        return Trajectory(features, np.zeros((steps, 1, 1)), nothing, nothing, success, helped)

    rewarding = Rewarding(1, 0.9, 1.0, 0.0)
    source = Source([kept(5, True), kept(45, False)], 4000, rewarding)
    drawn = draw_batch([source], np.random.default_rng(0))
    assert float((drawn.features[:, 0] == 1.0).float().mean()) == pytest.approx(0.1, abs=0.03)
    assert set(drawn.returns[drawn.features[:, 0] == 0.0].tolist()) == {0.0}
    assert drawn.returns.max() == 1.0 and drawn.returns[drawn.returns > 0].min() > 0.6


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
            anchor=0.0,
        )
        rng = np.random.default_rng(0)
        features = rng.normal(size=(1, 8, made.head.config.features)).astype(np.float32)
        chunks = rng.normal(size=(8, LENGTH, 6)).astype(np.float32)
        kept = Trajectory(features, chunks, np.zeros(8), np.zeros(8), True, np.zeros(8, bool))
        made.learn([kept], 0, 1)
        found[entropy] = made.learn([], 0, 2).metrics["entropy"]
    assert found[-1.5] < 0.0
    assert found[0.9] > 0.6


def test_the_anchor_holds_to_the_noise_that_the_flow_was_trained_with(steered):
    """The divergence is that of two Gaussians; weighed enough, nothing is learned."""
    made = learner(steered)
    features = torch.randn(3, made.head.config.features)
    with torch.no_grad():
        assert made.divergence(features).abs().max() < 1e-6, "the untrained actor's are its draws"
        made.actor.mean.bias.uniform_(-1.0, 1.0)
        made.actor.log_std.bias.uniform_(-2.0, 1.0)
        mean, log_std = made.actor.distribution(features)
        base = torch.full_like(mean, 1.0 / made.actor.noise.bound)
        there = torch.distributions.Normal(mean, log_std.exp())
        apart = torch.distributions.kl_divergence(
            there, torch.distributions.Normal(torch.zeros_like(mean), base)
        )
        torch.testing.assert_close(made.divergence(features), apart.mean(1))
    away = {}
    for anchor in (0.0, 10.0):
        made = learner(steered, steps=60, learning_rate=3e-3, anchor=anchor, entropy=-1.0)
        rng = np.random.default_rng(0)
        states = rng.normal(size=(1, 8, made.head.config.features)).astype(np.float32)
        chunks = rng.normal(size=(8, LENGTH, 6)).astype(np.float32)
        kept = Trajectory(states, chunks, np.zeros(8), np.zeros(8), True, np.zeros(8, bool))
        away[anchor] = made.learn([kept], 0, 1).metrics["away"]
    assert away[10.0] < 0.1 * away[0.0]


def test_graded_an_episode_is_worth_its_score_at_the_end():
    """RoboReward's 1 to 5 as 0 to 1; the label counts where nobody gave a score, as of demonstrations."""
    sure = (0.1, 0.1, 0.1, 0.5, 0.2)
    for signals, found in (
        ([RewardSignal(0, 0.1), RewardSignal(5, 0.6), abstain(7, "dark")], 0.5),
        ([RewardSignal(5, 0.7, score_distribution=sure)], 0.75),
        ([RewardSignal(0, 0.2), RewardSignal(5, 0.95)], 1.0),
        ([abstain(7, "dark")], None),
    ):
        score = scored(signals)
        assert (None if score is None else float(score[0])) == found
        nothing = np.zeros((3, 1, 1), np.float32)
        kept = Trajectory(
            nothing[None], nothing, np.zeros(3), np.zeros(3), True, np.zeros(3, bool), score=score
        )
        again = Trajectory.of(kept.tensors("own/0/"), "own/0/", True)
        plain = Rewarding(1, 0.5, 1.0, 0.0)
        end = 1.0 if found is None else found
        for one in (kept, again):
            np.testing.assert_allclose(plain.returns(one), [0.25, 0.5, 1.0])
            graded = plain._replace(graded=True).returns(one)
            np.testing.assert_allclose(graded, [0.25 * end, 0.5 * end, end])


def test_a_graded_learner_takes_the_score_and_goes_on_to_the_bit(make, tmp_path):
    plain, graded = make(after=1), make(after=1, graded=True)
    said = [episode_of(n, True) for n in (1, 2, 3)]
    first = graded.update(said, 1)
    assert not same(first.tensors, plain.update(said, 1).tensors)
    graded.save(tmp_path / "state")
    resumed = make(after=1, graded=True)
    resumed.load(tmp_path / "state")
    more = [episode_of(n, False) for n in (4, 5)]
    assert same(graded.update(more, 2).tensors, resumed.update(more, 2).tensors)


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
