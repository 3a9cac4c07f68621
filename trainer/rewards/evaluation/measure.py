"""Measures any `VideoRewardModel` on cases with known truth. Owns the figures' definitions and intervals.

Completion is ranked at matched times: success frames against the *last* frames of failures. An abstention
never passes for done; it is a miss at a success, half a pair in comparisons, and nothing learned in a rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import VideoRewardModel
from trainer.judgement import judge
from trainer.rewards.episodes import end_rows, score_moments
from trainer.rewards.evaluation import metrics
from trainer.rewards.evaluation.bootstrap import Figure, resamples, with_interval
from trainer.rewards.evaluation.cases import Case

MOMENTS = 12
PAIRS = 6
LEAST_GAP, LEAST_APART_S = 0.1, 1.0
"""A pair of frames is compared where true progress differs by more than this, at least so far apart."""
LEAST_MOTION = 0.05
"""An episode whose true progress moves by less has no order to find."""
PAIR_TIMES_S = (0.0, 10.0, 12.0)
"""When the frames of a pair are said to have been: the first of the episode, then two 2 s apart."""

HIGHER_IS_BETTER = {
    "rank": True,
    "kendall": True,
    "pairwise": True,
    "order": True,
    "auc": True,
    "fpr_at_tpr80": False,
    "tpr": True,
    "fpr": False,
    "balanced": True,
    "ece": False,
    "aurc": False,
    "language": True,
    "coverage": True,
}
NO_SHARES = ("rank", "rho_success", "rho_failure", "kendall", "ece")
"""Of 0 or 1, they claim no more than their intervals say."""
MEANING = {
    "rank": "Spearman of process with true progress in an episode, mean (a constant scores 0)",
    "kendall": "Kendall's tau-b of the same",
    "pairwise": "pairs of moments of an episode, progress > 0.1 apart, that process orders rightly",
    "order": "sign of contrastive on two frames >= 1 s apart, progress > 0.1 apart",
    "auc": "completion: success frames above the last frames of failures (time-matched)",
    "fpr_at_tpr80": "last frames of failures that pass where 80 % of success frames do",
    "tpr": "successes called done at the model's threshold (abstained: missed)",
    "fpr": "failures called done at the model's threshold",
    "balanced": "mean of tpr and 1 - fpr",
    "ece": "expected calibration error of completion at the episodes' ends",
    "aurc": "area under risk-coverage of the verdicts, by the model's uncertainty",
    "language": "completion at a success above that under an instruction not fulfilled there",
    "coverage": "episodes whose end the model judged at all",
}


@dataclass(frozen=True)
class Outcome:
    """What a model made of one case. Signals of the moments `rows`; `verdict` None: abstained."""

    case: Case
    rows: tuple[int, ...]
    signals: tuple[RewardSignal, ...]
    verdict: bool | None
    rank: float
    kendall: float
    pairwise: float
    order_said: np.ndarray
    order_true: np.ndarray
    right: float
    wrong: np.ndarray

    @property
    def end(self) -> RewardSignal:
        return self.signals[-1]

    @property
    def completions(self) -> np.ndarray:
        """float[K], 0 where abstained."""
        return np.nan_to_num([s.completion for s in self.signals], nan=0.0)


@dataclass(frozen=True)
class Measured:
    """All figures of one model on one set of cases."""

    model: str
    threshold: float
    episodes: int
    successes: int
    figures: dict[str, Figure]
    outcomes: tuple[Outcome, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "model": self.model,
            "threshold": round(self.threshold, 6),
            "episodes": self.episodes,
            "successes": self.successes,
            "figures": {name: figure.as_list() for name, figure in self.figures.items()},
        }


def signals_of(
    model: VideoRewardModel, video: Video, instruction: str, rows: Sequence[int]
) -> list[RewardSignal]:
    """Signals of these rows; a model that raises abstains from all of them."""
    try:
        return score_moments(model, video, instruction, rows)
    except Exception as error:  # a model may raise whatever it likes
        reason = f"failed: {type(error).__name__}: {error}"
        return [abstain(int(video.steps[row]), reason, model.model_id) for row in rows]


def pair_video(model: VideoRewardModel, video: Video, earlier: int, later: int) -> Video:
    """Two frames to compare, after the episode's first where the model looks at more than two: as if seen
    2 s apart, whatever the time between them was."""
    ends = model.contract.layout == "ends"
    rows = [earlier, later] if ends else [0, earlier, later]
    times = PAIR_TIMES_S[1:] if ends else PAIR_TIMES_S
    index = np.array(rows)
    views = {camera: images[index] for camera, images in video.views.items()}
    return Video(views, np.array(times), video.steps[index])


def contrast(model: VideoRewardModel, pair: Video, instruction: str) -> float:
    """The contrastive signal of a `pair_video`, NaN where the model abstains."""
    return signals_of(model, pair, instruction, [len(pair) - 1])[0].contrastive


def pairs_of(case: Case, video: Video, count: int, rng: np.random.Generator) -> np.ndarray:
    """Up to `count` pairs int[P, 2] of rows to compare (earlier first), drawn from all clear ones."""
    a, b = np.triu_indices(len(video), k=1)
    gap = case.progress[b] - case.progress[a]
    apart = video.times_s[b] - video.times_s[a]
    with np.errstate(invalid="ignore"):
        clear = np.flatnonzero((np.abs(gap) > LEAST_GAP) & (apart >= LEAST_APART_S) & (a > 0))
    chosen = rng.permutation(clear)[:count]
    return np.stack([a[chosen], b[chosen]], axis=1)


def observe(
    model: VideoRewardModel,
    case: Case,
    moments: int = MOMENTS,
    pairs: int = PAIRS,
    seed: int = 0,
    wrongs: int = 3,
) -> Outcome:
    """Score one case: its moments, pairs of its frames, and its end under instructions not fulfilled."""
    video = case.load()
    last = len(video) - 1
    spread = np.linspace(0, last, moments).round().astype(int).tolist()
    rows = sorted({*spread, *end_rows(model, video.times_s)})
    signals = signals_of(model, video, case.instruction, rows)
    process = np.array([s.process for s in signals])
    truth = case.progress[rows]
    drawn = pairs_of(case, video, pairs, np.random.default_rng(seed))
    said = [
        contrast(model, pair_video(model, video, i, j), case.instruction) for i, j in drawn.tolist()
    ]
    others = [
        signals_of(model, video, text, [last])[0].completion
        for text in (case.wrong[:wrongs] if case.succeeded else ())
    ]
    return Outcome(
        case,
        tuple(rows),
        tuple(signals),
        judge(signals, model.completion_threshold, model.completion_consecutive),
        rank_in(metrics.spearman, process, truth),
        rank_in(metrics.kendall_tau_b, process, truth),
        metrics.pairwise_accuracy(process, truth, LEAST_GAP) if _moves(truth) else math.nan,
        np.array(said, np.float64),
        case.progress[drawn[:, 1]] - case.progress[drawn[:, 0]],
        signals[-1].completion,
        np.array(others, np.float64),
    )


def rank_in(
    function: Callable[[np.ndarray, np.ndarray], float], process: np.ndarray, truth: np.ndarray
) -> float:
    """A rank correlation in one episode, of what is known: 0 where nothing was told apart, NaN where there
    was nothing to tell apart."""
    if not _moves(truth):
        return math.nan
    known = np.isfinite(truth) & np.isfinite(process)
    found = function(process[known], truth[known])
    return 0.0 if math.isnan(found) else found


def _moves(truth: np.ndarray) -> bool:
    known = truth[np.isfinite(truth)]
    return bool(len(known) and np.ptp(known) > LEAST_MOTION)


def measure(
    model: VideoRewardModel,
    cases: Sequence[Case],
    name: str = "",
    *,
    moments: int = MOMENTS,
    draws: int = 400,
    seed: int = 0,
    report: Callable[[int, int], None] | None = None,
) -> Measured:
    """Figures of a model on cases, intervals over their recordings. Deterministic by seed."""
    outcomes = []
    for number, case in enumerate(cases):
        outcomes.append(observe(model, case, moments, seed=seed + number))
        if report:
            report(number + 1, len(cases))
    return summary(name or model.model_id, float(model.completion_threshold), outcomes, draws, seed)


Statistic = Callable[[Sequence[Outcome]], float]


def summary(
    name: str,
    threshold: float,
    outcomes: Sequence[Outcome],
    draws: int = 400,
    seed: int = 0,
    statistics: Mapping[str, Statistic] | None = None,
) -> Measured:
    """Figures of what `observe` found, one outcome a case: `statistics` by name, all of them by default."""
    wanted = STATISTICS if statistics is None else statistics
    cases = [outcome.case for outcome in outcomes]
    drawn = resamples([case.group for case in cases], draws, seed)
    figures = {
        key: with_interval(
            _over(outcomes, function), len(outcomes), drawn, _support(key, outcomes, wanted)
        )
        for key, function in wanted.items()
    }
    return Measured(
        name,
        threshold,
        len(cases),
        sum(case.succeeded for case in cases),
        figures,
        tuple(outcomes),
    )


def _support(key: str, outcomes: Sequence[Outcome], statistics: Mapping[str, Statistic]) -> int:
    """How many recordings a share that met no exception was counted on (0: not a share): those that have a
    value of it; where successes are held against failures, the scarcer."""
    if key in NO_SHARES:
        return 0
    if key in ("auc", "balanced"):
        return min(_support(side, outcomes, STATISTICS) for side in ("tpr", "fpr"))
    statistic = STATISTICS["fpr"] if key == "fpr_at_tpr80" else statistics[key]
    by_group: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_group.setdefault(outcome.case.group, []).append(outcome)
    return sum(not math.isnan(statistic(mine)) for mine in by_group.values())


def _over(outcomes: Sequence[Outcome], function: Statistic) -> Callable[[np.ndarray], float]:
    return lambda index: function([outcomes[i] for i in index.tolist()])


def mean(values: Sequence[float]) -> float:
    """Of those that are no NaN; NaN of none."""
    found = [v for v in values if not math.isnan(v)]
    return float(np.mean(found)) if found else math.nan


def _sides(outcomes: Sequence[Outcome]) -> tuple[np.ndarray, np.ndarray]:
    """Completion at success frames of successes, and at the last frames of failures."""
    positive = [o.completions[o.case.success[list(o.rows)]] for o in outcomes if o.case.succeeded]
    negative = [o.completions[-1] for o in outcomes if not o.case.succeeded]
    return np.concatenate(positive) if positive else np.zeros(0), np.array(negative)


def _done(outcomes: Sequence[Outcome], succeeded: bool) -> float:
    return mean([float(o.verdict is True) for o in outcomes if o.case.succeeded is succeeded])


def _balanced(outcomes: Sequence[Outcome]) -> float:
    said = np.array([o.verdict is True for o in outcomes])
    return metrics.balanced_accuracy(said, np.array([o.case.succeeded for o in outcomes]))


def _ece(outcomes: Sequence[Outcome]) -> float:
    judged = [o for o in outcomes if not math.isnan(o.end.completion)]
    said = np.array([o.end.completion for o in judged])
    return metrics.calibration_error(said, np.array([o.case.succeeded for o in judged]))


def _aurc(outcomes: Sequence[Outcome]) -> float:
    """The sure first, the abstained last, those without an uncertainty in the middle."""
    wrong = np.array([float((o.verdict is True) != o.case.succeeded) for o in outcomes])
    sure = [-1.0 if o.verdict is None else 1.0 - o.end.uncertainty for o in outcomes]
    return metrics.aurc(wrong, np.nan_to_num(sure, nan=0.5))


def _language(outcomes: Sequence[Outcome]) -> float:
    right = np.concatenate([np.full(len(o.wrong), o.right) for o in outcomes])
    return metrics.instruction_accuracy(right, np.concatenate([o.wrong for o in outcomes]))


STATISTICS: dict[str, Statistic] = {
    "rank": lambda o: mean([x.rank for x in o]),
    "kendall": lambda o: mean([x.kendall for x in o]),
    "pairwise": lambda o: mean([x.pairwise for x in o]),
    "order": lambda o: metrics.sign_accuracy(
        np.concatenate([x.order_said for x in o]), np.concatenate([x.order_true for x in o])
    ),
    "auc": lambda o: metrics.roc_auc(*_sides(o)),
    "fpr_at_tpr80": lambda o: metrics.fpr_at_tpr(*_sides(o), 0.8),
    "tpr": lambda o: _done(o, True),
    "fpr": lambda o: _done(o, False),
    "balanced": _balanced,
    "ece": _ece,
    "aurc": _aurc,
    "language": _language,
    "coverage": lambda o: mean([float(x.verdict is not None) for x in o]),
}
