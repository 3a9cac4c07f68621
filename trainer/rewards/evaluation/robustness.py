"""Robustness of any `VideoRewardModel`: what must not change its verdict, and what must. Seeded.

A verdict is "called done" or not (abstained counts as not); abstentions are shown beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from contracts.frames import Video
from contracts.language import words
from trainer.interfaces import VideoRewardModel
from trainer.judgement import judge
from trainer.rewards.episodes import end_rows
from trainer.rewards.evaluation import metrics, perturb
from trainer.rewards.evaluation.bootstrap import Figure, resamples, with_interval
from trainer.rewards.evaluation.cases import Case
from trainer.rewards.evaluation.measure import (
    LEAST_MOTION,
    contrast,
    pair_video,
    pairs_of,
    signals_of,
)

SWAP_LIMIT = 1e-6
CROSSING_LIMIT = 0.05
SIDED = frozenset({"left", "right"})
MOMENTS = 10


@dataclass(frozen=True)
class Check:
    """One line of the table. `limit`: what is asked for, "" where nothing is; `kept`: whether it holds."""

    perturbation: str
    meaning: str
    figure: Figure
    episodes: int
    limit: str = ""
    kept: bool | None = None

    def as_dict(self) -> dict[str, object]:
        return {
            "perturbation": self.perturbation,
            "meaning": self.meaning,
            "figure": self.figure.as_list(),
            "episodes": self.episodes,
            "limit": self.limit,
            "kept": self.kept,
        }


@dataclass
class _Tally:
    """What each check found, a value an episode (or several): check -> group -> values."""

    values: dict[str, list[tuple[str, float]]] = field(default_factory=dict)

    def add(self, check: str, case: Case, value: float) -> None:
        if not math.isnan(value):
            self.values.setdefault(check, []).append((case.group, value))


@dataclass(frozen=True)
class _End:
    done: bool
    abstained: bool
    process: float
    completion: float


def robustness(
    model: VideoRewardModel,
    cases: Sequence[Case],
    *,
    draws: int = 400,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> list[Check]:
    """Every check on every case that it makes sense for; `Check`s in the order of `LINES`."""
    tally = _Tally()
    for number, case in enumerate(cases):
        rng = np.random.default_rng([seed, number])
        video = case.load()
        end = _end(model, video, case.instruction)
        tally.add("plain abstained", case, end.abstained)
        _swap(tally, model, case, video, rng)
        _shuffle(tally, model, case, video, rng)
        _camera(tally, model, case, video, end, rng)
        _language(tally, model, case, video, end)
        if case.succeeded and end.done:
            after = _end(model, perturb.undone(video), case.instruction)
            tally.add("undone done", case, after.done)
            tally.add("undone abstained", case, after.abstained)
        if report:
            report(number + 1, len(cases))
    return [_check(tally, line, draws, seed) for line in LINES]


def _end(model: VideoRewardModel, video: Video, instruction: str) -> _End:
    rows = end_rows(model, video.times_s)
    signals = signals_of(model, video, instruction, rows)
    last = signals[-1]
    verdict = judge(signals, model.completion_threshold, model.completion_consecutive)
    return _End(verdict is True, verdict is None, last.process, last.completion)


def _swap(
    tally: _Tally, model: VideoRewardModel, case: Case, video: Video, rng: np.random.Generator
) -> None:
    for a, b in pairs_of(case, video, 4, rng).tolist():
        forth = contrast(model, pair_video(model, video, a, b), case.instruction)
        back = contrast(model, pair_video(model, video, b, a), case.instruction)
        tally.add("swap sum", case, abs(forth + back))
        tally.add("swap size", case, abs(forth))
        tally.add("swap abstained", case, float(math.isnan(forth + back)))


def _shuffle(
    tally: _Tally, model: VideoRewardModel, case: Case, video: Video, rng: np.random.Generator
) -> None:
    rows = np.unique(np.linspace(0, len(video) - 1, MOMENTS).round().astype(int))
    other, which = perturb.shuffled(video, rng)
    for name, shown, truth in (
        ("order rank", video, case.progress[rows]),
        ("shuffle rank", other, case.progress[which[rows]]),
    ):
        said = [s.process for s in signals_of(model, shown, case.instruction, rows.tolist())]
        process = np.array(said)
        known = np.isfinite(process) & np.isfinite(truth)
        if np.isfinite(truth).all() and np.ptp(truth) > LEAST_MOTION:
            found = metrics.spearman(process[known], truth[known])
            tally.add(name, case, 0.0 if math.isnan(found) else found)


def _camera(
    tally: _Tally,
    model: VideoRewardModel,
    case: Case,
    video: Video,
    end: _End,
    rng: np.random.Generator,
) -> None:
    others = {"crop": perturb.cropped(video, rng)}
    if not SIDED & {*words(case.instruction)}:
        others["flip"] = perturb.flipped(video)
    for name, other in others.items():
        seen = _end(model, other, case.instruction)
        tally.add(f"{name} changed", case, seen.done != end.done)
        tally.add(f"{name} abstained", case, seen.abstained)
        tally.add(f"{name} process", case, abs(seen.process - end.process))
        tally.add(f"{name} right", case, seen.done == case.succeeded)
    tally.add("plain right", case, end.done == case.succeeded)


def _language(tally: _Tally, model: VideoRewardModel, case: Case, video: Video, end: _End) -> None:
    if case.paraphrases:
        said = [_end(model, video, text) for text in case.paraphrases]
        tally.add("paraphrase crossing", case, any(s.done != end.done for s in said))
        tally.add("paraphrase abstained", case, any(s.abstained != end.abstained for s in said))
        tally.add("paraphrase process", case, max(abs(s.process - end.process) for s in said))
    if case.succeeded:
        for text in case.wrong:
            other = _end(model, video, text)
            tally.add("wrong done", case, other.done)
            tally.add("wrong abstained", case, other.abstained)
            both = metrics.instruction_accuracy(
                np.array([end.completion]), np.array([other.completion])
            )
            tally.add("wrong below", case, both)


@dataclass(frozen=True)
class _Line:
    key: str
    perturbation: str
    meaning: str
    limit: float | None = None
    largest: bool = False

    @property
    def share(self) -> bool:
        """Counted, not measured."""
        return self.key.split()[-1] not in ("sum", "size", "rank", "process")


LINES = (
    _Line("plain right", "none", "verdicts that are right"),
    _Line("plain abstained", "none", "ends abstained from"),
    _Line(
        "swap sum", "A/B swap", "largest |c(a,b) + c(b,a)| of a pair of frames", SWAP_LIMIT, True
    ),
    _Line(
        "swap size", "A/B swap", "mean |c(a,b)| (0: says nothing, and is antisymmetric for nothing)"
    ),
    _Line("swap abstained", "A/B swap", "pairs abstained from in either order (not in the above)"),
    _Line("order rank", "frame shuffle", "rank of process with true progress, frames in order"),
    _Line("shuffle rank", "frame shuffle", "the same, frames shuffled (a clock: about 0)"),
    _Line("crop changed", "camera crop (90 %)", "verdicts that change"),
    _Line("crop right", "camera crop (90 %)", "verdicts that are right"),
    _Line("crop abstained", "camera crop (90 %)", "ends abstained from"),
    _Line("crop process", "camera crop (90 %)", "mean change of process where both were judged"),
    _Line("flip changed", "camera flip", "verdicts that change"),
    _Line("flip right", "camera flip", "verdicts that are right"),
    _Line("flip abstained", "camera flip", "ends abstained from"),
    _Line("flip process", "camera flip", "mean change of process where both were judged"),
    _Line("paraphrase crossing", "paraphrase", "episodes whose verdict changes", CROSSING_LIMIT),
    _Line("paraphrase abstained", "paraphrase", "episodes abstained from in some wordings only"),
    _Line("paraphrase process", "paraphrase", "mean of an episode's largest change of process"),
    _Line("wrong done", "wrong task", "wrong instructions called done at a success"),
    _Line(
        "wrong below", "wrong task", "wrong instructions with less completion than the right one"
    ),
    _Line("wrong abstained", "wrong task", "wrong instructions abstained from"),
    _Line(
        "undone done",
        "drop after success",
        "successes still called done once played back to the start",
    ),
    _Line("undone abstained", "drop after success", "ends abstained from after that"),
)


def _check(tally: _Tally, line: _Line, draws: int, seed: int) -> Check:
    found = tally.values.get(line.key, [])
    limit = "" if line.limit is None else f"<= {line.limit:g}"
    if not found:
        return Check(line.perturbation, line.meaning, Figure(math.nan), 0, limit)
    groups = [group for group, _ in found]
    values = np.array([value for _, value in found])
    if line.largest:
        figure = Figure(float(values.max()))
    else:
        figure = with_interval(
            lambda index: float(values[index].mean()),
            len(values),
            resamples(groups, draws, seed),
            len({*groups}) if line.share else 0,
        )
    kept = None if line.limit is None else figure.value <= line.limit
    return Check(line.perturbation, line.meaning, figure, len({*groups}), limit, kept)
