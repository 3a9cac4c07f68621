"""How regular the loop is: period, execution time, success rate, as ros2_control and libfranka publish them.

Owns counting and judging; memory is taken once, so that a tick allocates nothing here. Thresholds after
ros2_control's controller manager diagnostics (mean error and standard deviation of the period, execution
time); success rate after libfranka's `control_command_success_rate` (100 commands; < 0.95 warn, < 0.90
unsuitable).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from runtime.control.pacing import percentile

SUCCESS_TICKS = 100
SUCCESS_WARN, SUCCESS_ERROR = 0.95, 0.90
WINDOW = 300
"""Ticks that the figures on the board are of."""
_BINS, _FINEST_S, _GROWTH = 400, 1e-6, 1.05
"""Of a histogram from 1 microsecond to about five minutes, 5 % from one bin to the next."""


class Health(IntEnum):
    """Value of `Board.loop_health`."""

    OK = 0
    WARN = 1
    UNSUITABLE = 2


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Shares of the period. `period_*`: the period's mean error or standard deviation; `execution_*`: how
    long a tick's work takes (p99)."""

    period_warn: float = 0.1
    period_error: float = 0.25
    execution_warn: float = 0.7
    execution_error: float = 1.0


class Spread:
    """Mean, standard deviation, p99 and maximum of any number of durations, in fixed memory; p99 to 5 %."""

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self.count = 0
        self._mean_s = self._square = self.max_s = 0.0

    def add(self, value_s: float) -> None:
        self.count += 1
        step = value_s - self._mean_s
        self._mean_s += step / self.count
        self._square += step * (value_s - self._mean_s)  # Welford 1962
        self.max_s = max(self.max_s, value_s)
        place = math.log(value_s / _FINEST_S) / math.log(_GROWTH) if value_s > _FINEST_S else 0.0
        self._counts[min(_BINS - 1, int(place))] += 1

    def summary(self) -> dict[str, float]:
        """In seconds; empty before the first."""
        if not self.count:
            return {}
        std_s = math.sqrt(self._square / self.count)
        return {
            "mean_s": self._mean_s,
            "std_s": std_s,
            "p99_s": self._p99_s(),
            "max_s": self.max_s,
        }

    def _p99_s(self) -> float:
        seen, wanted = 0, math.ceil(0.99 * self.count)
        for place, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(self.max_s, _FINEST_S * _GROWTH ** (place + 1))
        return self.max_s


class Periodicity:
    """`begin` and `end` every tick; what the board shows is of the last `WINDOW` ticks, `report` of all."""

    def __init__(self, rate_hz: float, thresholds: Thresholds) -> None:
        self._period_s, self._thresholds = 1.0 / rate_hz, thresholds
        self._starts_s = np.zeros(WINDOW)
        self._lateness_s, self._execution_s = np.zeros(WINDOW), np.zeros(WINDOW)
        self._ticks = self._missed = self._ended = 0
        self._begun_s = self._skipped_s = 0.0
        self._kept = bytearray(b"\x01" * SUCCESS_TICKS)
        self._due = 0
        self.period, self.execution, self.lateness = Spread(), Spread(), Spread()
        self.worst_success = 1.0

    def begin(self, now_s: float, lateness_s: float, missed: int) -> None:
        """A tick woke `lateness_s` late; `missed` periods in all were skipped so far."""
        at, now_s = self._ticks % WINDOW, now_s - self._skipped_s
        for _ in range(min(missed - self._missed, SUCCESS_TICKS)):
            self._mark(0)
        if missed == self._missed and self._ticks:
            self.period.add(now_s - self._begun_s)
        self._mark(1)
        self._missed, self._begun_s = missed, now_s
        self._starts_s[at], self._lateness_s[at] = now_s, lateness_s
        self.lateness.add(lateness_s)
        self._ticks += 1
        if self._due >= SUCCESS_TICKS:
            self.worst_success = min(self.worst_success, self.success_rate)

    def end(self, now_s: float) -> None:
        """The tick's work is done; nothing where none was begun (in lockstep, between episodes)."""
        if self._ended >= self._ticks:
            return
        execution_s = now_s - self._skipped_s - self._begun_s
        self._execution_s[self._ended % WINDOW] = execution_s
        self.execution.add(execution_s)
        self._ended += 1

    def skip(self, seconds: float) -> None:
        """The clock was set forward by so much: that was no period."""
        self._skipped_s += seconds

    @property
    def success_rate(self) -> float:
        """Share of the last 100 periods that had their tick."""
        return self._kept.count(1) / SUCCESS_TICKS

    def lateness_p99_s(self) -> float:
        return _p99(self._lateness_s[: self._ticks])

    def execution_p99_s(self) -> float:
        return _p99(self._execution_s[: self._ended])

    def rate_hz(self) -> float:
        if self._ticks < 2:
            return 0.0
        newest = self._starts_s[(self._ticks - 1) % WINDOW]
        oldest = self._starts_s[self._ticks % WINDOW] if self._ticks > WINDOW else self._starts_s[0]
        count = min(self._ticks, WINDOW) - 1
        return float(count / (newest - oldest)) if newest > oldest else 0.0

    def period_std_s(self) -> float:
        """Standard deviation of the period."""
        return float(self._periods().std()) if self._ticks > 2 else 0.0

    def health(self) -> Health:
        """The worst of the success rate, the period and the execution time."""
        given, period_s = self._thresholds, self._period_s
        periods = self._periods()
        off = 0.0
        if len(periods) > 1:
            off = max(abs(float(periods.mean()) - period_s), float(periods.std())) / period_s
        work = self.execution_p99_s() / period_s
        rate = self.success_rate
        if rate < SUCCESS_ERROR or off > given.period_error or work > given.execution_error:
            return Health.UNSUITABLE
        warn = rate < SUCCESS_WARN or off > given.period_warn or work > given.execution_warn
        return Health.WARN if warn else Health.OK

    def report(self) -> dict[str, object]:
        """Of the whole run, for the run report."""
        return {
            "health": self.health().name.lower(),
            "success_rate": self.success_rate,
            "worst_success_rate": self.worst_success,
            "periodicity": self.period.summary(),
            "execution": self.execution.summary(),
            "lateness": self.lateness.summary(),
        }

    def _mark(self, value: int) -> None:
        self._kept[self._due % SUCCESS_TICKS] = value
        self._due += 1

    def _periods(self) -> np.ndarray:
        count = min(self._ticks, WINDOW)
        ordered = np.roll(self._starts_s, -(self._ticks % WINDOW)) if self._ticks > WINDOW else None
        return np.diff(self._starts_s[:count] if ordered is None else ordered)


def _p99(values_s: np.ndarray) -> float:
    return percentile(sorted(values_s.tolist()), 0.99) if len(values_s) else 0.0
