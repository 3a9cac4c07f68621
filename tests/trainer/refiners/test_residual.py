"""The residual on a real, small flow policy: off-policy, with demonstrations and a person's help."""

from __future__ import annotations

import dataclasses
import re

import msgspec
import numpy as np
import pytest
import torch
from small_policy import LENGTH, episode, iteration, same

from contracts import registry
from contracts.errors import ConfigError, PackageError
from contracts.files.dataset_format import NO_VERDICT
from contracts.messages import GateBit
from trainer.interfaces import ScoredEpisode, StoredEpisode
from trainer.policies.actors import policy_of_package
from trainer.policies.chance import Chance
from trainer.policies.flow import FlowPolicy
from trainer.policies.residual import ResidualHead
from trainer.refiners.critics import Rewarding, Source, draw_batch
from trainer.refiners.experience import FrozenTrunk, Trajectory, hands_on
from trainer.refiners.residual import Residual, ResidualLearner, ResidualOptions

OPTIONS = {
    **{"steps": 8, "batch": 8, "after": 1, "hidden": 16, "execute": 2},
    **{"ensemble": 2, "actor_every": 2},
}


@pytest.fixture
def make(corrected, demonstrations):
    def build(seed: int = 0, **options):
        return Residual(
            package=corrected.folder,
            demonstrations=[demonstrations],
            options={**OPTIONS, **options},
            seed=seed,
        )

    return build


def learner(corrected, **options) -> ResidualLearner:
    head = policy_of_package(corrected, ResidualHead).head
    torch.set_num_threads(1)
    made = ResidualOptions(**{**OPTIONS, **options})
    # Without noise the base's chunk is the same whenever it is asked.
    return ResidualLearner(head, [], made, 0, noise_scale=0.0)


def alone(features: np.ndarray, chunk: np.ndarray, success: bool, helped: bool) -> Trajectory:
    """An episode of one chunk."""
    nothing = np.zeros(1, np.float32)
    kept = features[None, None], chunk[None], nothing, nothing
    return Trajectory(*kept, success, np.array([helped]))


def test_the_base_acts_until_enough_was_seen(make, corrected):
    waits = make(after=5)
    assert same(waits.update(iteration(1), 1).tensors, corrected.refinable_weights())
    assert not same(waits.update(iteration(2), 2).tensors, corrected.refinable_weights())


def test_a_package_without_a_residual_is_refused(package, demonstrations):
    with pytest.raises(PackageError, match="flow-residual"):
        Residual(package=package.folder, demonstrations=[demonstrations], options={}, seed=0)


@pytest.mark.parametrize(
    "told",
    [{"execute": 3}, {"execute": 6}, {"execute": 2, "thin": 3}, {"execute": LENGTH, "thin": 3}],
)
@pytest.mark.parametrize("kind", ["residual", "dsrl"])
def test_what_is_executed_is_whole_kept_steps_of_a_chunk(kind, told, request, demonstrations):
    package = request.getfixturevalue({"residual": "corrected", "dsrl": "steered"}[kind])
    with pytest.raises(
        ConfigError, match=r"^refiner\.options\.execute: expected a multiple of thin"
    ):
        registry.load("refiners", kind)(
            package=package.folder, demonstrations=[demonstrations], options=told, seed=0
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ensemble", 0), ("demonstration_share", 1.5), ("smoothing", float("nan"))),
        *(("anchor", -0.1), ("anchor", float("inf")), ("learning_rate", float("inf"))),
        *(("outcome", float("inf")), ("outcome", float("nan")), ("shaping", float("nan"))),
        *(("average_decay", 1.0), ("actor_every", 9)),
    ],
)
def test_an_option_out_of_range_is_named(make, name, value):
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{name}: expected "):
        make(**{name: value})


SITUATIONS = 20
LEARNS = {"steps": 250, "batch": 64, "learning_rate": 3e-3, "hidden": 64, "ensemble": 3}


def situations(made: ResidualLearner) -> tuple[torch.Tensor, np.ndarray]:
    """float32[N, F], and the chunks [N, T, A] that the base makes of them."""
    drawn = np.random.default_rng(0).normal(size=(SITUATIONS, made.head.config.features))
    features = torch.from_numpy(drawn.astype(np.float32))
    with torch.no_grad():
        base = made.base(features, Chance(torch.Generator()))
        chunks = made.head.shifted(features, base, torch.zeros(SITUATIONS, 6)).numpy()
    return features, chunks


def corrections(made: ResidualLearner, features: torch.Tensor) -> np.ndarray:
    """float32[N, A]: what is published adds to the base's chunks, in arm units."""
    with torch.no_grad():
        rho = made._average.residual(features, made.base(features, Chance(torch.Generator())))
    return (made.head.residual_bound * rho).numpy()


@pytest.mark.parametrize("off", [3.0, -3.0])
def test_it_finds_what_the_base_is_off_by(corrected, off):
    """The base never succeeds; what exploration adds to its chunk sometimes makes up for it."""
    made = learner(corrected, **LEARNS)
    features, chunks = situations(made)
    rng = np.random.default_rng(1)
    episodes = []
    for number in range(10 * SITUATIONS):
        at, tried = number % SITUATIONS, rng.normal(scale=3.0, size=6).astype(np.float32)
        tried[5] = 0.0  # as the gripper is not explored
        hit = bool(abs(tried[0] - off) < 2.0)
        episodes.append(alone(features[at].numpy(), chunks[at] + tried, hit, False))
    assert not corrections(made, features).any()
    found = made.learn(episodes, 0, 1)
    corrected_by = corrections(made, features)
    assert (np.abs(corrected_by[:, 0] - off) < 2.0).mean() > 0.8
    # The other joints did not matter, whatever chance made of them.
    assert np.abs(corrected_by[:, 1:5]).mean() < 1.5
    assert found.metrics["helped"] == 0 and found.metrics["gain"] > 0.1


HELPED = 10


def test_a_person_who_takes_over_shows_the_way(corrected):
    """The robot's own tries, too small ones, all fail; what a person did in a few episodes succeeds. It
    learns far less of it where nobody says that it was shown."""
    assert np.median(shown_the_way(corrected, told=True)) > 2.0
    assert np.median(shown_the_way(corrected, told=False)) < 1.0


def shown_the_way(corrected, told: bool) -> np.ndarray:
    """float32[N]: what is then added to the first joint."""
    made = learner(corrected, **LEARNS)
    features, chunks = situations(made)
    rng = np.random.default_rng(1)
    episodes = []
    for number in range(20 * SITUATIONS + HELPED):
        at, helped = number % SITUATIONS, number >= 20 * SITUATIONS
        tried = rng.normal(size=6).astype(np.float32)
        tried[0] += 4.0 * helped
        known = helped and told
        episodes.append(alone(features[at].numpy(), chunks[at] + tried, helped, known))
    found = made.learn(episodes, 0, 1)
    assert found.metrics["helped"] == HELPED * told
    return corrections(made, features)[:, 0]


def test_it_never_leaves_its_bound(corrected):
    made = learner(corrected, steps=20, learning_rate=1.0, anchor=0.0)
    rng = np.random.default_rng(0)
    features, chunks = situations(made)
    made.learn(
        [alone(f.numpy(), c, True, False) for f, c in zip(features, chunks, strict=True)], 0, 1
    )
    noise = torch.from_numpy(rng.normal(size=(1, LENGTH, 6)).astype(np.float32))
    with torch.no_grad():
        moved, _, _ = made._average(features[:1], noise)
        base = made.head.integrate(features[:1], noise.flatten(1))
        unmoved = made.head.shifted(features[:1], base, torch.zeros(1, 6))
    added = (moved - unmoved).abs().amax((0, 1))
    assert added.max() > 0.01
    assert (added <= made.head.residual_bound + 1e-4).all()


def test_an_anchor_holds_it_to_the_base(corrected):
    found = {}
    for anchor in (0.0, 10.0):
        made = learner(corrected, **{**LEARNS, "steps": 100, "anchor": anchor})
        features, chunks = situations(made)
        made.learn(
            [
                alone(features[i].numpy(), chunks[i] + np.float32(side), side > 0, False)
                for i in range(SITUATIONS)
                for side in (-3.0, 3.0)
            ],
            *(0, 1),
        )
        found[anchor] = np.abs(corrections(made, features)).mean()
    assert found[10.0] < 0.3 * found[0.0]


def helped_trajectory(steps: np.ndarray, helped: np.ndarray) -> Trajectory:
    """Chunks tell their own step."""
    chunks = np.broadcast_to(steps[:, None, None], (len(steps), 1, 1)).astype(np.float32)
    nothing = np.zeros(len(steps), np.float32)
    return Trajectory(np.zeros((1, len(steps), 3)), chunks, nothing, nothing, True, helped)


def test_of_an_episode_with_help_the_helped_chunks_alone_are_demonstrations():
    rewarding, rng = Rewarding(1, 0.9, 1.0, 0.0), np.random.default_rng(0)
    one = helped_trajectory(np.arange(6), np.array([0, 0, 1, 1, 0, 1], bool))
    other = helped_trajectory(np.arange(10, 14), np.ones(4, bool))
    drawn = draw_batch([Source([one, other], 700, rewarding, helped=True)], rng).chunks
    assert set(np.unique(drawn.numpy())) == {2, 3, 5, 10, 11, 12, 13}
    assert 0.35 < float((drawn < 10).float().mean()) < 0.5, "three of seven"
    drawn = draw_batch([Source([one], 300, rewarding)], rng).chunks
    assert set(np.unique(drawn.numpy())) == set(range(6))


@pytest.fixture(scope="module")
def trunk(package) -> FrozenTrunk:
    return FrozenTrunk(package, FlowPolicy.from_package(package))


def with_help(stored: StoredEpisode, by_hand: np.ndarray, **more: np.ndarray) -> StoredEpisode:
    """The same episode with a person at the helm there; what is asked for changes at every tick."""
    columns = {**stored.columns, "intervention": by_hand, **more}
    return dataclasses.replace(stored, columns=columns)


def test_a_trajectory_says_where_a_person_had_the_arm_and_holds_what_was_executed(
    trunk, demonstrations
):
    """At twice the chunk rate and every second step of it, as recorded; also from a resumed state."""
    ticks = np.arange(16)
    stored = with_help(episode(3, steps=16, rate_hz=20.0), (ticks >= 6) & (ticks < 13))
    kept = trunk.trajectory(stored, True, thin=2, execute=2)
    assert kept.helped.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(kept.chunks[2], stored.actions[[8, 10, 12, 14]])
    again = Trajectory.of(kept.tensors("own/0/"), "own/0/", True)
    assert again.helped.dtype == bool and again.helped.tolist() == kept.helped.tolist()
    assert all(one.helped.all() for one in trunk.demonstrations([demonstrations], thin=2))


STARTS = np.arange(0, 24, 2)


def shown(begin: int, end: int, execute: int, **more: np.ndarray) -> list[int]:
    """Starts of the chunks that a person at the helm from tick to tick showed, of 24."""
    ticks = np.arange(24)
    stored = with_help(episode(3, steps=24), (ticks >= begin) & (ticks < end), **more)
    return STARTS[hands_on(stored.columns, STARTS, execute).shown].tolist()


@pytest.mark.parametrize(
    ("begin", "end", "execute", "starts"),
    [
        (8, 12, 4, [8]),  # half of a chunk is not most of it
        (7, 12, 4, [6, 8]),
        (8, 13, 4, [8, 10]),
        (8, 12, 8, []),
        (8, 13, 8, [6, 8]),
        (8, 12, 2, [8, 10]),
        (18, 24, 8, [16, 18, 20, 22]),  # of a chunk that the episode's end cuts, what was executed
        (16, 24, 8, [14, 16, 18, 20, 22]),
    ],
)
def test_a_chunk_is_shown_by_who_had_the_arm_for_most_of_what_was_executed(
    begin, end, execute, starts
):
    assert shown(begin, end, execute) == starts


def test_somebody_who_takes_over_and_does_nothing_shows_nothing():
    """As the keyboard's wish is before a key was pressed: where the arm stands, which the gate takes."""
    asked = episode(3, steps=24).columns["requested"].copy()
    asked[8:20] = asked[7]
    assert shown(8, 20, 4, requested=asked) == []
    # Where one key was pressed for a tick or two, those chunks alone.
    asked[13:15, 2] += np.float32([0.5, 1.0])
    asked[15:20, 2] += np.float32(1.0)
    assert shown(8, 20, 4, requested=asked) == [10, 12, 14]


def test_an_arm_that_waits_for_a_persons_hand_shows_nothing():
    verdict = np.full(24, GateBit.HELD, np.int64)
    verdict[14:18], verdict[18:] = GateBit.VELOCITY, NO_VERDICT
    assert shown(8, 24, 4, **{"gate.verdict": verdict}) == [14, 16, 18, 20, 22]


def test_a_state_that_knows_nothing_of_help_is_read(trunk):
    tensors = trunk.trajectory(episode(3), True, thin=2).tensors("")
    del tensors["helped"]
    assert not Trajectory.of(tensors, "", True).helped.any()


def test_a_potential_beside_demonstrations_that_nobody_scored_is_refused(make, corrected):
    with pytest.raises(ConfigError, match=r"^refiner\.options\.shaping: expected 0 .*, found 0\.5"):
        make(shaping=0.5)
    options = {**OPTIONS, "shaping": 0.5}
    Residual(package=corrected.folder, demonstrations=[], options=options, seed=0)


def explored(number: int, explore_deg: float) -> list[ScoredEpisode]:
    """An iteration of a robot that tried so much."""
    return [
        dataclasses.replace(
            one,
            episode=dataclasses.replace(
                one.episode,
                start=msgspec.structs.replace(one.episode.start, explore_deg=explore_deg),
            ),
        )
        for one in iteration(number)
    ]


def test_how_much_was_explored_is_told_as_a_share_of_the_bound(make):
    assert make().update(explored(1, 2.0), 1).metrics["explored"] == pytest.approx(2.0 / 5.0)
    half = [*explored(1, 2.0)[:2], *explored(1, 0.0)[2:]]
    assert make().update(half, 1).metrics["explored"] == pytest.approx(1.0 / 5.0)
    assert make().update([], 1).metrics["explored"] == 0.0


def test_it_says_where_nothing_shows_it_what_else_might_be_done(corrected, make, capsys):
    """Nothing was explored, nobody demonstrated, nobody helped."""

    def alone_told(episodes: list[ScoredEpisode]) -> str:
        made = Residual(package=corrected.folder, demonstrations=[], options=OPTIONS, seed=0)
        capsys.readouterr()
        made.update(episodes, 1)
        return str(capsys.readouterr().err)

    assert re.search(r"robot-trainer: .*policy\.explore_deg", alone_told(explored(1, 0.0)))
    assert alone_told(explored(1, 2.0)) == "" and alone_told([]) == ""
    helped = explored(1, 0.0)
    by_hand = with_help(helped[1].episode, np.arange(9) >= 4)
    helped[1] = dataclasses.replace(helped[1], episode=by_hand)
    assert alone_told(helped) == ""
    make().update(explored(1, 0.0), 1)
    assert capsys.readouterr().err == "", "there are demonstrations"


def test_half_of_a_batch_is_shown_where_there_is_somebody_who_showed(make, monkeypatch):
    """Symmetric sampling, and interventions in both buffers."""
    seen: list[list[Source]] = []

    def watched(sources, rng):
        seen.append(sources)
        return draw_batch(sources, rng)

    monkeypatch.setattr("trainer.refiners.residual.draw_batch", watched)
    fresh = iteration(1)
    by_hand = with_help(fresh[1].episode, np.arange(9) >= 4)
    fresh[1] = dataclasses.replace(fresh[1], episode=by_hand)
    refiner = make(steps=1, actor_every=1)
    assert refiner.update(fresh, 1).metrics["helped"] == 1
    ((shown, own),) = seen
    assert (shown.many, own.many) == (4, 4) and shown.helped and not own.helped
    assert len(shown.episodes) == 2 + 1 and len(own.episodes) == 4
    assert shown.episodes[-1] is own.episodes[1]
