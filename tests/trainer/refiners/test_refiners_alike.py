"""What holds for every refiner of ours, by its registered name, on a real, small policy."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_policy
from refiner_kinds import KINDS
from small_policy import same, scored

from contracts import registry
from contracts.answers import TOLERANCE, difference, pack, unpack
from contracts.errors import ConfigError, EntracteError, MissingDependency, PackageError
from contracts.files.dataset_format import DatasetError
from contracts.files.packages import Package
from contracts.package import check_tensors
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from trainer.interfaces import Refiner, ScoredEpisode


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return str(request.param)


@pytest.fixture
def refined(kind, request) -> Package:
    """The package that this kind refines."""
    found: Package = request.getfixturevalue(KINDS[kind].package)
    return found


@pytest.fixture
def make(kind, refined, demonstrations):
    def build(seed: int = 0, **options) -> Refiner:
        made: Refiner = registry.load("refiners", kind)(
            package=refined.folder,
            demonstrations=[demonstrations],
            options={**KINDS[kind].options, **options},
            seed=seed,
        )
        return made

    return build


@pytest.fixture
def iteration(driver) -> Callable[[int], list[ScoredEpisode]]:
    """Four episodes that the package drove, half of them successes."""
    return lambda number: [driver.drive(one) for one in small_policy.iteration(number)]


def test_every_refiner_of_ours_is_held_to_this():
    registered = entry_points(group="entracte.refiners")
    assert {e.name for e in registered if e.value.startswith("trainer.")} == set(KINDS)


def test_the_page_of_refiners_names_exactly_those_that_are_registered():
    page = (Path(__file__).parents[3] / "docs" / "refiners.md").read_text()
    table = page[: page.index("\n## ")]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(KINDS)


def test_an_update_is_exactly_the_refinable_tensors_moved(make, kind, refined, iteration):
    refiner = make()
    assert refiner.package_id == refined.package_id
    update = refiner.update(iteration(1), 1)
    assert check_tensors(refined.manifest.refinable, update.tensors) == []
    assert not same(update.tensors, refined.refinable_weights())
    assert update.samples == KINDS[kind].samples
    assert update.metrics["gradient_steps"] > 0


def test_its_answers_are_those_of_an_engine_that_holds_its_tensors(make, refined, iteration):
    """What torch answers by the names of a state dict, ONNX Runtime by those of the graph's initializers:
    two tensors of one shape that change places between them are noticed."""
    update = make().update(iteration(1), 1)
    cases = refined.golden["head"]
    golden = [case.outputs for case in cases]
    said = unpack(update.answers, golden)
    assert len(said) == len(cases) and update.answers != pack(golden, golden)
    engine = OnnxRuntimeEngine(refined, "head", EngineOptions())

    def apart(tensors: dict[str, np.ndarray]) -> bool:
        standby = engine.standby(tensors)
        pairs = zip(cases, said, strict=True)
        return any(difference(right, standby.run(c.inputs), TOLERANCE) for c, right in pairs)

    assert not apart(update.tensors)
    names = [name for name, tensor in update.tensors.items() if tensor.ndim > 1]
    alike = [
        (one, other)
        for one, other in itertools.combinations(names, 2)
        if update.tensors[one].shape == update.tensors[other].shape
    ]
    crossed = [
        {**update.tensors, one: update.tensors[other], other: update.tensors[one]}
        for one, other in alike
    ]
    # What a fresh actor says moves nothing yet, whatever its tensors are called.
    assert any(map(apart, crossed)) or refined.manifest.architecture != "flow"


def test_same_episodes_and_seed_give_the_same_tensors(make, iteration):
    tensors = make().update(iteration(1), 1).tensors
    assert same(tensors, make().update(iteration(1), 1).tensors)
    assert not same(tensors, make(seed=1).update(iteration(1), 1).tensors)


def test_it_resumes_to_the_bit(make, iteration, tmp_path):
    """A person helped in an episode, so that what is kept of that counts too."""
    first = iteration(1)
    columns = first[1].episode.columns | {"intervention": np.arange(first[1].episode.steps) >= 4}
    helped = dataclasses.replace(first[1].episode, columns=columns)
    first[1] = dataclasses.replace(first[1], episode=helped)
    whole = make()
    whole.update(first, 1)
    whole.save(tmp_path / "state")
    whole.update(iteration(2), 2)
    expected = whole.update(iteration(3), 3).tensors
    resumed = make()
    resumed.load(tmp_path / "state")
    resumed.update(iteration(2), 2)
    assert same(expected, resumed.update(iteration(3), 3).tensors)


def test_abstained_episodes_teach_nothing(make, iteration):
    expected = make().update(iteration(1), 1).tensors
    assert same(expected, make().update([*iteration(1), scored(77, None)], 1).tensors)


def test_an_episode_that_does_not_fit_costs_itself_alone(make, kind, iteration, capsys):
    """One of another robot beside ours, and one whose joints were not known for a moment: nothing of them is
    kept either, in a state from which every later update would be ruined."""
    stored = scored(77, True).episode
    (camera,) = stored.session.observation.cameras
    elsewhere = (msgspec.structs.replace(camera, name="side"),)
    observation = msgspec.structs.replace(stored.session.observation, cameras=elsewhere)
    other = msgspec.structs.replace(stored.session, observation=observation)
    states = stored.states.copy()
    states[3, 2] = np.nan
    bad = [
        dataclasses.replace(stored, session=other),
        dataclasses.replace(stored, columns={**stored.columns, "observation.state": states}),
    ]
    given = [dataclasses.replace(scored(77, True), episode=one) for one in bad]
    clean, made = make(), make()
    for number in (1, 2):
        expected = clean.update(iteration(number), number)
        capsys.readouterr()
        found = made.update([given[0], *iteration(number), given[1]], number)
        assert same(expected.tensors, found.tensors)
        told = capsys.readouterr().err
        if kind != "demonstrations":  # which looks at none
            assert found.metrics["unfit"] == 2.0 and expected.metrics["unfit"] == 0.0
            assert "camera 'front' is missing" in told and "'observation.state'" in told


class Unreadable:
    """Pictures that can't be had."""

    def __init__(self, error: EntracteError) -> None:
        self._error = error

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        raise self._error

    depth = frames


def test_what_is_no_episodes_fault_costs_the_update_which_says_it(make, kind, iteration):
    """Taken for an episode's own, every one would be left out and nobody learn why nothing is learned."""
    if kind == "demonstrations":
        pytest.skip("looks at no episode")

    def seen(number: int, error: EntracteError) -> list[ScoredEpisode]:
        first, *others = iteration(number)
        episode = dataclasses.replace(first.episode, pictures=Unreadable(error))
        return [dataclasses.replace(first, episode=episode), *others]

    made = make()
    assert made.update(seen(1, DatasetError("a damaged video")), 1).metrics["unfit"] == 1.0
    for error in (ConfigError("an option"), MissingDependency("a codec")):
        with pytest.raises(type(error), match=str(error)):
            made.update(seen(2, error), 2)


def test_reading_ahead_changes_no_bit_and_is_done_once(make, kind, iteration, tmp_path):
    """Of what the update is given, of other episodes than it is given, and before a state was taken back."""
    first = [*iteration(1), scored(77, None)]
    expected = make().update(first, 1)
    ahead, read = make(), []
    learner_reads = ahead._read
    ahead._read = lambda one, rng: read.append(one.episode.key) or learner_reads(one, rng)
    for one in first[:3]:
        ahead.read(one, 1)
    assert len(read) == (0 if kind == "demonstrations" else 3)
    found = ahead.update(first, 1)
    assert same(expected.tensors, found.tensors) and found.metrics == expected.metrics
    assert len(read) == len(set(read)) == (0 if kind == "demonstrations" else 4)
    for stray in (iteration(5)[:2], [*first, first[0]]):
        other = make()
        for one in stray:
            other.read(one, 1)
        assert same(expected.tensors, other.update(first, 1).tensors)
    back = make()
    back.save(tmp_path / "state")
    back.update(first, 1)
    back.read(first[0], 2)
    back.load(tmp_path / "state")
    assert same(expected.tensors, back.update(first, 1).tensors)


def test_a_state_whose_episodes_were_thinned_otherwise_is_refused(make, kind, iteration, tmp_path):
    """A step of it would be taken for another time."""
    if kind in ("demonstrations", "ppo"):
        pytest.skip("keeps no episode")
    made = make()
    made.update(iteration(1), 1)
    made.save(tmp_path / "state")
    with pytest.raises(ConfigError, match=r"^refiner\.options\.thin: .*expected 2, found 1"):
        make(thin=1).load(tmp_path / "state")


def test_the_state_of_another_seed_or_size_is_refused(make, kind, tmp_path):
    make().save(tmp_path / "state")
    with pytest.raises(PackageError, match="another package or seed"):
        make(seed=5).load(tmp_path / "state")
    if KINDS[kind].other:
        with pytest.raises(PackageError, match="saved by another refiner"):
            make(**KINDS[kind].other).load(tmp_path / "state")


@pytest.mark.parametrize("name", ["threads", "discount"])
def test_an_option_that_is_none_or_out_of_range_is_named(make, name):
    with pytest.raises(ConfigError, match="gradient_stepz"):
        make(gradient_stepz=3)
    with pytest.raises(ConfigError, match=rf"^refiner\.options\.{name}: expected .*, found -1"):
        make(**{name: -1})
