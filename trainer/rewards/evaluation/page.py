"""The page of an evaluation: tables, diagrams and the worst cases as pictures, in one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal
from trainer.report.charts import score_histogram
from trainer.report.pictures import jpeg_uri
from trainer.report.svg import Drawing, Scale
from trainer.report.template import as_markup, fill
from trainer.report.words import number
from trainer.rewards.evaluation import metrics
from trainer.rewards.evaluation.calibration import LEAST_TEMPERATURE, MOST_TEMPERATURE
from trainer.rewards.evaluation.comparison import against, verdict
from trainer.rewards.evaluation.measure import HIGHER_IS_BETTER, MEANING, Measured, Outcome
from trainer.rewards.evaluation.roboreward_bench import BenchReport, parse_answer, score_of
from trainer.rewards.evaluation.suite import (
    BENCH_FIGURES,
    BenchResult,
    Calibrated,
    TaskReport,
    check_table,
)
from trainer.rewards.evaluation.videos import read_video

WORST = 6
HERE = Path(__file__).parent
STYLE = Path(__file__).parents[2] / "report" / "style.css"


def render(tasks: Sequence[TaskReport], bench: BenchResult | None, title: str, command: str) -> str:
    """The page as text; everything but our own SVG is escaped. Raises `MissingDependency`."""
    return fill(
        HERE / "page.html.j2",
        title=title,
        command=command,
        style=as_markup(STYLE.read_text()),
        bench=_bench_section(bench) if bench else None,
        tasks=[_task_section(report) for report in tasks],
        meaning=MEANING,
    )


def _task_section(report: TaskReport) -> dict[str, Any]:
    others = {b.model: b.figures for b in report.baselines}
    table = [
        {
            "name": key,
            "direction": "↑" if up else "↓",
            "meaning": MEANING[key],
            "models": [str(m.figures[key]) for m in report.models],
            "said": [
                against(key, m.figures[key], {n: f[key] for n, f in others.items()}, up)
                for m in report.models
            ],
            "baselines": [f"{f[key].value:.3f}" for f in others.values()],
        }
        for key, up in HIGHER_IS_BETTER.items()
    ]
    return {
        "name": report.task,
        "counts": report.counts,
        "models": [m.model for m in report.models],
        "baselines": list(others),
        "table": table,
        "checks": check_table(report.checks) if report.checks else [],
        "calibrated": [
            {"model": name, "words": found if isinstance(found, str) else _calibration(found)}
            for name, found in report.calibrated.items()
        ],
        "diagrams": [_diagrams(m) for m in report.models],
        "worst": [
            {"model": m.model, "threshold": f"{m.threshold:.3g}", "cases": _worst(m)}
            for m in report.models
        ],
    }


def _calibration(found: Calibrated) -> str:
    """In a few sentences; a third place is as far as so few ends go."""
    said, scaled, mapped = (number(v, 3) for v in found.ece.values())
    warm = (
        f"no temperature (the best is beyond the search's {LEAST_TEMPERATURE:g} to "
        f"{MOST_TEMPERATURE:g}); calibration error here {said} as said"
        if math.isnan(found.temperature)
        else f"temperature {number(found.temperature, 3)}; calibration error here {said} as said, "
        f"{scaled} with the temperature"
    )
    limit = found.abstention
    refused = (
        f"Abstaining above an uncertainty of {number(limit.limit, 3)} answered "
        f"{number(limit.coverage, 3)} of the validation ends, {number(limit.risk, 3)} of them wrongly"
        if limit.coverage
        else "However certain, it is wrong too often for a limit of uncertainty"
    )
    return (
        f"fitted on {found.validation} validation ends, {found.failures} of them failures: {warm}, "
        f"{mapped} with the isotonic map. Threshold for {found.false_positive_rate:g} false positives: "
        f"{number(found.threshold, 3)} (shipped {number(found.shipped, 3)}); "
        f"{number(found.passed_failures, 3)} of the failures and {number(found.passed_successes, 3)} of "
        f"the successes here pass it. {refused}."
    )


def _diagrams(measured: Measured) -> dict[str, str]:
    said = [o.end.completion for o in measured.outcomes]
    truth = [o.case.succeeded for o in measured.outcomes]
    judged = np.isfinite(said)
    return {
        "model": measured.model,
        "reliability": reliability_diagram(np.array(said)[judged], np.array(truth, bool)[judged]),
        "histogram": score_histogram(said, truth, measured.threshold),
        "risk": risk_diagram(measured.outcomes),
    }


def reliability_diagram(said: np.ndarray, truth: np.ndarray) -> str:
    """Said against found, a dot a bin (its title gives the count); the diagonal is honest."""
    drawing = Drawing(300, 236, "Share that succeeded, by the completion said")
    x, y = Scale(0, 1, 40, 288), Scale(0, 1, 194, 12)
    drawing.y_axis(y, [0, 0.5, 1], lambda v: f"{v:g}", 40, 288)
    drawing.rule(x(0), y(0), x(1), y(1), "baseline")
    bins = metrics.reliability(said, truth)
    drawing.line([(x(b.said), y(b.found)) for b in bins], "judged")
    most = max((b.count for b in bins), default=1)
    for b in bins:
        radius = 3 + 5 * (b.count / most) ** 0.5
        drawing.dot(x(b.said), y(b.found), "judged", radius, f"{b.count} episodes")
    drawing.x_axis(x, [0, 0.5, 1], lambda v: f"{v:g}", 200)
    drawing.text((x.start + x.stop) / 2, 232, "completion said (size: how often)", "label")
    return drawing.markup()


def risk_diagram(outcomes: Sequence[Outcome]) -> str:
    """Share of wrong verdicts among the most certain ones, over how many are answered."""
    wrong = np.array([float((o.verdict is True) != o.case.succeeded) for o in outcomes])
    sure = [-1.0 if o.verdict is None else 1.0 - o.end.uncertainty for o in outcomes]
    coverage, risk = metrics.risk_coverage(wrong, np.nan_to_num(sure, nan=0.5))
    top = max(0.1, float(np.ceil(risk.max() * 10) / 10))
    drawing = Drawing(300, 236, "Wrong verdicts, by how many are answered")
    x, y = Scale(0, 1, 40, 288), Scale(0, top, 194, 12)
    drawing.y_axis(y, [0, top / 2, top], lambda v: f"{v:.2g}", 40, 288)
    drawing.line([(x(c), y(r)) for c, r in zip(coverage, risk, strict=True)], "truth")
    drawing.x_axis(x, [0, 0.5, 1], lambda v: f"{v:g}", 200)
    drawing.text((x.start + x.stop) / 2, 232, "share answered, the surest first", "label")
    return drawing.markup()


def badness(outcome: Outcome) -> float:
    """Wrong verdicts first, the surest of them foremost; then ends whose progress is furthest off."""
    truth = float(outcome.case.succeeded)
    completion = outcome.end.completion
    if outcome.verdict is None:
        return 1.0 + truth
    off = abs(completion - truth)
    if (outcome.verdict is True) != outcome.case.succeeded:
        return 3.0 + off
    true_progress = float(outcome.case.progress[-1])
    process = outcome.end.process
    return 0.0 if math.isnan(process - true_progress) else abs(process - true_progress)


def _worst(measured: Measured) -> list[dict[str, Any]]:
    order = sorted(measured.outcomes, key=badness, reverse=True)
    return [_picture(outcome) for outcome in order[:WORST]]


def _picture(outcome: Outcome) -> dict[str, Any]:
    case, end = outcome.case, outcome.end
    video = case.load()
    said = {True: "called done", False: "called not done", None: f"abstained: {end.abstained}"}
    right = outcome.verdict is not None and outcome.verdict is case.succeeded
    return {
        "name": case.name,
        "instruction": case.instruction,
        "truth": f"{'succeeded' if case.succeeded else 'failed'}, progress {case.progress[-1]:.2f}",
        "said": said[outcome.verdict],
        "wrong": not right,
        "signals": _signals(end),
        "pictures": _ends_of(video),
        "trace": _trace(outcome, video),
    }


def _ends_of(video: Video) -> list[dict[str, str]]:
    """First and last frame of the first camera, and the last of the others."""
    cameras = sorted(video.views)
    shown = [(f"{cameras[0]}, first", video.views[cameras[0]][0])]
    shown += [(f"{camera}, last", video.views[camera][-1]) for camera in cameras]
    return [{"name": name, "uri": jpeg_uri(frame)} for name, frame in shown]


def _signals(signal: RewardSignal) -> str:
    parts = [
        f"{name} {number(round(value, 2) + 0.0)}"  # no minus zero
        for name in ("process", "completion", "contrastive", "uncertainty")
        if not math.isnan(value := getattr(signal, name))
    ]
    return ", ".join(parts) or "no signal"


def _trace(outcome: Outcome, video: Video) -> str:
    """True progress (grey), process and completion of the scored moments."""
    drawing = Drawing(520, 140, f"Signals of {outcome.case.name}")
    times = video.times_s
    x, y = Scale(0, max(float(times[-1]), 0.1), 30, 492), Scale(0, 1, 110, 8)
    drawing.y_axis(y, [0, 0.5, 1], lambda v: f"{v:g}", 30, 492)
    truth = [(x(t), y(p)) for t, p in zip(times, outcome.case.progress, strict=True)]
    drawing.line(truth, "first")
    for name, kind in (("process", "truth"), ("completion", "judged")):
        points = [
            (x(float(times[row])), y(getattr(s, name)))
            for row, s in zip(outcome.rows, outcome.signals, strict=True)
        ]
        drawing.line([p for p in points if not math.isnan(p[1])], kind)
    last = float(times[-1])
    drawing.x_axis(x, [0, last], lambda v: f"{v:.1f} s", 116)
    return drawing.markup()


def _bench_section(bench: BenchResult) -> dict[str, Any]:
    others = {r.model: r.figures for r in bench.baselines}
    return {
        "rows": len(bench.rows),
        "models": [r.model for r in bench.models],
        "baselines": list(others),
        "table": [
            {
                "name": key,
                "direction": "↑" if up else "↓",
                "models": [str(r.figures[key]) for r in bench.models],
                "said": [
                    verdict(r.figures[key], {n: f[key] for n, f in others.items()}, up)
                    for r in bench.models
                ],
                "baselines": [str(f[key]) for f in others.values()],
            }
            for key, up in BENCH_FIGURES.items()
        ],
        "subsets": _subsets([*bench.models, *bench.baselines]),
        "notes": [f"{r.model}: {note}" for r in bench.models for note in r.notes()],
        "worst": [{"model": r.model, "cases": _worst_rows(bench, r)} for r in bench.models],
    }


def _subsets(reports: Sequence[BenchReport]) -> list[list[str]]:
    table = [["subset", "rows", *(r.model for r in reports)]]
    for name, (count, _) in (reports[0].subsets if reports else {}).items():
        table.append([name, str(count), *(f"{r.subsets[name][1]:.3f}" for r in reports)])
    return table


def _worst_rows(bench: BenchResult, report: BenchReport) -> list[dict[str, Any]]:
    out = []
    for index in np.argsort(-report.errors, kind="stable")[:WORST].tolist():
        row = bench.rows[index]
        signals = bench.signals.get(report.model)
        signal = signals[index] if signals else None
        out.append(
            {
                "name": row.file_name,
                "instruction": row.task,
                "truth": f"score {row.reward} of 5",
                "said": f"error {report.errors[index]:.2f}",
                "wrong": bool(report.errors[index] >= 1),
                "signals": _bench_signals(signal),
                "pictures": _row_pictures(bench.videos / row.file_name),
                "trace": "",
            }
        )
    return out


def _bench_signals(signal: RewardSignal | None) -> str:
    if signal is None:
        return "no signal"
    score = parse_answer(score_of(signal, "expected"))
    said = f"abstained: {signal.abstained}" if score is None else f"score {score:.2f}"
    return f"{said}; {_signals(signal)}"


def _row_pictures(path: Path) -> list[dict[str, str]]:
    """What can't be read is left out: the page is made all the same."""
    try:
        video = read_video(path, FrameContract(layout="ends"))
    except EntracteError:
        return []
    frames = next(iter(video.views.values()))
    return [
        {"name": "first", "uri": jpeg_uri(frames[0])},
        {"name": "last", "uri": jpeg_uri(frames[-1])},
    ]
