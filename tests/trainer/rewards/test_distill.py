"""A teacher's scores as labels."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import ConfigError, EntracteError
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal, abstain
from trainer.rewards import recipe
from trainer.rewards.data import BatchSampler, Clip
from trainer.rewards.distill import relabel
from trainer.rewards.opening import open_video_model, options_of
from trainer.rewards.train_edge import Edge, TrainSettings, calibrate


class Gauge:
    """Judges by the brightness of the last frame; abstains where the instruction says so."""

    model_id = "gauge"
    contract = FrameContract("last")
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, refuses: str = "nothing of the sort") -> None:
        self.refuses = refuses

    def score(self, video: Video, instruction: str) -> RewardSignal:
        step = int(video.steps[-1])
        if self.refuses in instruction:
            return abstain(step, "asked not to", self.model_id)
        value = float(video.views["front"][-1].mean()) / 255.0
        return RewardSignal(step, value, float(len(video) > 5), model_id=self.model_id)


@pytest.fixture()
def played(clips: list[Clip]) -> list[Clip]:
    return [clip for clip in clips if clip.record.rate_hz]


def test_labels_are_the_teachers_and_no_others(clips: list[Clip], played: list[Clip]) -> None:
    taught = relabel(Gauge(), clips, scores_per_s=10.0, goals=1)
    assert len(taught.clips) == len(played)
    for old, new in zip(played, taught.clips, strict=True):
        assert len(new.record.goals) == min(2, len(old.record.goals))
        brightness = old.pictures("front").mean(axis=(1, 2, 3)) / 255.0
        assert np.allclose(new.progress[0], brightness, atol=1e-6)
        assert new.success[0].tolist() == [row > 4 for row in range(old.record.frames)]
        assert np.isnan(new.points).all()


def test_between_two_scores_progress_runs_on_a_line(played: list[Clip]) -> None:
    (clip,) = relabel(Gauge(), played[:1], scores_per_s=0.5, goals=0).clips
    brightness = played[0].pictures("front").mean(axis=(1, 2, 3)) / 255.0
    every = round(played[0].record.rate_hz / 0.5)
    assert clip.progress[0][0] == pytest.approx(brightness[0], abs=1e-6)
    middle = (brightness[0] + brightness[every]) / 2
    assert clip.progress[0][every // 2] == pytest.approx(middle, abs=0.05 * abs(middle) + 0.01)


def test_what_the_teacher_abstains_from_teaches_nothing(played: list[Clip]) -> None:
    said = played[0].record.goals[0].instructions[0]
    taught = relabel(Gauge(said), played[:1], scores_per_s=2.0, goals=2)
    assert taught.abstained == 1
    assert said not in [g.instructions[0] for g in taught.clips[0].record.goals]
    with pytest.raises(EntracteError, match="labelled no clip"):
        relabel(Gauge(""), played, scores_per_s=2.0, goals=2)


def test_another_goal_does_not_take_the_place_of_one_that_was_tried(
    edge: Edge, played: list[Clip]
) -> None:
    said = played[0].record.goals[0].instructions[0]
    (clip,) = relabel(Gauge(said), played[:1], scores_per_s=2.0, goals=3).clips
    none = replace(clip, success=np.zeros_like(clip.success))
    tried = replace(played[0], success=np.zeros_like(played[0].success))
    assert calibrate(deepcopy(edge), [none, tried], 0.02)["failed_episodes"] == 1.0
    length, rng = edge.shape.instruction_length, np.random.default_rng(0)
    for one, drawn in ((none, {0, 1, 2}), (tried, {0})):
        sampler = BatchSampler([one], edge.vocabulary, length, rng, goals=1)
        assert {sampler._goals(one)[0] for _ in range(40)} == drawn


def test_a_student_learns_what_its_teacher_says(
    clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainSettings(steps=3, clips_per_batch=2, frames=3, goals=2, bfloat16=False)

    def label(clips: list[Clip]) -> list[Clip]:
        return relabel(Gauge(), clips, scores_per_s=2.0, goals=1).clips if clips else []

    # The few clips of this test hold none of the kept pairs.
    monkeypatch.setattr(recipe, "validation_part", list)
    edge, figures = recipe.train_zero_shot([clip_folder], [], settings, None, label, "distilled")
    assert edge.provenance is not None
    assert edge.provenance.notes == "distilled"
    assert 0.5 <= figures["threshold"] <= 0.99


def test_a_teacher_that_needs_labels_is_refused() -> None:
    with pytest.raises(ConfigError, match="judges whole episodes"):
        open_video_model("success")


def test_options_are_yaml() -> None:
    assert options_of(["threads=2", "cameras=[front, wrist]"]) == {
        "threads": 2,
        "cameras": ["front", "wrist"],
    }
    with pytest.raises(ConfigError, match="key=value"):
        options_of(["threads"])
