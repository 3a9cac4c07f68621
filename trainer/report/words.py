"""Numbers as people read them: percent, seconds, bytes, dates. Pure."""

from __future__ import annotations

import math
import time

from trainer.report.statistics import Estimate

ABSENT = "–"
SPACE = "\N{NO-BREAK SPACE}"  # between a figure and its unit


def percent(share: float, digits: int = 0) -> str:
    return ABSENT if math.isnan(share) else f"{100 * share:.{digits}f}{SPACE}%"


def percent_range(estimate: Estimate) -> str:
    """The interval of a rate: "33–60 %"."""
    if math.isnan(estimate.low):
        return ABSENT
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}{SPACE}%"


def points(difference: float) -> str:
    """A difference of rates in percentage points with its sign."""
    if math.isnan(difference):
        return ABSENT
    if abs(difference) < 0.005:
        return "0"
    # U+2212: a hyphen is too short beside figures.
    return f"{100 * difference:+.0f}".replace("-", "−")


def points_range(estimate: Estimate) -> str:
    return (
        ABSENT if math.isnan(estimate.low) else f"{points(estimate.low)} to {points(estimate.high)}"
    )


def number(value: float, digits: int = 2) -> str:
    return ABSENT if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def seconds(value: float) -> str:
    """Three significant figures with the unit that suits: µs, ms, s, min, h."""
    if math.isnan(value):
        return ABSENT
    size = abs(value)
    if size >= 5400:
        return f"{value / 3600:.1f}{SPACE}h"
    if size >= 120:
        return f"{int(value // 60)}{SPACE}min {int(value % 60):02d}{SPACE}s"
    if size == 0:
        return "0"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if size >= factor or unit == "µs":
            return f"{_three(value / factor)}{SPACE}{unit}"
    raise AssertionError("unreachable")


def decade(value: float) -> str:
    """A power of ten of seconds, for an axis: "10 ms"."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= factor * 0.999 or unit == "µs":
            return f"{value / factor:g}{SPACE}{unit}"
    raise AssertionError("unreachable")


def size(nbytes: float) -> str:
    if math.isnan(nbytes):
        return ABSENT
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f}{SPACE}B" if unit == "B" else f"{_three(nbytes)}{SPACE}{unit}"
        nbytes /= 1000
    return f"{_three(nbytes)}{SPACE}GB"


def count(value: float) -> str:
    """Thousands held apart by thin spaces."""
    return (
        ABSENT if math.isnan(value) else f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    )


def date(unix_s: float) -> str:
    return (
        ABSENT if math.isnan(unix_s) else time.strftime("%d %B %Y, %H:%M", time.localtime(unix_s))
    )


def plural(number_of: int, word: str) -> str:
    return f"{count(number_of)}{SPACE}{word}{'' if number_of == 1 else 's'}"


def _three(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
