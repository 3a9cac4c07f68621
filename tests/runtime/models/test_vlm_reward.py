"""A vision-language package beside the loop: its frames, its scores, its end of an episode."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import cv2
from tiny_vlm import build_vlm, some_video

from contracts.errors import EntracteError
from contracts.frames import Video
from contracts.reward import RewardSignal
from contracts.specs import observation_differences
from export.vlm import VlmOptions, export_vlm
from runtime.config import RewardSection
from runtime.engines import EngineOptions
from runtime.models import vlm_reward
from runtime.models.vlm import open_scorer
from runtime.models.vlm_reward import VlmRunner
from trainer.rewards.vlm.asking import Asking

TASK = "open the drawer"
SIZE = (80, 60)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("vlm")
    for row, image in enumerate(moments(8)):
        cv2.imwrite(str(folder / f"{row}.png"), image)
    asking = Asking(most_frames=4, least_mass=0.0, completion_threshold=0.9)
    options = VlmOptions((TASK,), camera_size=SIZE, pixels=64 * 48, asking=asking)
    checkpoint = build_vlm(folder / "checkpoint")
    return export_vlm(str(checkpoint), folder, folder / "package", options)


def moments(count: int) -> np.ndarray:
    return some_video(count, width=SIZE[0], height=SIZE[1]).views["front"]


def runner_of(package: Any, **section: float) -> VlmRunner:
    scorer = open_scorer(package, EngineOptions())
    return VlmRunner(package, scorer, RewardSection(**section), 30.0)  # type: ignore[arg-type]


def run_with(width: int, height: int) -> Any:
    camera = SimpleNamespace(width=width, height=height)
    return SimpleNamespace(config=SimpleNamespace(cameras={"front": camera}))


def test_a_moment_is_scored_with_all_the_frames_before_it(package: Any) -> None:
    runner = runner_of(package)
    assert runner.every == 15 and runner.is_due(30) and not runner.is_due(31)
    images = moments(5)
    for episode in range(2):
        runner.begin_episode(TASK)
        for row, image in enumerate(images):
            signal = runner.score({"front": image}, 15 * row)
        steps = 15 * np.arange(5)
        whole = Video({"front": images}, steps / 30.0, steps)
        other = open_scorer(package, EngineOptions()).score(whole, TASK)
        assert signal.score_distribution == pytest.approx(other.score_distribution, abs=1e-6)
        assert signal.step == 60 and not signal.abstained, episode
    runner.close()


def test_what_cannot_be_scored_abstains_and_a_foreign_camera_is_known_at_the_start(
    package: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = runner_of(package)
    runner.warm_up(run_with(*SIZE))
    with pytest.raises(EntracteError, match="would be shown as"):
        runner.warm_up(run_with(640, 200))
    for _ in range(2):
        runner.begin_episode("dance")
    said = capsys.readouterr().err
    assert said.count("abstains throughout: instruction 'dance' is not in the package") == 1
    assert "'dance' is not in the package" in runner.score({"front": moments(1)[0]}, 0).abstained
    runner.begin_episode(TASK)
    assert "no picture of camera 'front'" in runner.score({}, 0).abstained
    runner.close()


@pytest.mark.parametrize(
    "spoilt",
    [np.zeros((0, 4, 3), np.uint8), np.zeros((60, 80), np.uint8), np.zeros((60, 80, 3)), None],
)
def test_a_moment_that_cannot_be_shown_abstains_and_those_after_it_are_scored(
    package: Any, spoilt: Any
) -> None:
    runner = runner_of(package)
    runner.begin_episode(TASK)
    images = moments(2)
    runner.score({"front": images[0]}, 0)
    # Without a spoilt picture: a step that was there before.
    signal = (
        runner.score({"front": images[0]}, 0)
        if spoilt is None
        else runner.score({"front": spoilt}, 15)
    )
    assert signal.abstained.startswith("no moment of the video") and np.isnan(signal.process)
    assert not runner.score({"front": images[1]}, 30).abstained
    runner.close()


def test_large_pictures_are_kept_in_bounds(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = package.manifest.vlm.picture
    size = 3 * picture.width * picture.height
    monkeypatch.setattr(vlm_reward, "_MOST_BYTES", 7 * size)
    runner = runner_of(package)
    assert runner._frames.nbytes == 6 * size
    runner.begin_episode(TASK)
    for row, image in enumerate(moments(9)):
        assert not runner.score({"front": image}, 15 * row).abstained
    runner.close()


def test_an_episode_ends_when_completion_was_sure_for_long_enough(package: Any) -> None:
    runner = runner_of(package, end_after_s=1.0)
    runner.begin_episode(TASK)
    sure, unsure, none = (RewardSignal(0, 0.5, c) for c in (0.95, 0.5, float("nan")))
    said = [runner.is_complete(s) for s in (sure, sure, none, sure, sure, unsure, *[sure] * 3)]
    assert said == [False] * 8 + [True]
    runner.close()


def test_a_long_episode_keeps_its_first_and_last_frames(
    package: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm_reward, "_MOST_KEPT", 4)
    runner = runner_of(package)
    runner.begin_episode(TASK)
    for row, image in enumerate(moments(9)):
        assert not runner.score({"front": image}, 15 * row).abstained
    assert runner._steps[0] == 0 and runner._steps[-1] == 120 and len(runner._steps) <= 4
    runner.close()


def test_a_model_that_looks_at_pictures_alone_fits_any_joints(package: Any) -> None:
    from tiny_package import OBSERVATION

    seen = package.manifest.observation
    assert not observation_differences(seen, OBSERVATION)
    import msgspec

    other = msgspec.structs.replace(OBSERVATION, cameras=())
    assert any("front" in one for one in observation_differences(seen, other))
