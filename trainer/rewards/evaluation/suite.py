"""A whole evaluation of reward models on cases: figures beside blind baselines, robustness, calibration.

Owns what is measured together and the JSON of it; pictures of it are `page`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from contracts.errors import EntracteError
from contracts.reward import RewardSignal
from trainer.interfaces import VideoRewardModel
from trainer.rewards.episodes import end_rows
from trainer.rewards.evaluation import calibration, metrics
from trainer.rewards.evaluation.blind import LAST, blind_baselines
from trainer.rewards.evaluation.cases import Case, Labelled, refuse_overlap
from trainer.rewards.evaluation.comparison import (
    against,
    markdown,
    plain,
    rows_of,
    values_and_words,
)
from trainer.rewards.evaluation.measure import (
    HIGHER_IS_BETTER,
    Measured,
    measure,
    signals_of,
)
from trainer.rewards.evaluation.roboreward_bench import (
    BenchReport,
    Reading,
    ask,
    grade,
    read_answers,
    read_bench,
)
from trainer.rewards.evaluation.robustness import Check, robustness
from trainer.rewards.evaluation.videos import read_video
from trainer.rewards.roboreward_rows import HIGHEST, RoboRewardRow

Progress = Callable[[str, int, int], None]
CLOCK_S = 15.0
"""When the clock says done on a bench of real videos, whose lengths vary."""
FALSE_POSITIVES = 0.02
MOST_RISK = 0.05
LEAST_ENDS = 20
"""Of successes, and of failures: a threshold from fewer says more of luck than of the model."""


@dataclass(frozen=True)
class Calibrated:
    """What fitting on validation ends gave, and what it does to the measured ends. `validation`, `failures`:
    how many ends that were, and how many failures among them (a rate of 2 % can't be seen in fewer than
    50). `temperature`: NaN where none is the best. `ece`: as the model says it, after the temperature, after
    the isotonic map. `passed`: share of measured failures and successes at or above `threshold` (abstained:
    not)."""

    validation: int
    failures: int
    temperature: float
    ece: dict[str, float]
    false_positive_rate: float
    threshold: float
    shipped: float
    passed_failures: float
    passed_successes: float
    abstention: calibration.Abstention

    def as_dict(self) -> dict[str, object]:
        return {
            "validation_episodes": self.validation,
            "validation_failures": self.failures,
            "temperature": _plain(self.temperature),
            "ece": {k: _plain(v) for k, v in self.ece.items()},
            "false_positive_rate": self.false_positive_rate,
            "threshold": _plain(self.threshold),
            "shipped_threshold": _plain(self.shipped),
            "failures_passed": _plain(self.passed_failures),
            "successes_passed": _plain(self.passed_successes),
            "abstention_limit": _plain(self.abstention.limit),
            "abstention_coverage": _plain(self.abstention.coverage),
            "abstention_risk": _plain(self.abstention.risk),
        }


@dataclass(frozen=True)
class TaskReport:
    """One task: models, baselines, robustness of each model, calibration of each model."""

    task: str
    models: tuple[Measured, ...]
    baselines: tuple[Measured, ...]
    checks: Mapping[str, Sequence[Check]] = field(default_factory=dict)
    calibrated: Mapping[str, Calibrated | str] = field(default_factory=dict)
    """Or why a model was not calibrated anew."""
    note: str = ""

    @property
    def counts(self) -> str:
        """How many episodes, and what a reader must know of them."""
        first = (self.models or self.baselines)[0]
        said = f"{first.episodes} episodes, {first.successes} succeeded"
        return f"{said}; {self.note}" if self.note else said

    def table(self) -> list[list[str]]:
        """Header and rows, what each model beats said in words."""
        return rows_of(
            {m.model: m.figures for m in self.models},
            {b.model: b.figures for b in self.baselines},
            HIGHER_IS_BETTER,
        )

    def as_dict(self) -> dict[str, object]:
        others = {b.model: b.figures for b in self.baselines}
        said = {
            m.model: {
                key: against(key, m.figures[key], {n: f[key] for n, f in others.items()}, up)
                for key, up in HIGHER_IS_BETTER.items()
            }
            for m in self.models
        }
        return {
            "task": self.task,
            "note": self.note,
            "models": [m.as_dict() for m in self.models],
            "baselines": [b.as_dict() for b in self.baselines],
            "against_baselines": said,
            "robustness": {name: [c.as_dict() for c in v] for name, v in self.checks.items()},
            "calibration": {
                name: {"none": found} if isinstance(found, str) else found.as_dict()
                for name, found in self.calibrated.items()
            },
        }

    def text(self) -> str:
        """Tables for a terminal."""
        parts = [f"{self.task}: {self.counts}"]
        parts.append(plain(self.table()))
        if self.checks:
            parts.append(plain(check_table(self.checks)))
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """The same tables for docs."""
        parts = [f"## {self.task}: {self.counts}\n"]
        parts += [markdown(part) for part in values_and_words(self.table(), len(self.models))]
        if self.checks:
            parts.append(markdown(check_table(self.checks)))
        return "\n".join(parts)


def check_table(checks: Mapping[str, Sequence[Check]]) -> list[list[str]]:
    """Robustness: one row a check, one column a model."""
    table = [["perturbation", "figure", *checks, "asked for"]]
    for same in zip(*checks.values(), strict=True):
        values = [
            f"{c.figure.value:.2g}" if c.limit.endswith("e-06") else str(c.figure) for c in same
        ]
        missed = [name for name, c in zip(checks, same, strict=True) if c.kept is False]
        most = float(same[0].limit.removeprefix("<= ") or "nan")
        near = [
            name
            for name, c in zip(checks, same, strict=True)
            if name not in missed and c.figure.high > most
        ]
        asked = same[0].limit + (f" MISSED by {', '.join(missed)}" if missed else "")
        asked += f" (within reach of the interval: {', '.join(near)})" if near else ""
        table.append([same[0].perturbation, same[0].meaning, *values, asked])
    return table


def evaluate_task(
    task: str,
    models: Mapping[str, VideoRewardModel],
    cases: Sequence[Case],
    fitted: Sequence[Labelled],
    *,
    more_baselines: Mapping[str, VideoRewardModel] | None = None,
    validation: Sequence[Case] = (),
    with_robustness: bool = True,
    draws: int = 400,
    seed: int = 0,
    report: Progress | None = None,
    note: str = "",
) -> TaskReport:
    """Everything about one task. `fitted`: training moments for the blind baselines; `validation`: cases of
    the train split that the model did not learn from, for calibration."""
    if not cases:
        raise EntracteError(f"no episodes of task '{task}' to measure on")
    refuse_overlap(fitted, cases)

    def say(what: str) -> Callable[[int, int], None] | None:
        return None if report is None else lambda done, total: report(what, done, total)

    durations = [float(case.load().times_s[-1]) for case in cases[:20]]
    others: dict[str, VideoRewardModel] = {
        model.model_id: model for model in blind_baselines(fitted, float(np.median(durations)))
    }
    others.update(more_baselines or {})
    baselines, measured = (
        [
            measure(model, cases, name, draws=draws, seed=seed, report=say(f"{task}: {name}"))
            for name, model in group.items()
        ]
        for group in (others, models)
    )
    checks = {}
    if with_robustness:
        for name, model in models.items():
            what = say(f"{task}: {name}, robustness")
            checks[name] = robustness(model, cases, draws=draws, seed=seed, report=what)
    calibrated: dict[str, Calibrated | str] = {}
    for one, (name, model) in zip(measured, models.items(), strict=True):
        if validation:
            calibrated[name] = calibrate(model, one, validation)
    return TaskReport(task, tuple(measured), tuple(baselines), checks, calibrated, note)


def calibrate(
    model: VideoRewardModel, measured: Measured, validation: Sequence[Case]
) -> Calibrated | str:
    """Fit on the ends of validation cases, tell what it does to the measured ones; or why not: too few
    successes or failures among those that the model judged."""
    ends = []
    for case in validation:
        video = case.load()
        ends.append(
            (signals_of(model, video, case.instruction, end_rows(model, video.times_s))[-1], case)
        )
    judged = [(s, c.succeeded) for s, c in ends if not math.isnan(s.completion)]
    truth = np.array([done for _, done in judged], bool)
    successes, failures = int(truth.sum()), int((~truth).sum())
    if min(successes, failures) < LEAST_ENDS:
        return (
            f"not calibrated anew: {successes} successes and {failures} failures that it judged among "
            f"the {len(ends)} validation ends are too few ({LEAST_ENDS} of each are enough)."
        )
    said = np.array([signal.completion for signal, _ in judged])
    scores = calibration.Scores(said, truth, calibration.VALIDATION)
    temperature = calibration.fit_temperature(scores)
    isotonic = calibration.fit_isotonic(scores)
    threshold = calibration.completion_threshold(scores, FALSE_POSITIVES)
    wrong = (said >= model.completion_threshold) != truth
    unsure = np.nan_to_num([s.uncertainty for s, _ in judged], nan=0.5)
    seen = [o for o in measured.outcomes if not math.isnan(o.end.completion)]
    now = np.array([o.end.completion for o in seen])
    done = np.array([o.case.succeeded for o in seen], bool)
    return Calibrated(
        len(truth),
        failures,
        math.nan if temperature.bounded else temperature.temperature,
        {
            "as said": metrics.calibration_error(now, done),
            "temperature": math.nan
            if temperature.bounded
            else metrics.calibration_error(temperature.apply(now), done),
            "isotonic": metrics.calibration_error(isotonic.apply(now), done),
        },
        FALSE_POSITIVES,
        threshold,
        float(model.completion_threshold),
        _passed(measured, False, threshold),
        _passed(measured, True, threshold),
        calibration.fit_abstention(wrong, unsure, MOST_RISK, calibration.VALIDATION),
    )


def _passed(measured: Measured, succeeded: bool, threshold: float) -> float:
    """Share of all such ends; one that was abstained from (NaN) does not pass."""
    ends = [o.end.completion for o in measured.outcomes if o.case.succeeded is succeeded]
    return float((np.array(ends) >= threshold).mean()) if ends else math.nan


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 5)


BENCH_FIGURES = {
    "macro_mae": False,
    "micro_mae": False,
    "exact": True,
    "within_1": True,
    "rank": True,
    "kendall": True,
}


@dataclass(frozen=True)
class BenchResult:
    """RoboRewardBench of several models beside the blind baselines. `videos`: the folder asked about."""

    videos: Path
    rows: Sequence[RoboRewardRow]
    models: tuple[BenchReport, ...]
    baselines: tuple[BenchReport, ...]
    signals: Mapping[str, Sequence[RewardSignal | None]] = field(default_factory=dict)

    def table(self) -> list[list[str]]:
        return rows_of(
            {r.model: r.figures for r in self.models},
            {r.model: r.figures for r in self.baselines},
            BENCH_FIGURES,
        )

    def text(self) -> str:
        parts = [f"RoboRewardBench: {len(self.rows)} rows", plain(self.table())]
        notes = [f"{r.model}: {note}" for r in self.models for note in r.notes()]
        return "\n\n".join([*parts, "\n".join(notes)] if notes else parts)

    def markdown(self) -> str:
        """The same tables for docs."""
        parts = [f"## RoboRewardBench: {len(self.rows)} rows\n"]
        parts += [markdown(part) for part in values_and_words(self.table(), len(self.models))]
        parts += [f"- {r.model}: {note}" for r in self.models for note in r.notes()]
        return "\n".join(parts) + "\n"

    def as_dict(self) -> dict[str, object]:
        return {
            "rows": len(self.rows),
            "models": [r.as_dict() for r in self.models],
            "baselines": [r.as_dict() for r in self.baselines],
        }


def evaluate_bench(
    folder: Path,
    models: Mapping[str, VideoRewardModel],
    answers: Mapping[str, Path],
    *,
    train: Path | None = None,
    reading: Reading = "discrete",
    draws: int = 400,
    seed: int = 0,
    report: Progress | None = None,
) -> BenchResult:
    """The protocol for models and for given answers (name -> file), beside blind baselines fitted on `train`
    (a folder of the same format, the published train split); without it, constant and clock alone."""
    rows = read_bench(folder)
    fitted = _labelled_rows(train, rows) if train else []
    others = {m.model_id: m for m in blind_baselines(fitted, CLOCK_S)}
    # Without training labels the constant says the middle of the scale, as in the published protocol's "3".
    graded: dict[str, list[BenchReport]] = {"models": [], "baselines": []}
    signals: dict[str, Sequence[RewardSignal | None]] = {}
    for kind, group in (("models", models), ("baselines", others)):
        for name, model in group.items():
            what = None if report is None else partial(report, f"bench: {name}")
            said, found = ask(model, rows, folder, reading=reading, report=what)
            graded[kind].append(grade(rows, said, name, seed=seed, draws=draws))
            if kind == "models":
                signals[name] = found
    for name, path in answers.items():
        graded["models"].append(grade(rows, read_answers(path, rows), name, seed=seed, draws=draws))
    return BenchResult(folder, rows, tuple(graded["models"]), tuple(graded["baselines"]), signals)


def _labelled_rows(train: Path, rows: Sequence[RoboRewardRow]) -> list[Labelled]:
    """Training rows as moments: progress by (n - 1) / 4, done at 5."""
    found = read_bench(train)
    measured = {row.name for row in rows}
    shared = [row.name for row in found if row.name in measured]
    if shared:
        raise EntracteError(
            "the blind baselines' training rows are in the set that is measured",
            expected="another split",
            found=shared[0],
        )
    return [
        Labelled(
            row.name,
            row.task,
            (row.reward - 1) / 4,
            row.reward == HIGHEST,
            end=True,
            load=partial(read_video, train / row.file_name, LAST),
        )
        for row in found
    ]
