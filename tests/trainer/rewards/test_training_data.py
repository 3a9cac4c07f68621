"""What the reward model is trained on: nothing that is held out, and labels that are true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contracts.errors import ConfigError, EntracteError
from contracts.files.packages import read_manifest
from runtime.bench import clips as recorder
from runtime.bench import goals, language, render, snapshots, split
from runtime.bench.scene import Goal, RandomisationConfig
from runtime.bench.tasks import TASKS
from trainer.rewards.data import Clip, read_meta, trained_on
from trainer.rewards.holdout import (
    check_kinds,
    is_validation_goal,
    refuse_evaluation,
    training_part,
    validation_part,
    without_kinds,
)

PRETRAINED = Path(__file__).parents[3] / "pretrained"


@pytest.mark.parametrize("task", sorted(TASKS))
def test_training_scenes_hold_nothing_reserved(task: str) -> None:
    for seed in range(60):
        scene = snapshots.make_scene(task, seed, "train", RandomisationConfig())
        assert scene.fixture_id != split.RESERVED_DRAWER
        assert not split.shows_reserved_pair((*scene.object_names, *scene.container_names))
        chosen = recorder.choose_goals(scene, np.random.default_rng(seed), 7)
        for goal, _ in chosen:
            assert not split.is_reserved_pair(goal.thing, goal.target)
            said = recorder.instructions(goal, scene.split)
            assert said
            assert not set(said) & set(split.RESERVED_INSTRUCTIONS)


def test_reserved_instructions_are_left_out_even_where_a_goal_could_say_them() -> None:
    assert recorder.instructions(Goal("open", "drawer"), "train") == ()
    assert "open the drawer" in recorder.instructions(Goal("open", "drawer"), "eval")


def test_clips_of_the_evaluation_split_are_refused(clips: list[Clip]) -> None:
    refuse_evaluation(clips)
    record = msgspec.structs.replace(clips[0].record, split="eval")
    with pytest.raises(EntracteError, match="evaluation split"):
        training_part([replace(clips[0], record=record)])


def test_validation_and_training_share_no_pair(clips: list[Clip]) -> None:
    trained, kept = training_part(clips), validation_part(clips)
    assert len(trained) + len(kept) == len(clips)
    for clip in trained:
        assert clip.record.fixture != "drawer_blue_bar"
        assert not any(is_validation_goal(goal) for goal in clip.record.goals)
        assert len(clip.progress) == len(clip.record.goals)


def test_kinds_of_goals_that_are_left_out_are_nowhere(clips: list[Clip]) -> None:
    kinds = {goal.kind for clip in clips for goal in clip.record.goals}
    assert {"open", "on", "push"} <= kinds
    left = without_kinds(clips, ("open", "push"))
    assert left and len(left) < len(clips)
    found = {goal.kind for clip in left for goal in clip.record.goals}
    assert "on" in found and found <= kinds - {"open", "push"}
    for clip in left:
        assert len(clip.progress) == len(clip.success) == len(clip.points) == len(clip.record.goals)
    check_kinds(clips, ("open",))
    with pytest.raises(ConfigError, match="opne"):
        check_kinds(clips, ("opne",))


@pytest.mark.parametrize(
    "folder", sorted(PRETRAINED.glob("reward-*")) if PRETRAINED.is_dir() else []
)
def test_shipped_models_name_what_they_saw_and_it_is_nothing_reserved(folder: Path) -> None:
    seen = read_manifest(folder).trained_on
    assert len(seen["instructions"]) > 100
    assert not set(seen["instructions"]) & set(split.RESERVED_INSTRUCTIONS)
    assert split.RESERVED_DRAWER not in seen["instances"]
    pairs = {tuple(pair.split(" | ")) for pair in seen["pairs"]}
    assert not pairs & set(split.RESERVED_PAIRS)
    # Relatives are there: other drawers, trays and lids, other pairs of the same words.
    assert len([name for name in seen["instances"] if name.startswith("drawer")]) >= 8
    words = {word for text in seen["instructions"] for word in text.split()}
    assert {word for text in split.RESERVED_INSTRUCTIONS for word in text.split()} <= words


def test_the_manifest_lists_what_the_clips_held(clips: list[Clip]) -> None:
    seen = trained_on(clips)
    said = {text for clip in clips for goal in clip.record.goals for text in goal.instructions}
    assert set(seen["instructions"]) == said


def test_counterfactuals_are_labelled_by_the_state_they_are_seen_in() -> None:
    view = render.intrinsics(recorder.WIDTH, recorder.HEIGHT)
    scene = snapshots.make_scene("put_on", 3, "train", RandomisationConfig())
    own = scene.goal
    other = next(
        g
        for g in language.possible_goals(scene)
        if g.kind == "on" and g.thing == own.thing and g.target != own.target
    )
    met = {own: 0, other: 0}
    start = None
    for physics in snapshots.arrangements(scene, view, np.random.default_rng(1), 60):
        state = physics.state()
        start = start or state
        readings = {g: goals.evaluate(g, state, start, scene).met for g in met}
        assert sum(readings.values()) <= 1
        thing = state.objects[scene.object_index(own.thing)]
        for goal, yes in readings.items():
            met[goal] += yes
            if yes:
                place = scene.container(goal.target)
                apart = np.hypot(*(thing.position_m[:2] - np.array([place.x_m, place.y_m])))
                assert apart < 1.5 * place.type.half_m  # type: ignore[union-attr]
    assert min(met.values()) >= 1


def test_absent_things_are_never_done(clips: list[Clip]) -> None:
    for clip in clips:
        for goal, success, progress in zip(
            clip.record.goals, clip.success, clip.progress, strict=True
        ):
            assert progress.min() >= 0.0
            assert progress.max() <= 1.0
            if goal.origin == "absent":
                assert not success.any()
                assert not progress.any()
            assert not (success & (progress < 0.9)).any()


def test_points_lie_on_what_they_name(clips: list[Clip]) -> None:
    """The colour of a red or blue thing is found where the recorder says that it is, unless hidden."""
    right: list[bool] = []
    for clip in clips:
        for goal, points in zip(clip.record.goals, clip.points, strict=True):
            channel = {"red": 0, "blue": 2}.get(goal.thing.split(" ")[0])
            if channel is None or goal.origin == "absent" or np.isnan(points[0, 0]).any():
                continue
            column, row = points[0, 0].astype(int)
            pixel = clip.pictures("front", [0])[0, row, column].astype(int)
            right.append(pixel[channel] == pixel.max())
    assert len(right) >= 4
    assert np.mean(right) > 0.7  # the arm hides some


def test_a_folder_without_clips_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(EntracteError, match="holds no reward clips"):
        read_meta(tmp_path)
