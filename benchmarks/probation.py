"""Probation's test by itself: what it does to releases of known success rates, over many trials.

Uses the robot's own verdict (`runtime.weights.probation.judge`) on drawn episodes; nothing is swapped here.
Trials of the whole path are `benchmarks.probation_trials`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import msgspec
import numpy as np

from runtime.weights.probation import Probation, Tally, Verdict, judge
from trainer.report.statistics import wilson

RATES = (0.9, 0.75, 0.6, 0.5, 0.3, 0.1)
COMMITTED = (0.9, 0.75, 0.56)
REFERENCES = (10, 30, 100)
"""Episodes that the committed release has behind it."""


class Row(msgspec.Struct, frozen=True):
    """`rate` of the release on probation against one committed at `committed`, whose own episodes number
    `reference` and are drawn anew in every trial. `rolled_back`: share, with `low` and `high` of its 95 %
    interval. `episodes`: until rolled back, mean of those that are; `within_10`: share of all trials."""

    committed: float
    reference: int
    rate: float
    trials: int
    rolled_back: float
    low: float
    high: float
    episodes: float
    within_10: float
    until_committed: float


def simulate(
    committed: float,
    reference: int,
    rate: float,
    rules: Probation,
    trials: int,
    rng: np.random.Generator,
) -> Row:
    """One cell of the grid: `trials` releases, each to its end."""
    back, kept = [], []
    drawn = rng.binomial(reference, committed, trials)
    for successes, count in zip(*np.unique(drawn, return_counts=True), strict=True):
        tally = Tally(int(successes), int(reference - successes))
        ends = _ends(decisions(tally, rules), rate, int(count), rng)
        back.append(ends[ends > 0])
        kept.append(-ends[ends < 0])
    rolled_back, committed_at = np.concatenate(back), np.concatenate(kept)
    share = wilson(len(rolled_back), trials)
    return Row(
        committed,
        reference,
        rate,
        trials,
        share.value,
        share.low,
        share.high,
        float(rolled_back.mean()) if len(rolled_back) else float("nan"),
        float((rolled_back <= 10).sum()) / trials,
        float(committed_at.mean()) if len(committed_at) else float("nan"),
    )


def decisions(reference: Tally, rules: Probation) -> np.ndarray:
    """int8[s, f]: 1 roll back, -1 commit, 0 go on after s successes and f failures."""
    most = rules.most_episodes
    found = np.zeros((most + 1, most + 1), np.int8)
    for successes in range(most + 1):
        for failures in range(most + 1 - successes):
            if successes or failures:
                verdict, _ = judge(reference, Tally(successes, failures), rules)
                found[successes, failures] = {"roll_back": 1, "commit": -1, "on": 0}[verdict]
    return found


def _ends(table: np.ndarray, rate: float, trials: int, rng: np.random.Generator) -> np.ndarray:
    """Episodes of each trial, negative where it ended in a commit."""
    most = len(table) - 1
    successes = np.cumsum(rng.random((trials, most)) < rate, axis=1)
    failures = np.arange(1, most + 1) - successes
    verdicts = table[successes, failures]
    at = np.argmax(verdicts != 0, axis=1)
    ends: np.ndarray = (at + 1) * verdicts[np.arange(trials), at].astype(np.int64)
    return ends


class Chain(msgspec.Struct, frozen=True):
    """Releases of a loop, one every `iteration` episodes, each as good (`rate`) as all before it. Shares of
    all: `rolled_back`, `committed`, the rest superseded before a verdict. `pooled`: rolled back if a
    reference kept up to 50 episodes of the one before it beside its trial's."""

    rate: float
    iteration: int
    releases: int
    rolled_back: float
    committed: float
    pooled: float


CHAIN = 30
"""Releases of one refinement."""


def chain(rate: float, iteration: int, rules: Probation, times: int, seed: int = 0) -> Chain:
    """`times` refinements of `CHAIN` releases: what is committed is the next one's reference, with the lucky
    count of its own trial and what it did since."""
    decided = cache(lambda reference, trial: judge(reference, trial, rules)[0])
    rng = np.random.default_rng(seed)
    found = np.zeros(3)
    for _ in range(times):
        drawn = rng.random((CHAIN + 1, iteration)) < rate
        found += (*_one_chain(drawn, decided), _one_chain(drawn, decided, pools=True)[0])
    releases = CHAIN * times
    return Chain(rate, iteration, releases, *(found / releases).tolist())


def _one_chain(
    successes: np.ndarray, decided: Callable[[Tally, Tally], Verdict], pools: bool = False
) -> tuple[int, int]:
    """How many were rolled back and committed. `successes`: bool[release, episode], the first of the robot's
    own weights."""
    reference, back, kept = Tally(), 0, 0
    for number, episodes in enumerate(successes):
        trial = Tally() if number else None
        for success in episodes.tolist():
            if trial is None:
                reference = reference.add(success)
                continue
            trial = trial.add(success)
            verdict = decided(reference, trial)
            if verdict == "on":
                continue
            back, kept = back + (verdict == "roll_back"), kept + (verdict == "commit")
            if verdict == "commit":
                reference = _pooled(reference, trial) if pools else trial
            trial = None
    return back, kept


def _pooled(reference: Tally, trial: Tally) -> Tally:
    share = min(1.0, 50 / max(1, reference.counted))
    return Tally(
        round(reference.successes * share) + trial.successes,
        round(reference.failures * share) + trial.failures,
    )


def chains(rules: Probation, times: int, seed: int = 0) -> list[Chain]:
    """Rates and lengths of iterations."""
    return [
        chain(rate, iteration, rules, times, seed)
        for iteration in (10, 20, 40)
        for rate in (0.9, 0.75, 0.56, 0.3)
    ]


def chain_table(rows: Iterable[Chain]) -> str:
    """Markdown."""
    lines = [
        "| success rate | episodes of an iteration | releases | rolled back % | committed % "
        "| rolled back % with a pooled reference |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.rate:g} | {row.iteration} | {row.releases} | {100 * row.rolled_back:.1f} | "
        f"{100 * row.committed:.0f} | {100 * row.pooled:.1f} |"
        for row in rows
    ]
    return "\n".join(lines)


def grid(rules: Probation, trials: int = 10_000, seed: int = 0) -> list[Row]:
    """Every committed rate, reference and rate that is no better."""
    rng = np.random.default_rng(seed)
    return [
        simulate(committed, reference, rate, rules, trials, rng)
        for committed in COMMITTED
        for reference in REFERENCES
        for rate in dict.fromkeys((committed, *RATES))
        if rate <= committed
    ]


def table(rows: Iterable[Row]) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = [
        "| committed | its episodes | on probation | rolled back % | 95 % | episodes until then "
        "| within 10 % | until committed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.committed:g} | {row.reference} | {row.rate:g} | {100 * row.rolled_back:.1f} | "
            f"{100 * row.low:.1f} to {100 * row.high:.1f} | {_number(row.episodes)} | "
            f"{100 * row.within_10:.0f} | {_number(row.until_committed)} |"
        )
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "-"
