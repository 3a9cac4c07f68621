"""Several runs beside each other: seeds of one way to refine pooled, ways compared. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.report.analysis import Judge, judges, learned_tallies, truth_tallies
from trainer.report.charts import Tally
from trainer.report.evaluation import Evaluation, evaluation
from trainer.report.rows import RunData
from trainer.report.statistics import CONFIDENCE, Estimate, student_t, wilson


@dataclass(frozen=True)
class Way:
    """Runs that differ in nothing but their seed. `gain`: mean over them of the paired difference, with
    Student's interval over seeds (NaN for one); `paired`: with the bootstrap's over seeds and, within a seed,
    over scenes. `judge`: the reward against the truth, training episodes of all; None: never judged.
    `learned`, `truth`: training episodes by what refinement took them for and in truth.
    `wall_s`, `robot_s`: mean of a run, NaN where it isn't known."""

    name: str
    runs: tuple[RunData, ...]
    each: tuple[Evaluation, ...]
    base: Estimate
    final: Estimate
    gain: Estimate
    paired: Estimate
    judge: Judge | None
    learned: tuple[Tally, ...]
    truth: tuple[Tally, ...]
    wall_s: float
    robot_s: float


def ways(named: Sequence[tuple[str, RunData]]) -> list[Way]:
    """One for each name, in their order; runs of a name in theirs."""
    groups: dict[str, list[RunData]] = {}
    for name, run in named:
        groups.setdefault(name, []).append(run)
    return [_way(name, runs) for name, runs in groups.items()]


def _way(name: str, runs: list[RunData]) -> Way:
    each = tuple(evaluation(run) for run in runs)
    trained = [episode for run in runs for episode in run.of("refine")]
    judge = next(iter(judges(trained)), None)
    return Way(
        name=name,
        runs=tuple(runs),
        each=each,
        base=_pooled([one.base for one in each]),
        final=_pooled([one.final for one in each]),
        gain=over_seeds([one.difference.value for one in each if one.pairs]),
        paired=paired_over_seeds([np.array(one.differences) for one in each if one.pairs]),
        judge=judge,
        learned=_summed([learned_tallies(run) for run in runs]),
        truth=_summed([truth_tallies(run) for run in runs]),
        wall_s=_mean([run.ended_unix_s - run.started_unix_s for run in runs]),
        robot_s=_mean([math.fsum(e.duration_s for e in run.of("refine")) for run in runs]),
    )


def over_seeds(values: Sequence[float]) -> Estimate:
    """Their mean, with Student's interval: what another seed's mean would be."""
    if not values:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean, half = float(np.mean(values)), math.nan
    if len(values) > 1:
        half = student_t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


def _pooled(estimates: Sequence[Estimate]) -> Estimate:
    known = [one for one in estimates if one.count]
    return wilson(sum(round(one.value * one.count) for one in known), sum(o.count for o in known))


def paired_over_seeds(differences: Sequence[np.ndarray], draws: int = 4000) -> Estimate:
    """The mean over seeds of the mean over scenes of [scenes] each, with the bootstrap's interval over seeds
    and, within a seed, over scenes. NaN without any."""
    if not differences:
        return Estimate(math.nan, math.nan, math.nan, 0)
    rng, means = np.random.default_rng(0), np.empty(draws)
    for draw in range(draws):
        means[draw] = np.mean(
            [
                differences[i][rng.integers(0, len(differences[i]), len(differences[i]))].mean()
                for i in rng.integers(0, len(differences), len(differences))
            ]
        )
    low, high = np.quantile(means, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    mean = float(np.mean([found.mean() for found in differences]))
    return Estimate(mean, float(low), float(high), sum(map(len, differences)))


def _summed(tallies: Sequence[Sequence[Tally]]) -> tuple[Tally, ...]:
    successes: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for tally in (one for run in tallies for one in run):
        successes[tally.iteration] += tally.successes
        counts[tally.iteration] += tally.count
    return tuple(Tally(number, successes[number], counts[number]) for number in sorted(counts))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan
