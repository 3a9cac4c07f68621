"""The watch on the reward, from the trainer's metrics to what the page shows of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from trainer.report.files import number as told
from trainer.report.rows import Monitor, Monitoring, Pause, RunData
from trainer.report.statistics import Estimate
from trainer.report.words import ABSENT, count, date, number, percent, percent_range, plural


def monitoring(metrics: Iterable[Mapping[str, Any]]) -> Monitoring:
    """From the records "monitors", "paused" and "resumed"; the newest figures are shown."""
    pauses: list[Pause] = []
    newest: Mapping[str, Any] = {}
    for row in metrics:
        kind = row.get("kind")
        if kind in ("monitors", "paused"):
            newest = row
        if kind == "paused":
            when = told(row.get("unix_s"))
            pauses.append(Pause(str(row.get("monitor", "")), str(row.get("why", "")), when))
        elif kind == "resumed" and pauses:
            pauses[-1] = replace(pauses[-1], resumed=True, note=str(row.get("note", "")))
    monitors = tuple(
        Monitor(
            str(name),
            int(said.get("counted", 0)),
            int(said.get("alone", 0)),
            told(said.get("evidence_log10")),
            told(said.get("limit_log10")),
        )
        for name, said in newest.items()
        if isinstance(said, Mapping) and "evidence_log10" in said
    )
    value, low, high = newest.get("true_success_all") or (None, None, None)
    success = (told(value), told(low), told(high))
    return Monitoring(monitors, tuple(pauses), success, int(newest.get("waiting", 0)))


def monitors_section(run: RunData) -> dict[str, Any]:
    """{} where the trainer did not watch."""
    found = run.monitoring
    if not found.monitors:
        return {}
    true = Estimate(*found.true_success, count=0)
    known = (
        f"True success of the training episodes, estimated from the reward's verdicts and a person's labels: "
        f"{percent(true.value)} ({percent_range(true)}, 95\N{NO-BREAK SPACE}%). "
        if not math.isnan(true.value)
        else "Too few labels for an estimate of true success. "
    )
    return {
        "pauses": [_told(pause) for pause in found.pauses],
        "rows": [
            (
                monitor.name,
                count(monitor.counted) if monitor.counted else "nothing to compare with",
                count(monitor.alone) if monitor.counted else ABSENT,
                _power(monitor.evidence_log10) if monitor.counted else ABSENT,
                _power(monitor.limit_log10),
            )
            for monitor in found.monitors
        ],
        "caption": (
            "Evidence that the reward calls successes what its second opinion or a person calls failures; "
            f"where it reaches the limit, refinement pauses itself. {known}"
            f"{plural(found.waiting, 'episode')} waited for a label."
        ),
    }


def _told(pause: Pause) -> str:
    after = ""
    if pause.resumed:
        after = " A person let it go on" + (f": {pause.note}." if pause.note else ".")
    return (
        f"Refinement paused itself on {date(pause.unix_s)}, by {pause.monitor}: {pause.why}.{after}"
    )


def _power(log10: float) -> str:
    return ABSENT if math.isnan(log10) else f"10^{number(log10, 1)}"
