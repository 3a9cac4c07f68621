"""Blind baselines, figures and the robustness suite, on cases small enough to know every answer.

The scene: one grey square; how bright it is, is the progress. The instruction says whether it is to get
bright or dark. A model that reads it is right everywhere; each blind one fails where it should.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal, abstain
from trainer.rewards.evaluation import perturb
from trainer.rewards.evaluation.blind import Clock, Constant, LastFrame, TextOnly
from trainer.rewards.evaluation.bootstrap import Figure
from trainer.rewards.evaluation.cases import Case, labelled, refuse_overlap
from trainer.rewards.evaluation.comparison import verdict
from trainer.rewards.evaluation.measure import measure
from trainer.rewards.evaluation.page import render
from trainer.rewards.evaluation.robustness import Check, robustness
from trainer.rewards.evaluation.suite import Calibrated, calibrate, evaluate_task

UP = ("make it bright", "make it light", "brighten it")
DOWN = "make it dark"


def case(number: int, progress: list[float]) -> Case:
    """An episode of "make it bright"; brightness is the progress, plus texture that tells left from right."""
    true = np.array(progress)
    texture = np.random.default_rng(number).integers(0, 12, (16, 16, 1), dtype=np.uint8)
    frames = (true[:, None, None, None] * 240).astype(np.uint8) + texture
    frames = np.repeat(frames, 3, axis=3)
    times = np.arange(len(true)) / 2.0

    def load() -> Video:
        return Video({"front": frames}, times, np.arange(len(true)))

    return Case(
        f"case {number}", str(number), "light", UP[0], true, true >= 0.9, load, UP[1:], (DOWN,)
    )


def cases(count: int, first: int = 0) -> list[Case]:
    """Half succeed; every other failure had come near before it fell back."""
    out = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        rise = np.sort(rng.random(16))
        if number % 2:
            rise = np.concatenate([rise[:9] * 0.8, rise[8::-1] * 0.5])
        else:
            rise = np.concatenate([rise * 0.8, [0.95, 1.0]])
        out.append(case(number, rise.tolist()))
    return out


class Eye:
    """Reads brightness; `swap` says how it compares two frames."""

    model_id = "eye"
    completion_threshold = 0.5
    completion_consecutive = 2
    contract = FrameContract("append", 2.0, 1, 1000)

    def __init__(self, compare: Callable[[float, float], float] = lambda a, b: b - a) -> None:
        self._compare = compare

    def score(self, video: Video, instruction: str) -> RewardSignal:
        if instruction == UP[2]:
            return abstain(int(video.steps[-1]), "never heard")
        light = [float(f.mean()) / 252.0 for f in video.views["front"]]
        seen = [1.0 - v for v in light] if instruction == DOWN else light
        return RewardSignal(
            int(video.steps[-1]),
            process=seen[-1],
            completion=1.0 / (1.0 + math.exp(-40.0 * (seen[-1] - 0.88))),
            contrastive=float(np.clip(self._compare(seen[max(0, len(seen) - 2)], seen[-1]), -1, 1)),
            uncertainty=0.1,
        )


@pytest.fixture(scope="module")
def fitted() -> list:
    return labelled(cases(40, first=1000), 6)


def test_a_model_that_sees_beats_the_blind_ones(fitted: list) -> None:
    mine = cases(30)
    report = evaluate_task("light", {"eye": Eye()}, mine, fitted, draws=200, with_robustness=False)
    (eye,) = report.models
    figures = {b.model: b.figures for b in report.baselines}
    assert eye.figures["rank"].value > 0.99
    assert eye.figures["auc"].value == 1.0
    assert eye.figures["balanced"].value == 1.0
    assert eye.figures["order"].value == 1.0
    assert eye.figures["language"].value == 1.0
    assert eye.figures["coverage"].low == pytest.approx(0.025 ** (1 / 30))
    # Each blind one is as good as it can be without what it lacks.
    assert figures["constant"]["auc"].value == 0.5
    assert figures["constant"]["order"].value == 0.5
    assert figures["text only"]["language"].value == 0.5
    assert 0.3 < figures["clock"]["rank"].value < 0.9
    assert figures["clock"]["auc"].value <= 0.5
    assert figures["last frame only"]["rank"].value > 0.9
    assert figures["last frame only"]["order"].value == 0.5
    said = report.as_dict()["against_baselines"]["eye"]  # type: ignore[index]
    assert said["order"] == "beats every baseline"
    assert said["tpr"] == said["fpr"] == said["coverage"] == "", "read together: no verdict on each"
    assert "does not beat last frame only" in said["auc"] + said["balanced"] + said["rank"]


def test_blind_baselines_say_what_the_training_labels_say(fitted: list) -> None:
    video = case(1, [0.0, 0.5, 1.0]).load()
    text = TextOnly(fitted).score(video, UP[0])
    ends = [m for m in fitted if m.end]
    assert text.completion == pytest.approx(np.mean([m.done for m in ends]))
    assert text.process == pytest.approx(np.mean([m.progress for m in ends]))
    # Unheard words: the likest instruction answers, not a guess.
    assert TextOnly(fitted).score(video, "please make it bright") == text
    constant = Constant.fitted(fitted).score(video, "anything")
    assert constant.process == pytest.approx(np.median([m.progress for m in ends]))
    clock = Clock(full_s=2.0)
    assert [clock.score(video.until(i), "").process for i in range(3)] == [0.0, 0.25, 0.5]
    last = LastFrame(fitted)
    said = [last.score(video.until(i), UP[0]).process for i in range(3)]
    assert said == pytest.approx([0.0, 0.5, 1.0], abs=0.12)
    assert last.score(video, UP[0]) == last.score(video.take([0, 2]), UP[0])
    with pytest.raises(EntracteError, match="must not be fitted on what is measured"):
        refuse_overlap(fitted, cases(1, first=1000))


def found(checks: list[Check], perturbation: str, meaning: str) -> Check:
    (check,) = [c for c in checks if c.perturbation == perturbation and meaning in c.meaning]
    return check


def test_the_suite_finds_what_is_built_in() -> None:
    mine = cases(16)
    checks = robustness(Eye(), mine, draws=100)
    assert found(checks, "A/B swap", "largest").figure.value < 1e-6
    assert found(checks, "A/B swap", "largest").kept
    assert found(checks, "A/B swap", "mean |c").figure.value > 0.1
    # It knows the second wording and not the third: successes cross, failures don't.
    assert found(checks, "paraphrase", "changes").figure.value == 0.5
    assert found(checks, "paraphrase", "changes").kept is False
    assert found(checks, "paraphrase", "some wordings").figure.value == 1.0
    # Brightness is the same mirrored; shuffling changes nothing for who looks.
    assert found(checks, "camera flip", "verdicts that change").figure.value == 0.0
    assert found(checks, "frame shuffle", "shuffled").figure.value > 0.99
    assert found(checks, "wrong task", "called done").figure.value == 0.0
    assert found(checks, "wrong task", "less completion").figure.value == 1.0
    assert found(checks, "drop after success", "still called done").figure.value == 0.0

    again = robustness(Eye(), mine, draws=100)
    assert again == checks
    clock = robustness(Clock(8.0), mine, draws=100)
    assert abs(found(clock, "frame shuffle", "shuffled").figure.value) < 0.4
    assert found(clock, "drop after success", "still called done").figure.value == 1.0
    assert found(clock, "A/B swap", "largest").kept is False


def test_a_comparison_that_is_not_odd_is_caught() -> None:
    def lazy(a: float, b: float) -> float:
        return b - a + 0.001

    check = found(robustness(Eye(lazy), cases(4), draws=20), "A/B swap", "largest")
    assert check.figure.value == pytest.approx(0.002)
    assert check.kept is False


def test_a_model_that_raises_abstains_and_misses() -> None:
    class Broken(Eye):
        def score(self, video: Video, instruction: str) -> RewardSignal:
            raise RuntimeError("no memory")

    result = measure(Broken(), cases(6), draws=20)
    assert result.figures["coverage"].value == 0.0
    assert result.figures["tpr"].value == 0.0
    assert result.figures["order"].value == 0.5
    assert result.figures["rank"].value == 0.0
    assert "no memory" in result.outcomes[0].end.abstained


def test_who_says_nothing_where_it_is_hard_gains_nothing_in_pairs() -> None:
    class Half(Eye):
        """Silent in the first half of an episode."""

        def score(self, video: Video, instruction: str) -> RewardSignal:
            if len(video) < 9:
                return abstain(int(video.steps[-1]), "too early")
            return super().score(video, instruction)

    mine = cases(6)
    whole, half = measure(Eye(), mine, draws=20), measure(Half(), mine, draws=20)
    assert whole.figures["pairwise"].value == 1.0
    # Of 12 moments some 6 are silent: pairs among them, and with others, count half.
    assert 0.5 < half.figures["pairwise"].value < 0.8


def test_an_interval_without_an_exception_counts_the_recordings_that_have_a_value() -> None:
    told = cases(12)
    still = [case(number, [1.0] * 8) for number in range(100, 108)]  # no motion: no pair of it
    mine = [replace(one, wrong=()) if n > 2 else one for n, one in enumerate(told)] + still[:4]
    mine += [replace(one, wrong=(), group=told[0].group) for one in still[4:]]
    figures = measure(Eye(), mine, draws=50).figures
    counted = {"order": 12, "pairwise": 12, "language": 6, "tpr": 10, "fpr": 6, "coverage": 16}
    for name, recordings in counted.items():
        exact = 0.025 ** (1 / recordings)
        width = figures[name].high - figures[name].low
        assert width == pytest.approx(1 - exact), name


def test_an_end_that_was_abstained_from_is_no_success_that_passed() -> None:
    class Shy(Eye):
        """Silent at every other success, and its numbers are numpy's."""

        completion_threshold = np.float32(0.5)

        def score(self, video: Video, instruction: str) -> RewardSignal:
            if len(video) == 18 and video.views["front"][0, 0, 0, 0] % 2:
                return abstain(int(video.steps[-1]), "never seen")
            return super().score(video, instruction)

    shy = measure(Shy(), cases(20), draws=5)
    fit = calibrate(Shy(), shy, cases(160, 500))
    assert isinstance(fit, Calibrated) and fit.passed_failures == 0.0
    assert math.isnan(fit.temperature), (
        "its ends lie apart: the likelihood rises to the search's limit"
    )
    assert 0.2 < fit.passed_successes < 0.8
    assert fit.passed_successes == pytest.approx(shy.figures["tpr"].value)
    assert msgspec.json.encode([shy.as_dict(), fit.as_dict()])


def test_a_few_validation_ends_recommend_no_threshold() -> None:
    few, more = cases(20, 500), cases(80, 500)
    for validation, said in (
        (few, "are too few (20 of each are enough)."),
        (more, "Threshold for"),
    ):
        report = evaluate_task(
            "light",
            {"eye": Eye()},
            cases(6),
            [],
            validation=validation,
            with_robustness=False,
            draws=5,
        )
        page = render([report], None, "How good", "")
        assert f"eye, {'not calibrated anew' if validation is few else 'fitted on 80'}" in page
        assert said in page
        assert msgspec.json.encode(report.as_dict())


def test_perturbations_do_what_they_say() -> None:
    video = case(3, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]).load()
    other, rows = perturb.shuffled(video, np.random.default_rng(0))
    assert rows[0] == 0
    assert sorted(rows) == list(range(6))
    assert (other.views["front"] == video.views["front"][rows]).all()
    assert (perturb.flipped(perturb.flipped(video)).views["front"] == video.views["front"]).all()
    back = perturb.undone(video)
    assert len(back) == 11
    assert (back.views["front"][-1] == video.views["front"][0]).all()
    crop = perturb.cropped(video, np.random.default_rng(0))
    assert crop.views["front"].shape == video.views["front"].shape
    assert (crop.views["front"] != video.views["front"]).any()


def test_words_are_as_strong_as_the_intervals() -> None:
    good, poor, wide = Figure(0.9, 0.85, 0.95), Figure(0.5, 0.4, 0.6), Figure(0.7, 0.5, 0.99)
    assert verdict(good, {"clock": poor}, True) == "beats every baseline"
    assert verdict(good, {"clock": poor, "text": wide}, True).startswith("does not beat text")
    assert (
        verdict(poor, {"clock": good, "text": wide}, True) == "WORSE than clock; does not beat text"
    )
    assert verdict(poor, {"clock": good}, False) == "beats every baseline"
    assert verdict(good, {"bare": Figure(0.1)}, True).startswith("does not beat bare")
    assert verdict(Figure(math.nan), {"clock": poor}, True) == "not measured"
