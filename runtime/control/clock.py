"""Time, injected: the wall's monotonic clock or a simulated one in lockstep with the bench.

Owns the two clocks. Pacing (what to do with lateness) is `runtime.control.pacing`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Seconds that only go forward."""

    @property
    def lockstep(self) -> bool:
        """True when time passes only inside `wait_until` (pace asap)."""
        ...

    def now_s(self) -> float: ...

    def wait_until(self, deadline_s: float) -> None:
        """Return at the deadline, or at once when it is past."""
        ...


class MonotonicClock:
    """The wall. Sleeps to just before the deadline and spins the rest, `spin_s` at most."""

    lockstep = False

    def __init__(self, spin_s: float = 0.0) -> None:
        self._spin_s = spin_s

    def now_s(self) -> float:
        return time.monotonic()

    def wait_until(self, deadline_s: float) -> None:
        left_s = deadline_s - time.monotonic() - self._spin_s
        if left_s > 0:
            time.sleep(left_s)
        while time.monotonic() < deadline_s:
            pass


class SimulatedClock:
    """Time that somebody else makes pass: `advance(to_s)` returns the new now."""

    lockstep = True

    def __init__(self, advance: Callable[[float], float], start_s: float = 0.0) -> None:
        self._advance, self._now_s = advance, start_s

    def now_s(self) -> float:
        return self._now_s

    def wait_until(self, deadline_s: float) -> None:
        if deadline_s > self._now_s:
            self._now_s = self._advance(deadline_s)

    def set_forward(self, to_s: float) -> None:
        """Whoever makes time pass has set it to `to_s` meanwhile; never back."""
        self._now_s = max(self._now_s, to_s)
