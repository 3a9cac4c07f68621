"""Reads the result cells of `benchmarks.refinement` and makes the table with paired intervals.

Pure but for reading JSON: one cell is one (task, reward, seed). Nothing is left out silently: a cell
that is missing is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.report.several import over_seeds, paired_over_seeds


@dataclass(frozen=True)
class Cell:
    """Success (0 or 1) of the base and of the refined policy on the same scenes, in the same order."""

    task: str
    reward: str
    seed: int
    base: tuple[int, ...]
    final: tuple[int, ...]
    wall_s: float
    episodes: int
    curve: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Iteration -> success of its release on those scenes."""
    on_line: tuple[float, ...] = ()
    """Success rate in each third of the training episodes, explored as they are."""

    @property
    def gain(self) -> float:
        """Points (percent) that refinement added on these scenes."""
        return 100.0 * (float(np.mean(self.final)) - float(np.mean(self.base)))


@dataclass(frozen=True)
class Row:
    task: str
    reward: str
    seeds: tuple[int, ...]
    base: float
    final: float
    gain: float
    seed_low: float
    seed_high: float
    pair_low: float
    pair_high: float
    per_seed: tuple[float, ...]
    evaluation_episodes: int
    curve: tuple[tuple[int, float], ...]
    """Iteration -> success in percent, where every seed has it."""
    on_line: tuple[float, ...]
    wall_s: float


def load_cells(folder: Path) -> list[Cell]:
    """Every finished cell under `folder`, in the order of their names."""
    cells = []
    for path in sorted(folder.glob("*/*.json")):
        record = json.loads(path.read_text())
        if record.get("what") != "refinement-cell":
            continue
        base = {int(k): int(v) for k, v in record["base"].items()}
        final = {int(k): int(v) for k, v in record["final"].items()}
        shared = sorted(base.keys() & final.keys())
        cells.append(
            Cell(
                record["task"],
                record["reward"],
                int(record["seed"]),
                tuple(base[s] for s in shared),
                tuple(final[s] for s in shared),
                float(record["wall_s"]),
                int(record["training_episodes"]),
                tuple(
                    (int(number), tuple(int(found[str(s)]) for s in shared))
                    for number, found in sorted(
                        record.get("curve", {}).items(), key=lambda item: int(item[0])
                    )
                ),
                _thirds(record["training"]["truth"]),
            )
        )
    return cells


def _thirds(success: Sequence[bool]) -> tuple[float, ...]:
    if len(success) < 3:
        return ()
    return tuple(float(part.mean()) for part in np.array_split(np.array(success, float), 3))


def missing(cells: Sequence[Cell], wanted: Sequence[tuple[str, str, int]]) -> list[str]:
    """Those of `wanted` (task, reward, seed) that there is no cell of, in words."""
    there = {(cell.task, cell.reward, cell.seed) for cell in cells}
    return [
        f"{task} {reward} seed {seed}"
        for task, reward, seed in wanted
        if (task, reward, seed) not in there
    ]


def rows(cells: Sequence[Cell]) -> list[Row]:
    """One row per (task, reward): means over seeds with two 95 % intervals of the gain.

    `seed_*`: Student's t over the seeds' gains (what another seed would give); `pair_*`: bootstrap over
    seeds and, within a seed, over paired scenes.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.reward), []).append(cell)
    return [_row(task, reward, group) for (task, reward), group in sorted(groups.items())]


def _row(task: str, reward: str, group: Sequence[Cell]) -> Row:
    gains = [cell.gain for cell in group]
    seeds = over_seeds(gains)
    paired = paired_over_seeds([100.0 * (np.array(c.final) - np.array(c.base)) for c in group])
    return Row(
        task=task,
        reward=reward,
        seeds=tuple(cell.seed for cell in group),
        base=100 * float(np.mean([np.mean(cell.base) for cell in group])),
        final=100 * float(np.mean([np.mean(cell.final) for cell in group])),
        gain=seeds.value,
        seed_low=seeds.low,
        seed_high=seeds.high,
        pair_low=paired.low,
        pair_high=paired.high,
        per_seed=tuple(gains),
        evaluation_episodes=sum(len(cell.final) for cell in group),
        curve=tuple(
            (number, 100 * float(np.mean([np.mean(dict(cell.curve)[number]) for cell in group])))
            for number in sorted(set.intersection(*(set(dict(cell.curve)) for cell in group)))
        ),
        on_line=tuple(
            100 * float(np.mean(third))
            for third in zip(*(cell.on_line for cell in group if cell.on_line), strict=True)
        ),
        wall_s=float(np.mean([cell.wall_s for cell in group])),
    )


def markdown(table: Sequence[Row], targets: Mapping[str, str]) -> str:
    """The table as Markdown; `targets`: what the issue asks of each reward."""
    heads = (
        "task", "reward", "seeds", "base %", "on the way %", "refined %", "gain, points",
        "95 % over seeds (t)", "95 % paired bootstrap", "per seed", "episodes evaluated",
        "on line, thirds %", "to truth", "minutes a cell", "target",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table:
        truths = {r.reward: r.final for r in table if r.task == row.task}
        best = truths.get("truth-end", truths.get("truth", math.nan))
        seeds_interval = (
            "—" if math.isnan(row.seed_low) else f"[{row.seed_low:+.1f}, {row.seed_high:+.1f}]"
        )
        cells = (
            row.task, row.reward, str(len(row.seeds)), f"{row.base:.1f}",
            ", ".join(f"{number}: {success:.1f}" for number, success in row.curve) or "—",
            f"{row.final:.1f}", f"**{row.gain:+.1f}**", seeds_interval,
            f"[{row.pair_low:+.1f}, {row.pair_high:+.1f}]",
            ", ".join(f"{g:+.0f}" for g in row.per_seed), str(row.evaluation_episodes),
            ", ".join(f"{third:.0f}" for third in row.on_line) or "—",
            "—" if math.isnan(best) else f"{row.final - best:+.1f}",
            f"{row.wall_s / 60:.0f}", targets.get(row.reward, ""),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
