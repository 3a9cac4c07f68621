"""A comparison of runs into what its page and its Markdown show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainer.report import charts
from trainer.report.evaluation import Evaluation, judged_by, learned_from, legend
from trainer.report.rows import RunData
from trainer.report.several import Way
from trainer.report.statistics import Estimate
from trainer.report.words import (
    ABSENT,
    date,
    number,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    seconds,
)

HEADS = (
    "runs", "seeds", "base", "refined", "points gained", "95 % over seeds", "95 % paired", "of the best",
    "failure taken for success", "success missed", "rank corr.", "wall time", "robot time",
)  # fmt: skip
NOTES = (
    "Over seeds: Student’s t, "
    "what another seed would give; paired: bootstrap over seeds and, in a seed, over scenes. Of the best: "
    "points below the highest refined rate. The reward’s mistakes are counted over the training episodes "
    "that it judged; rank correlation: its last process against the true progress. Wall and robot time: of a "
    "run, on average."
)
PARTS = (slice(1, 8), slice(8, None))
"""Which columns go beside the names in each of the page's tables: all would not fit."""
SEED_HEADS = (
    "run",
    "seed",
    "base",
    "refined",
    "points gained (95 % paired)",
    "success by",
    "iterations",
    "ended",
)


def row(way: Way, best: float) -> list[str]:
    """The cells of `HEADS`."""
    c = way.judge.confusion if way.judge else None
    return [
        way.name,
        str(len(way.runs)),
        _rate(way.base),
        _rate(way.final),
        points(way.gain.value),
        points_range(way.gain),
        points_range(way.paired),
        points(way.final.value - best),
        percent(c.false_positive_rate) if c else ABSENT,
        percent(1.0 - c.sensitivity) if c else ABSENT,
        number(way.judge.rank_correlation) if way.judge else ABSENT,
        seconds(way.wall_s),
        seconds(way.robot_s),
    ]


def seed_row(run: RunData, found: Evaluation) -> list[str]:
    """The cells of `SEED_HEADS`."""
    return [
        run.folder.name,
        ABSENT if run.seed is None else str(run.seed),
        _rate(found.base),
        _rate(found.final),
        f"{points(found.difference.value)} ({points_range(found.difference)})",
        judged_by(run, found) or ABSENT,
        str(len(run.iterations)),
        run.ended or "not said",
    ]


def _rate(estimate: Estimate) -> str:
    return (
        f"{percent(estimate.value, 1)} ({percent_range(estimate)})"
        if estimate.count
        else "no verdict"
    )


def _part(cells: Sequence[str], part: slice) -> list[str]:
    return [cells[0], *cells[part]]


def best_of(found: Sequence[Way]) -> float:
    rates = [way.final.value for way in found if way.final.count]
    return max(rates, default=math.nan)


def notes(found: Sequence[Way]) -> str:
    """How to read the first table, and whose word its rates are by."""
    said = [
        judged_by(run, one) for way in found for run, one in zip(way.runs, way.each, strict=True)
    ]
    whose = list(dict.fromkeys(by for by in said if by))
    if len(whose) > 1:
        return (
            f"Not all runs go by the same word ({'; '.join(whose)}): rates compare badly. {NOTES}"
        )
    if not whose:
        return NOTES
    paired = any(one.pairs for way in found for one in way.each)
    scenes = ", base and refined policy on the same scenes" if paired else ""
    return f"Success by {whose[0]}{scenes}. {NOTES}"


def title(found: Sequence[Way]) -> str:
    tasks = sorted({run.task for way in found for run in way.runs if run.task})
    return f"{plural(sum(len(way.runs) for way in found), 'run')} of {', '.join(tasks) or 'refinement'}"


def context(found: Sequence[Way]) -> dict[str, Any]:
    """All that the template shows, but style and footer."""
    best = best_of(found)
    started = min((run.started_unix_s for way in found for run in way.runs), default=math.nan)
    return {
        "title": title(found),
        "meta": "" if math.isnan(started) else f"the first of them on {date(started)}",
        "notes": notes(found),
        "tables": [
            {"heads": _part(HEADS, part), "rows": [_part(row(way, best), part) for way in found]}
            for part in PARTS
        ],
        "ways": [_section(way) for way in found],
    }


def _section(way: Way) -> dict[str, Any]:
    lacking = [f"{run.folder.name}: {said}" for run in way.runs for said in run.missing]
    return {
        "name": way.name,
        "chart": charts.success_over_iterations(
            judged=way.learned,
            truth=way.truth,
            base=way.base,
            final=way.final,
            planned=max(run.planned_iterations for run in way.runs),
        ),
        "legend": legend(
            list(zip(way.runs, way.each, strict=True)),
            truth=bool(way.truth),
            learned=bool(way.learned),
        ),
        "heads": SEED_HEADS,
        "rows": [seed_row(run, one) for run, one in zip(way.runs, way.each, strict=True)],
        "missing": lacking,
    }


def markdown(found: Sequence[Way], footer: str) -> str:
    """The same figures as the page, for a terminal, an issue or a repository."""
    best = best_of(found)
    parts = [
        f"# {title(found)}",
        "",
        *_table(HEADS, [row(way, best) for way in found]),
        "",
        notes(found),
    ]
    for way in found:
        rows = [seed_row(run, one) for run, one in zip(way.runs, way.each, strict=True)]
        parts += ["", f"## {way.name}", "", *_table(SEED_HEADS, rows)]
        if tallies := way.truth or way.learned:
            learned = dict.fromkeys(learned_from(run) for run in way.runs)
            whose = "by the truth" if way.truth else f"by {'; '.join(learned)}"
            said = ", ".join(f"{t.successes} of {t.count}" for t in tallies)
            parts += [
                "",
                f"Training episodes that succeeded, {whose}, iteration by iteration: {said}.",
            ]
        parts += [f"- {run.folder.name}: {said}" for run in way.runs for said in run.missing]
    return "\n".join([*parts, "", footer, ""])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines]


def _cell(text: str) -> str:
    """A name may hold anything: nothing of it ends a cell or begins markup."""
    plain = " ".join(text.replace("\\", "\\\\").split())
    for mark in "|`*_<>[]":
        plain = plain.replace(mark, f"\\{mark}")
    return plain
