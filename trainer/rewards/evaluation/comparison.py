"""Whether a figure beats the blind baselines, in words, and the tables that say so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainer.rewards.evaluation.bootstrap import Figure

TOGETHER = ("tpr", "fpr", "coverage")
"""Figures that say nothing alone: who calls everything done has the best tpr, and the worst fpr."""


def beats(figure: Figure, other: Figure, higher: bool) -> bool:
    """Better with 95 % intervals apart; a missing interval proves nothing."""
    if any(math.isnan(v) for v in (figure.low, figure.high, other.low, other.high)):
        return False
    return figure.low > other.high if higher else figure.high < other.low


def verdict(figure: Figure, baselines: Mapping[str, Figure], higher: bool) -> str:
    """One phrase a figure: beats all baselines, or which it does not beat."""
    known = {name: f for name, f in baselines.items() if not math.isnan(f.value)}
    if math.isnan(figure.value):
        return "not measured"
    if not known:
        return "no baseline has this figure"
    unbeaten = [name for name, other in known.items() if not beats(figure, other, higher)]
    if not unbeaten:
        return "beats every baseline"
    better = [name for name in unbeaten if beats(known[name], figure, higher)]
    if better:
        return f"WORSE than {', '.join(better)}" + _rest(unbeaten, better)
    return f"does not beat {', '.join(unbeaten)} (intervals overlap)"


def against(key: str, figure: Figure, baselines: Mapping[str, Figure], higher: bool) -> str:
    """The `verdict` on the figure `key`; "" for those that go together."""
    return "" if key in TOGETHER else verdict(figure, baselines, higher)


def _rest(unbeaten: Sequence[str], better: Sequence[str]) -> str:
    rest = [name for name in unbeaten if name not in better]
    return f"; does not beat {', '.join(rest)}" if rest else ""


def rows_of(
    models: Mapping[str, Mapping[str, Figure]],
    baselines: Mapping[str, Mapping[str, Figure]],
    higher: Mapping[str, bool],
) -> list[list[str]]:
    """Header and one row a figure: its name and direction, each model's value and what it beats, each
    baseline's value."""
    head = ["figure"]
    for name in models:
        head += [name, f"{name}: against the baselines"]
    table = [[*head, *baselines]]
    for key, up in higher.items():
        row = [f"{key} ({'higher' if up else 'lower'} is better)"]
        for figures in models.values():
            others = {name: found[key] for name, found in baselines.items() if key in found}
            figure = figures.get(key, Figure(math.nan))
            row += [str(figure), against(key, figure, others, up)]
        row += [str(found.get(key, Figure(math.nan))) for found in baselines.values()]
        table.append(row)
    return table


def values_and_words(table: Sequence[Sequence[str]], models: int) -> list[list[list[str]]]:
    """A table of `rows_of` as two narrower ones: the values alone, and what each model beats, of the figures
    of which that is said."""
    said = {2 + 2 * i for i in range(models)}
    values = [[cell for i, cell in enumerate(row) if i not in said] for row in table]
    words = [[row[0], *(row[i] for i in sorted(said))] for row in table]
    return [values, [row for row in words if any(row[1:])]]


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table for docs; `|` inside cells is escaped."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines) + "\n"


def plain(table: Sequence[Sequence[str]]) -> str:
    """The table for a terminal: columns padded."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
