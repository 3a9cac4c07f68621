"""An evaluation on disk: report.json, report.txt, report.md and report.html, in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.files import atomic
from trainer.rewards.evaluation.measure import MEANING
from trainer.rewards.evaluation.provenance import commands, sentence
from trainer.rewards.evaluation.suite import BenchResult, TaskReport

EXPLAINED = """Intervals are 95 %, bootstrapped over recordings (a share without any exception: the exact
binomial bound). "Beats" means intervals apart; tpr, fpr and coverage say nothing alone.
"""


def as_json(
    reports: Sequence[TaskReport], bench: BenchResult | None, made: Mapping[str, Any]
) -> dict[str, Any]:
    """All figures; `made`: their `provenance`."""
    tasks = [report.as_dict() for report in reports]
    return {**made, "bench": bench.as_dict() if bench else None, "tasks": tasks}


def as_text(reports: Sequence[TaskReport], bench: BenchResult | None) -> str:
    """For a terminal."""
    return "\n\n\n".join(part.text() for part in _parts(reports, bench))


def _parts(
    reports: Sequence[TaskReport], bench: BenchResult | None
) -> list[BenchResult | TaskReport]:
    return [*([bench] if bench else []), *reports]


def save(
    output: Path,
    reports: Sequence[TaskReport],
    bench: BenchResult | None,
    made: Mapping[str, Any],
) -> None:
    """Writes the folder `output`. Raises `MissingDependency` without jinja2."""
    from trainer.rewards.evaluation.page import render

    atomic.make_directory(output)
    atomic.write_json(output / "report.json", as_json(reports, bench, made))
    atomic.write_bytes(output / "report.txt", (as_text(reports, bench) + "\n").encode())
    typed = "".join(f"    {line}\n" for line in commands(made).splitlines())
    parts = ["# Reward models beside blind baselines, and their robustness", typed.rstrip()]
    parts += [f"{sentence(made)}.", EXPLAINED.rstrip()]
    if reports:
        parts.append("\n".join(f"- `{name}`: {words}" for name, words in MEANING.items()))
    parts += [part.markdown() for part in _parts(reports, bench)]
    atomic.write_bytes(output / "report.md", "\n\n".join(parts).encode())
    command = f"{commands(made)}\n{sentence(made)}"
    page = render(reports, bench, "How good the reward models are", command)
    atomic.write_bytes(output / "report.html", page.encode())
