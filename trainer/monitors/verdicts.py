"""The three tests that watch a reward, over all that was recorded of a run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from trainer.config import MonitorsSection
from trainer.monitors.estimate import prediction_powered
from trainer.monitors.evidence import Alone, Grown, Outcome, outcome
from trainer.monitors.records import Label, Row, truth_of, waiting
from trainer.report.statistics import Estimate

DISAGREEMENT, LABELS, DRIFT = "disagreement", "labels", "drift"
MONITORS = (DISAGREEMENT, LABELS, DRIFT)
_UNSURE = 0.5


@dataclass(frozen=True)
class Figure:
    """How one monitor stands. `counted` episodes, of which `alone` are successes to the reward alone; it
    trips where `log_evidence` reaches `limit`."""

    monitor: str
    counted: int
    alone: int
    log_evidence: float
    limit: float
    words: str

    @property
    def tripped(self) -> bool:
        return self.log_evidence >= self.limit


class Verdicts:
    """Each of the monitors has an equal share of the allowed false alarms, so that all together keep to it.

    `add` takes episodes in their order; `label` the labels of a draw that did not look at scores, in the
    order in which they came.
    """

    def __init__(self, rules: MonitorsSection) -> None:
        self._limit = math.log(len(MONITORS) / rules.false_alarms)
        self._rules = rules
        self._second, self._labels = (Alone(rules.alone, rules.of_failures) for _ in range(2))
        self._drift = Grown(rules.growth)

    def add(self, row: Row, *, counts: bool = True) -> None:
        """`counts` False: what came before a person let refinement go on; of that only the base is used."""
        by_second = outcome(row.verdict, row.second)
        known = row.second if row.operator is None else row.operator
        by_any = outcome(row.verdict, known)
        if by_any is not None and (row.base or counts):
            self._drift.add(by_any, base=row.base)
        if by_second is not None and counts:
            self._second.add(by_second)

    def label(self, row: Row, truth: bool | None) -> None:
        found = outcome(row.verdict, truth)
        if found is not None:
            self._labels.add(found)

    def figures(self) -> list[Figure]:
        second = self._alone(DISAGREEMENT, self._second, "the second opinion")
        labels = self._alone(LABELS, self._labels, "a person")
        later, base = self._drift.counts, self._drift.base
        words = (
            f"{later.all[1]:.0f} of {later.total} episodes since the base policy, and {base.all[1]:.0f} of "
            f"its own {base.total}, are successes to the reward alone"
        )
        drift = Figure(
            DRIFT,
            later.total,
            int(later.all[1]),
            self._drift.log_evidence if later.total else 0.0,
            self._limit,
            words,
        )
        return [second, labels, drift]

    def _alone(self, name: str, test: Alone, who: str) -> Figure:
        alone, refused = (int(test.counts.all[kind]) for kind in (Outcome.ALONE, Outcome.REFUSED))
        words = (
            f"of {test.counts.total} episodes, {alone + refused} of which {who} calls failures, "
            f"the reward calls {alone} of those successes"
        )
        return Figure(name, test.counts.total, alone, test.log_evidence, self._limit, words)


def judged(
    rules: MonitorsSection, rows: Iterable[Row], labels: Mapping[str, Label], since: int
) -> Verdicts:
    """From the records. Labels that came with an episode and those of the random share count; one of a
    contested clip does not: such clips were chosen for being suspicious. The random share counts up to the
    first that nobody has labelled, so that who labels has no say in which outcomes come first."""
    verdicts, told, settled_s = Verdicts(rules), [], 0.0
    for row in rows:
        verdicts.add(row, counts=row.arrival > since)
        if row.arrival <= since:
            continue
        if row.operator is not None:
            told.append((row.unix_s, row))
        elif row.random:
            # In the order in which each came to count: what is added later never goes before it.
            settled_s = max(settled_s, labels[row.key].unix_s if row.key in labels else math.inf)
            told.append((settled_s, row))
    told = [(unix_s, row) for unix_s, row in told if unix_s < math.inf]
    for _, row in sorted(told, key=lambda pair: pair[0]):
        verdicts.label(row, truth_of(row, labels))
    return verdicts


def true_success(rows: Iterable[Row], labels: Mapping[str, Label], window: int) -> Estimate:
    """True success, as far as the audit is settled: over the first groups of `window` episodes in a row, up
    to one in which somebody is waited for, and to the last with a label: a later group would count for
    nothing but that none of it was drawn. What nobody could tell is a failure: left out, the reward's word
    would stand for it."""
    in_order = list(rows)
    truths: list[float] = []
    end = 0
    for start in range(0, len(in_order) - window + 1, window):
        part = in_order[start : start + window]
        if waiting(part, labels):
            break
        truths += [_truth(row, labels) for row in part]
        if not np.isnan(truths[start:]).all():
            end = start + window
    used = in_order[:end]
    return prediction_powered(
        np.array([_score(row) for row in used]),
        np.array(truths[:end]),
        np.array([row.chance for row in used]),
    )


def _truth(row: Row, labels: Mapping[str, Label]) -> float:
    """NaN where nobody was asked: a label given all the same was drawn with no chance that is known."""
    asked = row.chosen or row.operator is not None
    if not asked or (row.operator is None and row.key not in labels):
        return math.nan
    return float(truth_of(row, labels) is True)


def _score(row: Row) -> float:
    """What the reward makes of it: its verdict, which refinement learns from."""
    return _UNSURE if row.verdict is None else float(row.verdict)
