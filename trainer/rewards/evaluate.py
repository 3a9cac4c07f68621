"""Measures a reward model on every frame of clips with known truth: the quick look.

Completion is ranked at matched times: success frames against the *last* frames of failures. Earlier frames
as negatives would let a clock score well (it gets about one half or less here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trainer.rewards.data import Clip
from trainer.rewards.evaluation.metrics import roc_auc, spearman
from trainer.rewards.evaluation.nearest import NearestDemonstrations

Signals = dict[str, np.ndarray]
Scorer = Callable[[Clip, str], Signals]
"""(clip, instruction) -> process, completion, contrastive (and ground) of every frame [T]."""

LAG = 6


@dataclass(frozen=True)
class Report:
    """What was found on one task; every interval is a 95 % bootstrap over episodes."""

    model: str
    task: str
    episodes: int
    successes: int
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]

    def line(self) -> str:
        shown = []
        for name, value in self.figures.items():
            low, high = self.intervals.get(name, (math.nan, math.nan))
            shown.append(
                f"{name} {value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if not math.isnan(low) else "")
            )
        head = f"{self.model:<22} {self.task:<12} n={self.episodes} ({self.successes} succeeded)"
        return f"{head}  " + "  ".join(shown)

    def as_dict(self) -> dict[str, object]:
        """For JSON: NaN is None."""

        def plain(value: float) -> float | None:
            return None if math.isnan(value) else round(value, 4)

        return {
            "model": self.model,
            "task": self.task,
            "episodes": self.episodes,
            "successes": self.successes,
            "figures": {k: plain(v) for k, v in self.figures.items()},
            "intervals": {k: [plain(v) for v in pair] for k, pair in self.intervals.items()},
        }


def judged(completion: np.ndarray, threshold: float, consecutive: int) -> bool:
    """The trainer's verdict on an episode: its last `consecutive` completions all pass."""
    return bool((completion[-consecutive:] >= threshold).all())


def fired(completion: np.ndarray, threshold: float, consecutive: int) -> int:
    """The first frame at which the robot would end the episode, or -1."""
    run = 0
    for index, value in enumerate(completion):
        run = run + 1 if value >= threshold else 0
        if run >= consecutive:
            return index
    return -1


@dataclass(frozen=True)
class _Row:
    """What one episode adds to the figures."""

    succeeded: bool
    positives: np.ndarray
    negative: float
    verdict: bool
    fired: int
    fired_true: bool
    correlation: float
    ordered: np.ndarray
    wrong: np.ndarray


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
    rows = [
        _row(scorer, clip, threshold, consecutive)
        for clip in clips
        if clip.record.rate_hz and clip.record.task == task
    ]
    figures = _figures(rows)
    rng = np.random.default_rng(seed)
    draws = [
        _figures([rows[i] for i in rng.integers(len(rows), size=len(rows))]) for _ in range(200)
    ]
    intervals = {}
    for name in figures:
        values = np.array([draw[name] for draw in draws])
        values = values[np.isfinite(values)]
        if len(values) > 50:
            intervals[name] = (
                float(np.percentile(values, 2.5)),
                float(np.percentile(values, 97.5)),
            )
    return Report(model, task, len(rows), sum(r.succeeded for r in rows), figures, intervals)


def _row(scorer: Scorer, clip: Clip, threshold: float, consecutive: int) -> _Row:
    said = clip.record.goals[0].instructions[0]
    signals = scorer(clip, said)
    success, progress = clip.success[0], clip.progress[0]
    # An abstention never passes for done; at the end of a success it counts as a miss.
    completion = np.nan_to_num(signals["completion"], nan=0.0)
    # Nothing was learned of an order where it abstained: 0 there would be right at every start.
    known = np.isfinite(signals["process"])
    rank = spearman(signals["process"][known], progress[known])
    when = fired(completion, threshold, consecutive)
    gap = progress - progress[np.maximum(np.arange(len(progress)) - LAG, 0)]
    clear = np.abs(gap) > 0.1
    wrong: list[float] = []
    done = np.flatnonzero(success)
    if len(done):
        for goal, met in zip(clip.record.goals[1:], clip.success[1:], strict=True):
            if not met[done[-1]]:
                other = scorer(clip, goal.instructions[0])["completion"][done[-1]]
                wrong.append(float(other < completion[done[-1]]))
    return _Row(
        succeeded=bool(success[-1]),
        positives=completion[success] if success[-1] else completion[:0],
        negative=math.nan if success[-1] else float(completion[-1]),
        verdict=judged(completion, threshold, consecutive),
        fired=when,
        fired_true=bool(when >= 0 and success[max(0, when - 1) : when + 2].any()),
        correlation=0.0 if math.isnan(rank) and not known.all() else rank,
        ordered=(np.sign(signals["contrastive"]) == np.sign(gap))[clear].astype(float),
        wrong=np.array(wrong),
    )


def _figures(rows: Sequence[_Row]) -> dict[str, float]:
    good = [r for r in rows if r.succeeded]
    bad = [r for r in rows if not r.succeeded]

    def mean(values: Iterable[float]) -> float:
        found = [v for v in values if not math.isnan(v)]
        return float(np.mean(found)) if found else math.nan

    return {
        "auc": roc_auc(
            np.concatenate([r.positives for r in good]) if good else np.zeros(0),
            np.array([r.negative for r in bad]),
        ),
        "tpr": mean(float(r.verdict) for r in good),
        "fpr": mean(float(r.verdict) for r in bad),
        "false_stop": mean(float(r.fired >= 0 and not r.fired_true) for r in rows),
        "rho_success": mean(r.correlation for r in good),
        "rho_failure": mean(r.correlation for r in bad),
        "order": mean(np.concatenate([r.ordered for r in rows])) if rows else math.nan,
        "language": mean(np.concatenate([r.wrong for r in rows])) if rows else math.nan,
    }


def constant_scorer(clip: Clip, instruction: str) -> Signals:
    del instruction
    flat = np.full(clip.record.frames, 0.5)
    return {"process": flat, "completion": flat, "contrastive": flat * 0.0}


def clock_scorer(clip: Clip, instruction: str) -> Signals:
    """Progress is time: what a rank correlation alone can't tell from a good model."""
    del instruction
    time = np.arange(clip.record.frames) / 40.0
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
