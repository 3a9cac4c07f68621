"""Proximal policy optimisation on a real, small flow policy and on episodes that the robot's runner drove."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest
import torch
from driven_episode import Driver
from small_policy import LENGTH, episode, iteration, same, scored

from contracts.errors import ConfigError
from contracts.reward import RewardSignal
from trainer.interfaces import ScoredEpisode
from trainer.policies.flow import FlowPolicy
from trainer.refiners.experience import FrozenTrunk
from trainer.refiners.ppo import Ppo, PpoLearner, PpoOptions
from trainer.refiners.rollout import Rollout, rollout

OPTIONS = {"epochs": 4, "batch": 8, "hidden": 16, "learning_rate": 1e-3, "kl": 10.0}
SIGMA = np.array([3.0] * 5 + [0.0], np.float32)


@pytest.fixture
def make(package):
    def build(**options) -> Ppo:
        given = {**OPTIONS, **options}
        return Ppo(package=package.folder, demonstrations=[], options=given, seed=0)

    return build


@pytest.fixture
def trunk(package) -> FrozenTrunk:
    return FrozenTrunk(package, FlowPolicy.from_package(package))


@pytest.fixture
def learner(package):
    def build(**options) -> PpoLearner:
        torch.set_num_threads(1)  # as the refiner itself does
        given = PpoOptions(**{**OPTIONS, **options})
        return PpoLearner(FlowPolicy.from_package(package).head, given, 0)

    return build


def drawn(learner: PpoLearner, rng: np.random.Generator, chunks: int = 1, **known) -> Rollout:
    """An episode of chunks around what `learner` would do, explored as on a robot. All failed, nothing was
    scored."""
    head = learner.trainer.head
    features = rng.normal(size=(chunks + 1, head.config.features)).astype(np.float32)
    noise = rng.normal(size=(chunks, LENGTH * 6)).astype(np.float32)
    executed = np.full((chunks, LENGTH), 1.0 / LENGTH, np.float32)
    offset = (rng.normal(size=(chunks, 6)) * SIGMA).astype(np.float32)
    with torch.no_grad():
        mean, _ = learner.mean(*map(torch.from_numpy, (features[:-1], noise, executed)))
    made = Rollout(
        features,
        noise,
        offset,
        SIGMA,
        executed,
        asked=mean.numpy() + offset,
        actions=np.full(chunks, 2.0, np.float32),
        along=np.zeros(chunks + 1, np.float32),
        held=np.zeros((chunks, 2), np.float32),
        version=0,
        success=False,
        ended=True,
    )
    return dataclasses.replace(made, **known)


def tried_well(
    learner: PpoLearner, rng: np.random.Generator, chunks: int, **known
) -> list[Rollout]:
    """Episodes of a chunk each, of which those succeed whose first joint was moved up."""
    return [
        dataclasses.replace(kept, success=bool(kept.offset[0, 0] > 0))
        for kept in apiece(drawn(learner, rng, chunks, **known))
    ]


def apiece(made: Rollout) -> list[Rollout]:
    """Its chunks as episodes of one each."""
    fields = ("noise", "offset", "executed", "asked", "actions", "held")
    return [
        dataclasses.replace(
            made,
            features=made.features[at : at + 2],
            along=made.along[at : at + 2],
            **{name: getattr(made, name)[at : at + 1] for name in fields},
        )
        for at in range(len(made.noise))
    ]


def told(one: ScoredEpisode, **start) -> ScoredEpisode:
    """The same episode with something else in what it says of itself."""
    changed = msgspec.structs.replace(one.episode.start, **start)
    return dataclasses.replace(one, episode=dataclasses.replace(one.episode, start=changed))


@pytest.mark.parametrize(
    ("rate_hz", "latency", "lag"), [(10.0, 1, 0.0), (10.0, 0, 1.0), (30.0, 2, 0.0), (30.0, 1, 2.0)]
)
def test_noise_and_exploration_are_what_the_robot_drew(
    package, trunk, learner, rate_hz, latency, lag
):
    """Its chunk is what the flow makes of the noise that is drawn again, and what it asked of the gate is
    that with the offset that is drawn again, in loops of the chunk rate and faster ones."""
    driver, made, found = Driver(package), learner(), 0
    for seed in range(6):
        one = ScoredEpisode(episode(seed, 36, rate_hz), (), True, "test")
        one = driver.drive(one, latency=latency, lag=lag)
        kept = rollout(trunk, one, 0.98)
        parts = (kept.features[:-1], kept.noise, kept.executed)
        with torch.no_grad():
            mean, flat = made.mean(*map(torch.from_numpy, parts))
            chunk = made.trainer.head.denormalise(torch.from_numpy(kept.features[:-1]), flat)
        # Beyond the limits of an action the robot's is cut off.
        reach = np.abs(chunk.numpy() + kept.offset[:, None])[:, :, :5].max((1, 2))
        free = reach < 100.0
        np.testing.assert_allclose(
            (mean.numpy() + kept.offset)[free, :5], kept.asked[free, :5], atol=1e-3
        )
        assert np.abs(kept.offset[:, :5]).min() > 1e-3
        found += int(free.sum())
        np.testing.assert_allclose(kept.executed.sum(1), 1.0, rtol=1e-6)
        assert kept.actions.sum() == 36 * 10.0 / rate_hz
    assert found > 20


def test_what_the_draws_do_not_account_for_teaches_nothing(make, driver, package):
    episodes = [driver.drive(one) for one in iteration(1)]
    assert make().update(episodes, 1).metrics["left_out"] < 0.3
    wrong = [told(one, policy_seed=99) for one in episodes]
    update = make().update(wrong, 1)
    assert update.metrics["left_out"] == 1.0 and update.metrics["gradient_steps"] == 0
    assert same(update.tensors, package.refinable_weights())


@pytest.mark.parametrize("start", [{"policy_seed": -1}, {"explore_deg": 0.0}])
def test_without_exploration_it_says_what_is_missing(make, driver, start):
    episodes = [told(driver.drive(one), **start) for one in iteration(1)]
    with pytest.raises(ConfigError, match=r"none in 4; start robot-run .* policy\.explore_deg=3$"):
        make().update(episodes, 1)


@pytest.mark.parametrize("wanted", [1.0, -1.0])
def test_what_exploration_found_better_gets_more_probable(learner, wanted):
    """One chunk an episode; it succeeds if what was tried in the first joint went the wanted way."""
    made = learner(batch=128, kl=0.05, anchor=0.0)
    rng = np.random.default_rng(0)
    seen = drawn(made, rng, 50)
    parts = [torch.from_numpy(part) for part in (seen.features[:-1], seen.noise, seen.executed)]

    def mean() -> np.ndarray:
        with torch.no_grad():
            return made.mean(*parts)[0].numpy()

    before = mean()
    for number in range(1, 7):
        episodes = apiece(drawn(made, rng, 128, version=number - 1))
        better = [kept.offset[0, 0] * wanted > 0 for kept in episodes]
        acted = [
            dataclasses.replace(k, success=bool(b)) for k, b in zip(episodes, better, strict=True)
        ]
        chunks = made._chunks(acted)
        update = made.learn(acted, 0, number)
        assert update.metrics["left_out"] == 0.0 and update.metrics["weight"] == 1.0
        with torch.no_grad():
            now, _ = made.mean(chunks.features, chunks.noise, chunks.executed)
        # log pi of what was done, now less before
        gained = ((chunks.action - chunks.mean) ** 2 - (chunks.action - now) ** 2)[:, 0] / 18.0
        succeeded = torch.tensor(better)
        assert gained[succeeded].mean() > gained[~succeeded].mean()
    moved = (mean() - before).mean(0)
    assert moved[0] * wanted > max(3.0, np.abs(moved[1:5]).max())


def test_without_an_advantage_nothing_moves(learner, package):
    """No reward at all, and the same reward for everything: to the bit."""
    for success in (False, True):
        made = learner()
        episodes = apiece(drawn(made, np.random.default_rng(0), 20, success=success))
        update = made.learn(episodes, 0, 1)
        assert update.metrics["gradient_steps"] > 0
        assert same(update.tensors, package.refinable_weights())


def test_the_ratio_is_clipped(learner):
    """Where the ratio has left the range in the direction of the advantage there is no gradient any more, and
    there still is where it has to come back."""
    made = learner(anchor=0.0)
    rng = np.random.default_rng(0)
    chunks = made._chunks(apiece(drawn(made, rng, 8)))
    flow = list(made.trainer.head.flow.parameters())
    # As if theta_old had been further from what was done than theta is: the ratio is above 1 + clip.
    away = chunks.mean - 2.0 * (chunks.action - chunks.mean)
    for advantage, moves in ((1.0, False), (-1.0, True)):
        batch = chunks._replace(mean=away, advantage=torch.full((8,), advantage))
        loss, found = made._loss(batch)
        slopes = torch.autograd.grad(loss, flow)
        assert any(bool(slope.any()) for slope in slopes) is moves
        assert found["clipped"] == 1.0
    _, found = made._loss(chunks)
    assert found["clipped"] == 0.0 and found["kl"] == pytest.approx(0.0, abs=1e-9)


def test_the_update_ends_where_it_has_gone_far_enough_and_the_anchor_holds(learner, package):
    def learned(made: PpoLearner) -> dict[str, float]:
        rng = np.random.default_rng(0)
        for number in range(1, 4):
            acted = tried_well(made, rng, 32, version=number - 1)
            metrics = made.learn(acted, 0, number).metrics
        return metrics

    free, short = learned(learner()), learned(learner(kl=1e-4))
    assert short["gradient_steps"] < free["gradient_steps"] / 2
    held = learned(learner(anchor=100.0))
    assert 0 < held["drift"] < 0.5 * free["drift"]


def test_older_weights_count_by_how_probable_they_made_it(learner):
    made = learner(stale=2)
    rng = np.random.default_rng(0)
    shift = np.array([1.5, 0, 0, 0, 0, 20.0], np.float32)
    fresh = drawn(made, rng, 40, version=5)
    older = drawn(made, rng, 40, version=4)
    older = dataclasses.replace(older, asked=older.asked + shift)
    oldest = drawn(made, rng, 40, version=2)
    made._release = 5
    weights = made._chunks([fresh, older, oldest]).weight.numpy().reshape(3, 40)
    assert (weights[0] == 1.0).all() and not weights[2].any()
    density = torch.distributions.Normal(0.0, 3.0).log_prob
    tried = torch.from_numpy(older.offset[:, 0])
    expected = (density(tried + 1.5) - density(tried)).exp().clamp(max=1.0)
    np.testing.assert_allclose(weights[1], expected.numpy(), rtol=1e-3)
    assert 0 < (weights[1] < 1.0).sum() < 40
    # Further than `unaccounted` in every joint may be anything.
    lost = dataclasses.replace(older, asked=older.asked + np.float32(3.0))
    assert not made._chunks([lost]).weight.any()


def test_weights_that_are_no_longer_theta_old_are_older_though_nothing_newer_acted(learner):
    """A robot that doesn't wait for releases, or rejects them, goes on with the weights of before."""
    made, rng = learner(kl=0.01, anchor=0.0), np.random.default_rng(0)
    acted = [tried_well(made, rng, 64) for _ in range(5)]
    assert made.learn(acted[0], 0, 1).metrics["weight"] == 1.0
    fresh, late = drawn(made, rng, 8, version=1), drawn(learner(), rng, 64)
    assert (made._chunks([fresh]).weight == 1.0).all()
    chunks = made._chunks([late])
    kept = chunks.weight.numpy() > 0
    assert kept.sum() > 32 and (chunks.weight < 0.99).any()
    # What was done is what was asked, and not what theta_old would have asked with that offset.
    done = chunks.action.numpy()[kept, :5]
    np.testing.assert_allclose(done, late.asked[kept, :5], atol=1e-3)
    assert np.abs(chunks.mean.numpy() + late.offset - late.asked)[kept, :5].max() > 0.1
    again = learner()
    again.restore(made.state(), "state")
    assert torch.equal(again._chunks([late]).weight, chunks.weight)
    # Releases go on while the robot stays where it is, until it's more than `stale` of them behind.
    found = [made.learn(acted[n], 0, n + 1).metrics for n in range(1, 5)]
    assert [metrics["gradient_steps"] > 0 for metrics in found] == [True, True, False, False]
    assert [metrics["left_out"] == 1.0 for metrics in found] == [False, False, True, True]
    # Releases 4 and 5 have the same weights as 3; then 1 is too old.
    for version in (3, 4, 5):
        again.restore(made.state(), "state")
        episodes = apiece(drawn(again, rng, 8, version=version))
        assert again.learn(episodes, 0, 6).metrics["weight"] == 1.0
    assert again.learn([drawn(made, rng, 8, version=3)], 0, 7).metrics["left_out"] == 1.0


def test_a_fresh_run_takes_a_release_that_robots_already_have_for_another_policy(learner):
    made, rng = learner(), np.random.default_rng(0)
    shift = np.array([1.5, 0, 0, 0, 0, 0], np.float32)
    other = drawn(made, rng, 20, version=7)
    other = dataclasses.replace(other, asked=other.asked + shift)
    chunks = made._chunks([other])
    assert 0 < (chunks.weight < 1.0).sum() < 20
    np.testing.assert_allclose(chunks.action[:, :5].numpy(), other.asked[:, :5], atol=1e-3)
    assert (made._chunks([drawn(made, rng, 4)]).weight == 1.0).all()
    assert made.learn([other], 0, 1).metrics["weight"] < 1.0
    # The releases of this run are above.
    assert (made._chunks([drawn(made, rng, 4, version=8)]).weight == 1.0).all()


@pytest.mark.parametrize("mean_of", [2, 3])
def test_a_mean_of_several_chunks_is_left_out(learner, mean_of):
    """As `policy.chunks=ensemble` asks it of the gate, even if they are the same but for exploration."""
    made, rng = learner(), np.random.default_rng(0)
    alone = drawn(made, rng, 100)
    others = rng.normal(size=(mean_of - 1, 100, 6)).astype(np.float32) * SIGMA
    asked = alone.asked + (others.sum(0) - (mean_of - 1) * alone.offset) / mean_of
    chunks = made._chunks([dataclasses.replace(alone, asked=asked)])
    assert (chunks.weight == 0.0).float().mean() > 0.9
    apart = math.sqrt(float((chunks.apart**2).mean()))
    assert apart == pytest.approx(math.sqrt((mean_of - 1) / mean_of), rel=0.1)
    assert (made._chunks([alone]).weight == 1.0).all()


def test_what_is_left_out_moves_nothing_however_far_off_it_is(learner):
    """To the bit what the same chunks do that are less far off, and they count in no figure."""
    found = []
    for sigmas in (2.0, 60.0, math.nan):
        made, rng = learner(kl=10.0, anchor=0.0), np.random.default_rng(0)
        made._release = 1
        acted = tried_well(made, rng, 32, version=1)
        lost = tried_well(made, rng, 32, version=0)
        lost = [dataclasses.replace(k, asked=k.asked + np.float32(3.0 * sigmas)) for k in lost]
        # As if theta_old had been elsewhere: the divergence is that of the chunks that count.
        both = (made._chunks(each) for each in (acted, [*acted, *lost]))
        alone, beside = (made._loss(c._replace(mean=c.mean + 1.0))[1] for c in both)
        assert alone["kl"] > 0.1 and alone["clipped"] > 0.0
        for name in ("kl", "clipped", "loss"):
            assert beside[name] == pytest.approx(alone[name], rel=1e-4)
        update = made.learn([*acted, *lost], 0, 1)
        assert update.metrics["left_out"] == 0.5 and update.metrics["gradient_steps"] > 2
        assert all(map(math.isfinite, (update.metrics[n] for n in ("loss", "kl", "clipped"))))
        found.append(update.tensors)
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_advantages_are_the_sums_that_define_them(learner):
    o = {"shaping": 0.5, "completion": 0.25, "contrastive": 0.1, "discount": 0.9}
    made = learner(**o, gae_lambda=0.8)
    rng = np.random.default_rng(0)
    for parameter in made.value.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    along, held = rng.random(6).astype(np.float32), rng.random((5, 2)).astype(np.float32)
    actions = np.array([2, 3, 2, 2, 1], np.float32)
    for ended, success in ((True, True), (True, False), (False, True)):
        kept = drawn(made, rng, 5, success=success, ended=ended)
        kept = dataclasses.replace(kept, along=along, held=held, actions=actions)
        with torch.no_grad():
            value = made._value(torch.from_numpy(kept.features)).numpy().astype(float)
        phi, gamma = along.astype(float), 0.9 ** actions.astype(float)
        if ended:
            value[-1] = phi[-1] = 0.0
        reward = 0.5 * (gamma * phi[1:] - phi[:-1]) + held @ [0.25, 0.1]
        reward[-1] += float(ended and success)
        delta = reward + gamma * value[1:] - value[:-1]
        expected = [
            sum(delta[k] * math.prod(gamma[at:k]) * 0.8 ** (k - at) for k in range(at, 5))
            for at in range(5)
        ]
        advantage, target = made.gae(kept)
        np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(target, advantage + value[:-1], rtol=1e-4, atol=1e-5)


def test_an_episode_is_cut_where_a_person_took_over(trunk, driver):
    whole = driver.drive(scored(4, True))
    columns = dict(whole.episode.columns)
    columns["intervention"] = np.arange(9) >= 5
    cut = dataclasses.replace(whole, episode=dataclasses.replace(whole.episode, columns=columns))
    all_of_it, kept = rollout(trunk, whole, 0.98), rollout(trunk, cut, 0.98)
    assert all_of_it.ended and not kept.ended
    assert len(kept.noise) < len(all_of_it.noise)
    assert kept.actions.sum() == 5.0
    # Where the label is all there is, that of an episode with help is none of how far the policy came.
    labelled = (dataclasses.replace(one, signals=()) for one in (whole, cut))
    came, was_helped = (rollout(trunk, one, 0.98).along for one in labelled)
    assert (came > 0.5).all() and not was_helped.any()
    columns["intervention"] = np.ones(9, bool)
    helped = dataclasses.replace(whole, episode=dataclasses.replace(whole.episode, columns=columns))
    assert rollout(trunk, helped, 0.98).noise.shape == (0, LENGTH * 6)


def test_what_the_reward_model_said_is_held_until_it_speaks_again(trunk, driver):
    signals = (
        RewardSignal(0, 0.1, 0.2, 0.0),
        RewardSignal(4, 0.3, contrastive=-1.0),
        RewardSignal(8, 0.5, 0.9, 1.0),
    )
    one = dataclasses.replace(driver.drive(scored(4, False)), signals=signals)
    kept = rollout(trunk, one, 0.98)
    ends = np.cumsum(kept.actions)
    assert ends.tolist() == [2, 4, 6, 9]
    np.testing.assert_allclose(kept.held[:, 0], [0.2, 0.2, 0.2, 0.9])
    np.testing.assert_allclose(kept.held[:, 1], [0.0, 0.0, -1.0, 1.0])
    np.testing.assert_allclose(kept.along, [0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-6)


@pytest.mark.parametrize("option", [{"clip": 2.0}, {"kl": 0.0}, {"stale": -1}, {"batch": 0}])
def test_an_option_out_of_range_is_refused(make, option):
    (name,) = option
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{name}: expected "):
        make(**option)
