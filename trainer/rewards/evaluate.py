"""Measures a reward model on every frame of clips with known truth: the quick look.

Figures and intervals are `evaluation.measure`'s, here over all frames of an episode. Earlier frames as
negatives would let a clock score well (at matched times it gets about one half or less).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.reward import RewardSignal, abstain
from trainer.judgement import judge
from trainer.rewards.data import Clip
from trainer.rewards.evaluation.bootstrap import Figure
from trainer.rewards.evaluation.cases import Case, cases_of_clips
from trainer.rewards.evaluation.measure import (
    LEAST_GAP,
    STATISTICS,
    Outcome,
    Statistic,
    mean,
    rank_in,
    summary,
)
from trainer.rewards.evaluation.metrics import spearman
from trainer.rewards.evaluation.nearest import NearestDemonstrations

Signals = dict[str, np.ndarray]
Scorer = Callable[[Clip, str], Signals]
"""(clip, instruction) -> process, completion, contrastive (and ground) of every frame [T]; NaN: abstained."""

LAG = 6
DRAWS = 200


@dataclass(frozen=True)
class Report:
    """What was found on one task, with 95 % intervals over recordings."""

    model: str
    task: str
    episodes: int
    successes: int
    figures: dict[str, Figure]

    def line(self) -> str:
        head = f"{self.model:<22} {self.task:<12} n={self.episodes} ({self.successes} succeeded)"
        return "  ".join([head, *(f"{name} {found}" for name, found in self.figures.items())])

    def as_dict(self) -> dict[str, object]:
        """For JSON: NaN is None, and who has no interval is not among them."""

        def plain(value: float) -> float | None:
            return None if math.isnan(value) else round(value, 4)

        return {
            "model": self.model,
            "task": self.task,
            "episodes": self.episodes,
            "successes": self.successes,
            "figures": {k: plain(f.value) for k, f in self.figures.items()},
            "intervals": {
                k: [plain(f.low), plain(f.high)]
                for k, f in self.figures.items()
                if not math.isnan(f.low)
            },
        }


def fired(completion: np.ndarray, threshold: float, consecutive: int) -> int:
    """The first frame at which the robot would end the episode, or -1."""
    run = 0
    for index, value in enumerate(completion):
        run = run + 1 if value >= threshold else 0
        if run >= consecutive:
            return index
    return -1


def evaluate(
    scorer: Scorer,
    clips: Iterable[Clip],
    model: str,
    task: str,
    *,
    threshold: float = 0.5,
    consecutive: int = 2,
    seed: int = 0,
) -> Report:
    """Figures of one model on the played clips of one task."""
    mine = [clip for clip in clips if clip.record.rate_hz and clip.record.task == task]
    outcomes = [
        _observe(scorer, clip, case, threshold, consecutive)
        for clip, case in zip(mine, cases_of_clips(mine), strict=True)
    ]

    def false_stop(found: Sequence[Outcome]) -> float:
        return mean([_stopped_early(o, threshold, consecutive) for o in found])

    statistics: dict[str, Statistic] = {
        **{name: STATISTICS[name] for name in ("auc", "tpr", "fpr")},
        "false_stop": false_stop,
        "rho_success": lambda found: mean([o.rank for o in found if o.case.succeeded]),
        "rho_failure": lambda found: mean([o.rank for o in found if not o.case.succeeded]),
        **{name: STATISTICS[name] for name in ("order", "language", "coverage")},
    }
    measured = summary(model, threshold, outcomes, DRAWS, seed, statistics)
    return Report(model, task, measured.episodes, measured.successes, measured.figures)


def _observe(scorer: Scorer, clip: Clip, case: Case, threshold: float, consecutive: int) -> Outcome:
    """All frames; a pair of frames to order is one and that `LAG` before it. Kendall's tau and the pairs of
    moments are not among the quick figures."""
    found = scorer(clip, case.instruction)
    signals = [_signal(found, step) for step in range(len(case.success))]
    progress, process = case.progress, np.array([s.process for s in signals])
    gap = progress - progress[np.maximum(np.arange(len(progress)) - LAG, 0)]
    clear = np.abs(gap) > LEAST_GAP
    wrong = [
        scorer(clip, text)["completion"][-1] for text in (case.wrong if case.succeeded else ())
    ]
    return Outcome(
        case,
        tuple(range(len(signals))),
        tuple(signals),
        judge(signals, threshold, consecutive),
        rank_in(spearman, process, progress),
        math.nan,
        math.nan,
        np.array(found["contrastive"], np.float64)[clear],
        gap[clear],
        signals[-1].completion,
        np.array(wrong, np.float64),
    )


def _signal(found: Signals, step: int) -> RewardSignal:
    process, completion = (float(found[name][step]) for name in ("process", "completion"))
    if math.isnan(process) and math.isnan(completion):
        return abstain(step, "no value")
    return RewardSignal(step, process, completion, float(found["contrastive"][step]))


def _stopped_early(outcome: Outcome, threshold: float, consecutive: int) -> float:
    """1.0 where the robot would have ended the episode, and not at a frame where it was done."""
    when = fired(outcome.completions, threshold, consecutive)
    near = outcome.case.success[max(0, when - 1) : when + 2]
    return float(when >= 0 and not near.any())


def constant_scorer(clip: Clip, instruction: str) -> Signals:
    del instruction
    flat = np.full(clip.record.frames, 0.5)
    return {"process": flat, "completion": flat, "contrastive": flat * 0.0}


def clock_scorer(clip: Clip, instruction: str) -> Signals:
    """Progress is time: what a rank correlation alone can't tell from a good model."""
    del instruction
    time = np.minimum(np.arange(clip.record.frames) / 40.0, 1.0)
    return {"process": time, "completion": time, "contrastive": np.ones_like(time)}


def nearest_scorer(
    embed: Callable[[Clip], np.ndarray], demonstrations: Sequence[np.ndarray], lag: int = LAG
) -> Scorer:
    """Nearest demonstration frame by frozen features: the baseline that a learned match must beat.

    See `NearestDemonstrations`. `demonstrations`: embeddings [T, D] of each.
    """
    nearest = NearestDemonstrations(demonstrations)

    def score(clip: Clip, instruction: str) -> Signals:
        del instruction
        process, completion = nearest.read(embed(clip))
        earlier = process[np.maximum(np.arange(len(process)) - lag, 0)]
        return {"process": process, "completion": completion, "contrastive": process - earlier}

    return score
