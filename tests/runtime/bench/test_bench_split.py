"""What is reserved for evaluation never occurs in training scenes: drafts only, no physics."""

import itertools

import pytest

from runtime.bench import TASKS, language, split
from runtime.bench.catalog import DRAWERS
from runtime.bench.compose import compose, scene_rng
from runtime.bench.scene import RandomisationConfig, Scene

RELATIVES = 40


def make_scene(task: str, seed: int, which: str) -> Scene:
    spec, rng = TASKS[task], scene_rng(task, seed, which)
    draft = spec.draft(rng, which)
    return compose(
        task,
        seed,
        which,
        draft,
        spec.phrases(draft.goal),
        spec.time_limit_s,
        RandomisationConfig(),
        rng,
    )


def said(scene: Scene) -> list[str]:
    others = language.alternatives(scene, scene_rng("any", scene.seed, scene.split), 40)
    return [scene.instruction, *scene.paraphrases, *(o.instruction for o in others)]


@pytest.fixture(scope="module")
def train_scenes() -> list[Scene]:
    return [make_scene(t, s, split.TRAIN) for t in TASKS for s in range(RELATIVES)]


def test_training_never_says_a_reserved_instruction(train_scenes: list[Scene]) -> None:
    spoken = set(itertools.chain.from_iterable(said(scene) for scene in train_scenes))
    assert spoken.isdisjoint(split.RESERVED_INSTRUCTIONS)
    pairs = split.RESERVED_PAIRS
    assert not [s for s in spoken if any(a in s and b in s for a, b in pairs)]
    assert "the drawer" not in " ".join(spoken)


def test_training_never_shows_a_reserved_pair_or_the_reserved_drawer(
    train_scenes: list[Scene],
) -> None:
    for scene in train_scenes:
        assert not split.shows_reserved_pair((*scene.object_names, *scene.container_names))
        assert scene.fixture_id != split.RESERVED_DRAWER


def test_evaluation_is_made_of_what_is_reserved() -> None:
    seen = set()
    for seed in range(RELATIVES):
        drawer = make_scene("open_drawer", seed, split.EVAL)
        assert drawer.instruction == "open the drawer"
        assert drawer.fixture_id == split.RESERVED_DRAWER
        pair = make_scene("put_on", seed, split.EVAL)
        assert pair.instruction in split.RESERVED_INSTRUCTIONS
        seen.add((pair.goal.thing, pair.goal.target))
    assert seen == set(split.RESERVED_PAIRS)


def test_every_evaluation_word_occurs_in_training() -> None:
    scenes = [make_scene(t, s, split.TRAIN) for t in TASKS for s in range(150)]
    known = set(" ".join(itertools.chain.from_iterable(map(said, scenes))).split())
    for task in split.EVALUATION_TASKS:
        for seed in range(RELATIVES):
            scene = make_scene(task, seed, split.EVAL)
            words = set(" ".join((scene.instruction, *scene.paraphrases)).split())
            assert words <= known, words - known
    names = {n for scene in scenes for n in (*scene.object_names, *scene.container_names)}
    for thing, container in split.RESERVED_PAIRS:
        assert {thing, container} <= names


def test_the_reserved_drawer_is_in_the_catalogue_once() -> None:
    assert [d.id for d in DRAWERS].count(split.RESERVED_DRAWER) == 1
    assert len({d.id for d in DRAWERS}) == len(DRAWERS)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of"):
        split.check_split("test")
