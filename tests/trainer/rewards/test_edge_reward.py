"""The package as the trainer scores with it: parity with torch, and every way to abstain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import PackageError
from contracts.frames import Video
from trainer.judgement import check_signals, judge
from trainer.rewards.data import Clip
from trainer.rewards.edge import EdgeReward
from trainer.rewards.evaluate import clock_scorer, constant_scorer, evaluate
from trainer.rewards.evaluation.blind import Constant
from trainer.rewards.evaluation.cases import cases_of_clips
from trainer.rewards.evaluation.measure import measure
from trainer.rewards.evaluation.metrics import roc_auc
from trainer.rewards.train_edge import Edge, embed_clip, score


@pytest.fixture(scope="module")
def package(edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from export.reward import export_reward
    from trainer.rewards.train_edge import save

    folder = tmp_path_factory.mktemp("reward")
    edge.trained_on = {"instructions": ["test"]}
    save(edge, folder / "model")
    return export_reward(folder / "model", folder / "package").folder


@pytest.fixture()
def reward(package: Path) -> EdgeReward:
    return EdgeReward(package=package, demonstrations=(), options={}, seed=0)


def _images(clip: Clip) -> dict[str, np.ndarray]:
    return {camera: clip.pictures(camera) for camera in ("front", "wrist")}


def test_the_package_answers_as_torch_does(
    reward: EdgeReward, edge: Edge, clips: list[Clip]
) -> None:
    clip = clips[1]
    said = clip.record.goals[0].instructions[0]
    signals = reward.score_frames(said, _images(clip), range(clip.record.frames), 6)
    expected = score(edge, embed_clip(edge.trunk, clip), said)
    for name in ("process", "completion", "contrastive"):
        found = [getattr(s, name) for s in signals]
        assert np.allclose(found, expected[name], atol=1e-4)
    assert check_signals(signals, clip.record.frames) == ""
    assert judge(signals, reward.completion_threshold, reward.completion_consecutive) is not None


def test_a_video_is_scored_as_the_episode_is(reward: EdgeReward, clips: list[Clip]) -> None:
    clip = clips[1]
    said = clip.record.goals[0].instructions[0]
    every = clip.record.rate_hz
    lag = round(reward._settings["earlier_s"] * every)
    frames = clip.record.frames
    whole = reward.score_frames(said, _images(clip), range(frames), lag)
    video = Video(_images(clip), np.arange(frames) / every, np.arange(frames))
    for row in (0, 2, frames - 1):
        now = reward.score(video.until(row), said)
        assert now.step == row
        assert now.process == pytest.approx(whole[row].process, abs=1e-5)
        assert now.completion == pytest.approx(whole[row].completion, abs=1e-5)
        assert now.contrastive == pytest.approx(whole[row].contrastive, abs=1e-5)
    assert "unknown words" in reward.score(video, "polish the red cube").abstained


def test_many_videos_in_one_pass_are_scored_as_one_by_one(
    reward: EdgeReward, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    for clip in clips[:4]:
        said = clip.record.goals[0].instructions[0]
        frames = clip.record.frames
        whole = Video(_images(clip), np.arange(frames) / 3.0, np.arange(frames))
        requests += [(whole, said), (whole.until(0), said), (whole, "juggle the teapots")]
    alone = [reward.score(*request) for request in requests]
    passes = []
    run = reward._run_head
    monkeypatch.setattr(
        reward, "_run_head", lambda *given: passes.append(len(given[0])) or run(*given)
    )
    together = reward.score_batch(requests)
    assert passes == [8], "what has unknown words is not asked"
    for one, other in zip(alone, together, strict=True):
        assert (one.step, one.abstained) == (other.step, other.abstained)
        for name in ("process", "completion", "contrastive"):
            assert np.allclose(getattr(one, name), getattr(other, name), atol=1e-5, equal_nan=True)


def test_larger_pictures_are_scaled(reward: EdgeReward, clips: list[Clip]) -> None:
    clip = clips[1]
    said = clip.record.goals[0].instructions[0]
    large = {c: np.repeat(np.repeat(v, 2, axis=1), 2, axis=2) for c, v in _images(clip).items()}
    small = reward.score_frames(said, _images(clip), range(clip.record.frames), 6)
    big = reward.score_frames(said, large, range(clip.record.frames), 6)
    assert np.allclose([s.process for s in small], [s.process for s in big], atol=1e-3)


def test_unknown_words_abstain(reward: EdgeReward, clips: list[Clip]) -> None:
    episode = _Episode(clips[1], "polish the red cube")
    signals = reward.score_episode(episode)  # type: ignore[arg-type]
    assert all("unknown words: polish" in s.abstained for s in signals)
    assert signals[-1].step == episode.steps - 1
    assert judge(signals, 0.5, 2) is None


def test_an_episode_is_scored_at_the_models_rate(reward: EdgeReward, clips: list[Clip]) -> None:
    episode = _Episode(clips[1], clips[1].record.goals[0].instructions[0])
    signals = reward.score_episode(episode)  # type: ignore[arg-type]
    steps = [s.step for s in signals]
    assert steps[0] == 0
    assert steps[-1] == episode.steps - 1
    assert set(np.diff(steps[:-1])) == {3}


def test_not_finite_values_abstain(reward: EdgeReward, clips: list[Clip]) -> None:
    class Broken:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.full(len(feed["current"]), np.nan, np.float32) for _ in names]

    reward._head = Broken()  # type: ignore[assignment]
    signals = reward.score_frames("open the tray", _images(clips[1]), range(3), 6)
    assert all(s.abstained == "the model's output is not finite" for s in signals)


def test_an_exception_abstains(reward: EdgeReward, clips: list[Clip]) -> None:
    class Failing:
        def run(self, *_: Any) -> list[np.ndarray]:
            raise RuntimeError("out of memory")

    reward._trunk = Failing()  # type: ignore[assignment]
    signals = reward.score_frames("open the tray", _images(clips[1]), range(3), 6)
    assert all("out of memory" in s.abstained for s in signals)
    assert not any(s.completion == 0.0 for s in signals)


def test_strange_pictures_abstain(reward: EdgeReward) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), dtype=np.uint8)
    signals = reward.score_frames("open the tray", {"front": noise, "wrist": noise}, range(3), 6)
    assert all("outside the model's ground" in s.abstained for s in signals)


def test_no_package_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="needs a package"):
        EdgeReward(package=None)
    with pytest.raises(PackageError, match="no model package"):
        EdgeReward(package=tmp_path / "nowhere")


def test_a_clock_does_not_pass_at_matched_times(clips: list[Clip]) -> None:
    assert roc_auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == 0.875
    assert np.isnan(roc_auc(np.zeros(0), np.ones(2)))
    for scorer in (constant_scorer, clock_scorer):
        report = evaluate(scorer, clips, "baseline", "open_tray")
        assert report.episodes == 2
        assert report.figures["language"].value == 0.5, "deaf"


def test_the_quick_look_hides_no_abstention_and_means_what_the_whole_evaluation_means(
    clips: list[Clip],
) -> None:
    def never_says(clip: Clip, _: str) -> dict[str, np.ndarray]:
        nothing = np.full(clip.record.frames, np.nan)
        return dict.fromkeys(("process", "completion", "contrastive"), nothing)

    silent = evaluate(never_says, clips, "silent", "open_tray").figures
    verdicts = [silent[name] for name in ("tpr", "fpr", "coverage")]
    said = [figure for figure in verdicts if not np.isnan(figure.value)]
    assert len(said) >= 2, "of successes or failures, and of all"
    assert all(figure.value == 0.0 and figure.high > 0.8 for figure in said), "of two episodes"
    assert "coverage 0.000 [0.000, " in evaluate(never_says, clips, "silent", "open_tray").line()

    cases = cases_of_clips([clip for clip in clips if clip.record.task == "open_tray"])
    whole = measure(Constant(), cases, draws=20).figures
    quick = evaluate(constant_scorer, clips, "constant", "open_tray").figures
    for name in ("auc", "tpr", "fpr", "order", "language", "coverage"):
        assert str(quick[name].value) == str(whole[name].value), name
    assert quick["order"].value == quick["language"].value == 0.5


class _Session:
    class action:
        rate_hz = 10.0


class _Episode:
    """A stored episode of a clip: three steps for each of its frames."""

    session = _Session

    def __init__(self, clip: Clip, instruction: str) -> None:
        self._clip, self.instruction, self.steps = clip, instruction, 3 * clip.record.frames

    def frames(self, camera: str, indices: list[int]) -> np.ndarray:
        return self._clip.pictures(camera, [i // 3 for i in indices])
