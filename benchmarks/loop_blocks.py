"""What the blocks of `benchmarks.loop` amount to: counting on one grid, quantiles, whose a late tick was.

Owns the file of blocks and the table; starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.bare import quantiles
from benchmarks.machine import machine
from benchmarks.pauses import Span, covered_s
from contracts.messages import Step
from runtime.control import pacing
from runtime.control.pacing import percentile

KINDS = ("loop", "bare", "lerobot")
NAMES = {"loop": "ours", "bare": "bare", "lerobot": "LeRobot"}
MORE_MS, MISSED_PERCENT = 2.0, 0.1
"""Targets: p99 above the bare loop's, and missed ticks."""
LATE_S = 0.005


class Blocks:
    """One rate's blocks, a JSON line each. Those in which the machine itself stood still for more than
    `restless_percent` of the time are kept and counted, and nothing else is made of them: whichever loop ran,
    and however it did, as the probes alone say it."""

    def __init__(self, path: Path, restless_percent: float = 100.0) -> None:
        self._path, self._restless_percent = path, restless_percent
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._rows: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, kind: str, block: dict[str, Any]) -> None:
        self._rows.append({"kind": kind, **block})
        with self._path.open("a") as file:
            file.write(json.dumps(self._rows[-1]) + "\n")

    def all_of(self, kind: str) -> Iterator[dict[str, Any]]:
        return (row for row in self._rows if row["kind"] == kind)

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """Those that count."""
        return (row for row in self.all_of(kind) if self.counts(row))

    def counts(self, row: dict[str, Any]) -> bool:
        return lost_percent(row) <= self._restless_percent

    def ticks(self, kind: str) -> int:
        return sum(len(row["lateness_s"]) for row in self.of(kind))

    def summary(self, rate_hz: float) -> dict[str, Any]:
        """Quantiles by kind, and of our loop what else there is to say."""
        found: dict[str, Any] = {"rate_hz": rate_hz, "machine": machine()}
        if self._restless_percent < 100.0:
            found["restless_percent"] = self._restless_percent
        for kind in KINDS:
            every, rows = list(self.all_of(kind)), list(self.of(kind))
            if not rows:
                continue
            lateness_s = [value for row in rows for value in row["lateness_s"]]
            found[kind] = quantiles(lateness_s, sum(row["missed"] for row in rows))
            off_s = sorted(value for row in rows for value in row["off_s"])
            found[kind] |= {
                "blocks": len(rows),
                "left_out": len(every) - len(rows),
                "missed_percent_of_all": _missed_percent(every),
                "interval_off_p50_ms": 1e3 * percentile(off_s, 0.5),
                "interval_off_p99_ms": 1e3 * percentile(off_s, 0.99),
                "pause_max_ms": _longest_ms(rows),
                "stolen_s": round(sum(row["stolen_s"] for row in rows), 3),
                # Of all blocks: that a robot stopped by itself is told, whatever the machine did.
                "stopped": [row["stopped"] for row in every if row.get("stopped")],
                "pause_max_of_all_ms": _longest_ms(every),
            }
        ours = [row for row in self.of("loop") if not row.get("stopped")]
        found["late"] = [late for row in ours for late in row["late"]]
        found["sections"] = _worst(row["sections"] for row in ours)
        for name in ("frames_dropped", "records_dropped", "held_ticks"):
            found[name] = sum(row[name] for row in ours)
        found["pictures"] = ours[-1]["pictures"] if ours else {}
        return found


def lost_percent(block: dict[str, Any]) -> float:
    """How much of a block's time the machine lost on any processor."""
    spans: list[Span] = [(a, b) for a, b in block["pauses"]]
    if not spans:
        return 0.0
    first_s, last_s = min(a for a, _ in spans), max(b for _, b in spans)
    lost_s = covered_s(spans, first_s, last_s)
    return 100.0 * lost_s / max(float(block["seconds"]), last_s - first_s)


def _missed_percent(rows: list[dict[str, Any]]) -> float:
    ticks = sum(len(row["lateness_s"]) for row in rows)
    missed = sum(int(row["missed"]) for row in rows)
    return 100.0 * missed / max(1, ticks + missed)


def _longest_ms(rows: list[dict[str, Any]]) -> float:
    return 1e3 * max((b - a for row in rows for a, b in row["pauses"]), default=0.0)


def on_grid(starts_s: Sequence[float], rate_hz: float) -> tuple[list[float], int]:
    """(lateness of every tick, periods without one) of a loop without deadlines of its own: against those of
    the rate that it was asked for, counted from its first tick as our own loop counts."""
    pace = pacing.start(rate_hz, starts_s[0] - 1.0 / rate_hz)
    found = []
    for start_s in starts_s:
        pace, lateness_s = pacing.begin_tick(pace, start_s)
        found.append(round(lateness_s, 7))
    return found, pace.missed


def off_period(starts_s: Sequence[float], period_s: float) -> list[float]:
    """How far each time between two ticks is from the period, in seconds."""
    return [round(abs(b - a - period_s), 7) for a, b in pairwise(starts_s)]


def explain(at_s: float, late_s: float, period_s: float, lost: list[Span]) -> dict[str, Any]:
    """A tick that began late at `at_s` (monotonic), and in ms how much the machine lost since the tick before
    was due: at least half of the lateness makes it the machine's."""
    from_s = at_s - late_s - period_s
    lost_s = covered_s(lost, from_s, at_s)
    return {
        "at_s": at_s,
        "late_ms": 1e3 * late_s,
        "lost_ms": 1e3 * lost_s,
        "whose": "machine" if lost_s >= 0.5 * late_s else "program",
    }


def picture_ages(steps: list[Step]) -> dict[str, dict[str, float]]:
    """By camera: ticks that saw a new picture, in percent, and how old pictures were, median and p99."""
    found = {}
    for name in sorted({name for step in steps for name in step.captured_s}):
        ages_s = sorted(s.tick_s - s.captured_s[name] for s in steps if name in s.captured_s)
        fresh = len({s.captured_s[name] for s in steps if name in s.captured_s})
        found[name] = {
            "fresh_percent": 100.0 * fresh / len(steps),
            "age_p50_ms": 1e3 * percentile(ages_s, 0.5),
            "age_p99_ms": 1e3 * percentile(ages_s, 0.99),
        }
    return found


def _worst(sections: Iterable[dict[str, float]]) -> dict[str, float]:
    """The slowest block's figure of each."""
    found: dict[str, float] = {}
    for one in sections:
        for name, value_s in one.items():
            found[name] = max(value_s, found.get(name, 0.0))
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown for a terminal and for docs/results."""
    columns = ("p50_ms", "p99_ms", "p99.9_ms", "max_ms", "interval_off_p99_ms")
    lines = [
        f"{found['rate_hz']:g} Hz",
        "",
        "| loop | lateness p50, ms | p99 | p99.9 | max | period off by, p99 | ticks | missed | missed, % "
        "| machine's longest pause, ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        if kind in found:
            row = found[kind]
            values = " | ".join(f"{row[name]:.3f}" for name in columns)
            lines.append(
                f"| {NAMES[kind]} | {values} | {row['ticks']} | {row['missed']} | "
                f"{row['missed_percent']:.3f} | {row['pause_max_ms']:.1f} |"
            )
    return "\n".join([*lines, "", *_verdicts(found)])


def _verdicts(found: dict[str, Any]) -> list[str]:
    ours, bare, lerobot = (found.get(kind) for kind in KINDS)
    if not ours or not bare:
        return []
    more, missed = ours["p99_ms"] - bare["p99_ms"], ours["missed_percent"]
    said = [
        f"p99 above the bare loop's {more:+.2f} ms (<= {MORE_MS:g}: {_met(more <= MORE_MS)}), missed "
        f"{missed:.3f} % (<= {MISSED_PERCENT:g}: {_met(missed <= MISSED_PERCENT)})"
    ]
    if "restless_percent" in found:
        left_out = ", ".join(
            f"{NAMES[kind]} {row['left_out']} of {row['left_out'] + row['blocks']} (missed with them "
            f"{row['missed_percent_of_all']:.3f} %)"
            for kind, row in found.items()
            if kind in KINDS
        )
        said.append(
            "left out are blocks in which the machine itself stood still for more than "
            f"{found['restless_percent']:g} % of the time: {left_out}"
        )
    if ours["stopped"]:
        paused = ours["pause_max_of_all_ms"]
        said.append(
            f"our loop stopped by itself {len(ours['stopped'])} times (the machine's longest pause "
            f"{paused:.0f} ms), the first: {ours['stopped'][0]}"
        )
    if lerobot:
        fewer = missed <= lerobot["missed_percent"]
        if lerobot["stopped"]:
            said.append(f"LeRobot's loop ended by itself: {lerobot['stopped']}")
        said[0] += f", LeRobot {lerobot['missed_percent']:.3f} % (ours fewer: {_met(fewer)})"
    machines = sum(late["whose"] == "machine" for late in found["late"])
    said.append(
        f"late by more than {1e3 * LATE_S:g} ms: {len(found['late'])}, of which {machines} are the "
        f"machine's; pictures dropped {found['frames_dropped']}, records {found['records_dropped']}"
    )
    parts = ("observe", "infer", "gate", "reward", "record", "board")
    took = {
        n: (found["sections"].get(f"{n}_p50_s"), found["sections"].get(f"{n}_p99_s")) for n in parts
    }
    said.append(
        "a tick's sections, worst block's p50 / p99 in ms: "
        + ", ".join(f"{n} {1e3 * a:.2f} / {1e3 * b:.2f}" for n, (a, b) in took.items() if a and b)
    )
    said += [
        f"camera {name}: a new picture in {seen['fresh_percent']:.1f} % of the ticks, age p50 "
        f"{seen['age_p50_ms']:.0f} ms, p99 {seen['age_p99_ms']:.0f} ms"
        for name, seen in found["pictures"].items()
    ]
    return said


def _met(good: bool) -> str:
    return "met" if good else "MISSED"
