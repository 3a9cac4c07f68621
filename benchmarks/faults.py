"""Fault injection with the real processes: what fails, how soon the arm is in hold, how soon it stands.

One robot on the bench is started after another; a cause that only holds the arm is injected many times in one
run, one that latches ends it. Every injection is a line of `<folder>/<cause>.jsonl`, so that a second call
goes on where the first one was stopped. The arm's motion is watched over a connection of the benchmark's own.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import machine
from benchmarks.fault_causes import CAUSES, NEVER_STRUCK, Cause
from benchmarks.fault_rig import CLEAN, RATE_HZ, WATCHDOG_S, Rig, installed
from benchmarks.pauses import Probes, Span, covered_s
from contracts.errors import ConfigError, EntracteError
from runtime.control.pacing import percentile

CLEAN_S = 300.0
TABLE_HEAD = "| cause | times | stopped by"
MOST_FAILED = 5
MACHINE_MS = 1e3 * (WATCHDOG_S - 1.0 / RATE_HZ)
"""Control speaks once a period: so much silence more than that makes the watchdog trip."""
ASIDE = " aside"
"""Runs that ended before their injection because the machine stood still: no injections."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
Say = Callable[[str], None]
T = TypeVar("T", int, float)
R = TypeVar("R")


def seconds_of(text: str) -> float:
    """ "30m", "90s", "1h" or plain seconds. Raises `ConfigError`."""
    try:
        return float(text[:-1]) * _UNITS[text[-1]] if text[-1] in _UNITS else float(text)
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError("a duration", expected="30m, 90s or 1h", found=text) from error


def measure(
    folder: Path, times: int, only: Sequence[str], clean_s: float, say: Say
) -> dict[str, Any]:
    """Everything that is missing up to `times` of each cause (all, or `only` those), then `clean_s` in all
    without one."""
    names = [cause.name for cause in CAUSES]
    unknown = sorted(set(only) - set(names))
    if unknown:
        raise ConfigError(f"no cause named '{unknown[0]}'", expected=f"some of {names}")
    folder.mkdir(parents=True, exist_ok=True)
    with installed(folder):
        for cause in CAUSES:
            if not only or cause.name in only:
                _inject(cause, folder, times, say)
        _run_clean(folder, clean_s, say)
    rows = {cause.name: _lines(folder, cause.name) for cause in CAUSES}
    return {
        "machine": machine.machine(),
        "times": times,
        "causes": {c.name: summary(rows[c.name], c.check) for c in CAUSES if rows[c.name]},
        "clean": _lines(folder, CLEAN),
        "aside": {c.name: len(_lines(folder, c.name + ASIDE)) for c in CAUSES},
        "skipped": {c.name: why for c in CAUSES if (why := c.impossible())},
    }


def _inject(cause: Cause, folder: Path, times: int, say: Say) -> None:
    why = cause.impossible()
    if why:
        say(f"{cause.name}: {why}")
        return

    def once(missing: int) -> None:
        def strike(rig: Rig) -> float | None:
            return _one_run(cause, rig, folder, missing, lambda text: say(f"{cause.name} {text}"))

        ended_s, pauses = _beside_probes(folder, cause, strike)
        if ended_s is not None:
            _count_own_end(cause, folder, machine_ms(ended_s, pauses), say)

    _until_there(lambda: times - len(_lines(folder, cause.name)), once, cause.name, say)


def _until_there(missing: Callable[[], T], once: Callable[[T], None], name: str, say: Say) -> None:
    """Once more while something is missing; some robots may fail to start."""
    failed = 0
    while (left := missing()) > 0:
        try:
            once(left)
        except EntracteError as error:
            failed += 1
            say(f"{name}: {error}")
            if failed == MOST_FAILED:
                raise


def _beside_probes(
    folder: Path, cause: Cause | None, use: Callable[[Rig], R]
) -> tuple[R, list[Span]]:
    """A robot's start, use and end; and when the machine stood still meanwhile."""
    with Probes() as probes:
        with Rig(folder, cause) as rig:
            found = use(rig)
        return found, probes.stop()


def _count_own_end(cause: Cause, folder: Path, stood_ms: float, say: Say) -> None:
    """A run that ended before its injection: one that is not as it should, unless the machine ended it."""
    row = {**NEVER_STRUCK, "machine_ms": stood_ms}
    _append(folder, f"{cause.name}{ASIDE if stood_ms >= MACHINE_MS else ''}", row)
    say(f"{cause.name}: {_short(row)}, the machine stood still for {stood_ms} ms")


def _one_run(cause: Cause, rig: Rig, folder: Path, left: int, say: Say) -> float | None:
    """When the watchdog ended the run before an injection (0: something else did); None: it did not."""
    for number in range(min(cause.per_run, left)):
        # Anywhere in its swing, and not only where a run happens to begin.
        time.sleep(random.uniform(0.2, 1.5))
        # A hold of its own (a late picture) would be taken for what the injection did.
        if not rig.await_running():
            return rig.board.watchdog_tripped_at_s
        row = cause.strike(rig)
        over = row["latched"] or not rig.await_motion()
        if over and not row["latched"] and cause.resumes:
            row |= {"by": f"{row['by']}, never went on", "ok": False}
        _append(folder, cause.name, row)
        say(f"{left - number - 1} left: {_short(row)}")
        if over:
            break
    return None


def _run_clean(folder: Path, clean_s: float, say: Say) -> None:
    def once(left_s: float) -> None:
        row, pauses = _beside_probes(folder, None, lambda rig: rig.run_clean(min(CLEAN_S, left_s)))
        row["machine_ms"] = machine_ms(row["tripped_at_s"], pauses)
        _append(folder, CLEAN, row)
        say(f"clean: {row}")

    _until_there(
        lambda: clean_s - sum(row["seconds"] for row in _lines(folder, CLEAN)), once, CLEAN, say
    )


def machine_ms(tripped_at_s: float, pauses: list[Span]) -> float:
    """How much of the silence that the watchdog tripped for the machine stood still (0 without a trip)."""
    if not tripped_at_s:
        return 0.0
    return round(1e3 * covered_s(pauses, tripped_at_s - WATCHDOG_S, tripped_at_s), 1)


def _lines(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name.replace(' ', '-')}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _append(folder: Path, name: str, row: dict[str, Any]) -> None:
    with (folder / f"{name.replace(' ', '-')}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _short(row: dict[str, Any]) -> str:
    if row["hold_ms"] is None:
        return str(row["by"])
    still = "never" if row["still_ms"] is None else f"{row['still_ms']:.0f} ms"
    return f"hold after {row['hold_ms']:.1f} ms by {row['by']}, standing after {still} more"


def summary(rows: list[dict[str, Any]], check: str) -> dict[str, Any]:
    """Quantiles of one cause; what went wrong is counted and never left out of them silently. `check`: what
    reading back should have said."""

    def quantiles(name: str) -> dict[str, float] | None:
        values = sorted(row[name] for row in rows if row[name] is not None)
        if not values:
            return None
        shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {key: percentile(values, share) for key, share in shares.items()}

    by: dict[str, int] = {}
    for row in rows:
        by[row["by"]] = by.get(row["by"], 0) + 1
    return {
        "times": len(rows),
        "by": by,
        "hold_ms": quantiles("hold_ms"),
        "still_ms": quantiles("still_ms"),
        "wrong": sum(not row["ok"] or row["check"] != check for row in rows),
        "unverified": sum(row["check"] not in ("verified", "not latched") for row in rows),
    }


def table(found: dict[str, Any]) -> str:
    """Markdown, for a terminal and for docs/results."""
    remarks = {cause.name: cause.remark for cause in CAUSES}
    lines = [
        f"{TABLE_HEAD} | fault → hold ms (p50 / p99 / max) | hold → standstill ms "
        "(p50 / p99 / max) | not as it should | not verified | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["causes"].items():
        by = ", ".join(f"{who} {count}" for who, count in row["by"].items())
        lines.append(
            f"| {name} | {row['times']} | {by} | {_three(row['hold_ms'])} | {_three(row['still_ms'])} "
            f"| {row['wrong']} | {row['unverified']} | {remarks[name]} |"
        )
    lines += [f"\n{name}: not run here: {why}" for name, why in found["skipped"].items()]
    if aside := sum(found["aside"].values()):
        lines.append(
            f"\nNot in the table: {aside} runs that the watchdog ended before their injection, in a pause "
            f"of the machine of at least {MACHINE_MS:.0f} ms."
        )
    clean = found["clean"]
    if clean:
        seconds = sum(row["seconds"] for row in clean)
        false = _false_trips(clean)
        others = sum(row["trips"] for row in clean) - false
        stood = f", {others} more where the machine itself stood still" if others else ""
        lines.append(
            f"\nWithout any fault: {seconds / 60:.1f} minutes, {false} false trips{stood}, "
            f"{sum(row['missed'] for row in clean)} missed of {sum(row['ticks'] for row in clean)} ticks."
        )
    few = min((row["times"] for row in found["causes"].values()), default=0)
    if 0 < few < 100:
        lines.append(f"\n**Only {few} of some causes: a trial of the benchmark, not a result.**")
    return "\n".join(lines)


def _three(values: dict[str, float] | None) -> str:
    if values is None:
        return "—"
    return " / ".join(f"{values[key]:.1f}" for key in ("p50", "p99", "max"))


def as_json(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1)


def _false_trips(clean: list[dict[str, Any]]) -> int:
    return sum(row["trips"] for row in clean if row.get("machine_ms", 0.0) < MACHINE_MS)


def good(found: dict[str, Any]) -> bool:
    """Every injection ended and was read back as its cause should, and nothing tripped without one, or
    without the machine having stood still."""
    wrong = sum(row["wrong"] for row in found["causes"].values())
    return not wrong and not _false_trips(found["clean"])
