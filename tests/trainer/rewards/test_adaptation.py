"""A reward head learns a robot's episodes from late labels, and only a head that is better is let out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tiny_package import make_package

from contracts.answers import TOLERANCE, difference, unpack
from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package
from contracts.reward import RewardSignal
from export.reward import package_reward
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from trainer.rewards.adaptation import (
    AdaptationOptions,
    HeadAdaptation,
    Lesson,
    frame_rows,
    held_back,
    targets,
)
from trainer.rewards.data import Clip, trained_on
from trainer.rewards.edge import EdgeReward
from trainer.rewards.edge_twin import head_of_package, head_tensors
from trainer.rewards.train_edge import Edge, load, save


@pytest.fixture(scope="module")
def package(edge: Edge, clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("adapting")
    save(edge, folder / "source")
    copy = load(folder / "source")
    copy.trained_on = trained_on(clips)
    copy.trunk.fuse()
    return package_reward(copy, folder / "package")


def _lessons(package: Package, clips: list[Clip], count: int) -> list[Lesson]:
    """Episodes of two kinds that are easily told apart: their last picture is dark after a success and
    bright after a failure. No head could know that before."""
    eye = EdgeReward(package=package.folder)
    adaptation = HeadAdaptation(package, AdaptationOptions())
    out = []
    for index in range(count):
        clip, success = clips[index % len(clips)], index % 2 == 0
        pictures = {c: clip.pictures(c, [0, 0, 0]) for c in ("front", "wrist")}
        for seen in pictures.values():
            seen[2] = 30 if success else 220
        embeddings = torch.from_numpy(eye.embed(pictures))
        process, completion = targets([0, 5, 9], 10, success)
        said = clip.record.goals[0].instructions[0]
        held = index % 6 > 3  # one of each kind in six
        out.append(adaptation.lesson(said, embeddings, process, completion, success, held))
    return out


def test_the_torch_twin_is_the_package(package: Package) -> None:
    head = head_of_package(package)
    own = package.refinable_weights()
    assert {k: v.shape for k, v in head_tensors(head).items()} == {
        k: v.shape for k, v in own.items()
    }
    for case in package.golden["head"]:
        given = [
            torch.from_numpy(case.inputs[k]) for k in ("first", "earlier", "current", "tokens")
        ]
        with torch.no_grad():
            outputs = head(*given)
        for name, value in zip(
            ("process", "completion", "contrastive", "ground"), outputs, strict=True
        ):
            np.testing.assert_allclose(value.numpy(), case.outputs[name], atol=1e-5)


def test_labels_become_targets() -> None:
    process, completion = targets([0, 3, 7, 9], 10, True)
    assert np.isnan(process).all(), "a label at the end says nothing of the way there"
    np.testing.assert_array_equal(completion, np.float32([0, np.nan, np.nan, 1]))
    process, completion = targets([0, 9], 10, False)
    assert np.isnan(process).all() and (completion == 0).all()
    said = [RewardSignal(step, process=p, completion=p) for step, p in ((2, 0.2), (6, 0.6))]
    process, completion = targets([0, 4, 6, 9], 10, None, said)
    np.testing.assert_allclose(process, np.float32([np.nan, 0.4, 0.6, np.nan]))
    _, completion = targets([4, 9], 10, False, said)
    assert (completion == 0).all(), "a person's word wins"


def test_frames_are_first_last_and_no_more_than_asked() -> None:
    for total in (1, 2, 5, 40, 400):
        rows = frame_rows(total, 12)
        assert rows[0] == 0 and rows[-1] == total - 1 and len(rows) <= 12
        assert rows == sorted(set(rows))


@pytest.mark.parametrize("every", [2, 3, 5])
def test_one_of_so_many_in_a_row_is_held_back_whatever_takes_turns(every: int) -> None:
    held = [number for number in range(900 * every) if held_back("robot", number, every)]
    assert [number // every for number in held] == list(range(900))
    for turn in range(every):
        share = np.mean([number % every == turn for number in held])
        assert abs(share - 1 / every) < 0.05, "else one task of these would be all that is tested"
    other = [number for number in range(900 * every) if held_back("other", number, every)]
    assert other != held


def test_an_unsure_episode_is_not_held_back(package: Package, clips: list[Clip]) -> None:
    adaptation = HeadAdaptation(package, AdaptationOptions())
    pictures = {c: clips[0].pictures(c, [0]) for c in ("front", "wrist")}
    embeddings = torch.from_numpy(EdgeReward(package=package.folder).embed(pictures))
    none, said = np.zeros(1, np.float32), clips[0].record.goals[0].instructions[0]
    for success in (True, False, None):
        lesson = adaptation.lesson(said, embeddings, none, none, success, True)
        assert lesson.held_back == (success is not None)


def test_a_head_learns_what_a_person_says_and_the_same_lessons_give_the_same_head(
    package: Package, clips: list[Clip]
) -> None:
    lessons = _lessons(package, clips, 18)
    options = AdaptationOptions(steps=100, learning_rate=4e-3, drift=1.0)
    first, second = (HeadAdaptation(package, options).adapt(lessons, None, 1) for _ in range(2))
    assert first.refused == "" and first.tensors is not None and second.tensors is not None
    assert first.figures["loss_after"] < first.figures["loss_before"]
    assert first.figures["right_after"] > 0.9
    for name, value in first.tensors.items():
        np.testing.assert_array_equal(value, second.tensors[name])
    cases = package.golden["head"]
    standby = OnnxRuntimeEngine(package, "head", EngineOptions()).standby(first.tensors)
    said = unpack(first.answers, [case.outputs for case in cases])
    assert len(said) == len(cases)
    for case, right in zip(cases, said, strict=True):
        assert difference(right, standby.run(case.inputs), TOLERANCE) is None
    assert any(
        difference(c.outputs, right, TOLERANCE) for c, right in zip(cases, said, strict=True)
    )
    ground = [name for name in first.tensors if "ground" in name or "calibration" in name]
    assert ground
    for name in ground:
        np.testing.assert_array_equal(first.tensors[name], package.refinable_weights()[name])


def test_a_head_that_is_no_better_stays_at_home(package: Package, clips: list[Clip]) -> None:
    lessons = _lessons(package, clips, 18)
    wrong = [
        lesson if lesson.held_back else replace(lesson, completion=1 - lesson.completion)
        for lesson in lessons
    ]
    adaptation = HeadAdaptation(
        package, AdaptationOptions(steps=100, learning_rate=2e-3, drift=1.0)
    )
    adapted = adaptation.adapt(wrong, None, 1)
    assert adapted.tensors is None and "no better" in adapted.refused
    few = adaptation.adapt(lessons[:4], None, 1)
    assert few.tensors is None and "of each needed" in few.refused
    strict = HeadAdaptation(package, AdaptationOptions(steps=100, learning_rate=4e-3, drift=1e-6))
    assert "other instructions" in strict.adapt(lessons, None, 1).refused


def test_the_anchor_keeps_what_is_said_of_other_instructions(
    package: Package, clips: list[Clip]
) -> None:
    lessons = _lessons(package, clips, 18)
    drift = [
        HeadAdaptation(
            package, AdaptationOptions(steps=100, learning_rate=4e-3, anchor=anchor, drift=1.0)
        )
        .adapt(lessons, None, 1)
        .figures["drift"]
        for anchor in (0.0, 3.0)
    ]
    assert drift[1] < 0.7 * drift[0]


def test_a_package_of_another_network_or_without_its_instructions_is_refused(
    package: Package, tmp_path: Path
) -> None:
    with pytest.raises(PackageError, match="edge model"):
        HeadAdaptation(make_package(tmp_path / "policy"), AdaptationOptions())
    bare = replace(package, manifest=msgspec.structs.replace(package.manifest, trained_on={}))
    with pytest.raises(ConfigError, match="instructions"):
        HeadAdaptation(bare, AdaptationOptions())
