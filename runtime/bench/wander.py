"""An arm that is pushed about: a slowly changing offset of its joints, as of a hand that is not steady."""

from __future__ import annotations

import numpy as np

STEP_S = 0.1
_KEPT = 0.9
# The roll joint turns more freely than the others; the jaw is left alone.
_SHARES = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 0.0])


class Wander:
    """Ornstein-Uhlenbeck offsets float64[6] in deg: std `size_deg`, forgotten within a second or so."""

    def __init__(self, rng: np.random.Generator, size_deg: float) -> None:
        self._rng = rng
        self._push = np.sqrt(1.0 - _KEPT**2) * size_deg
        self._steps = 0
        self._offset = np.zeros(6)

    def step(self) -> np.ndarray:
        """The offset of the next STEP_S."""
        self._offset = _KEPT * self._offset + self._push * self._rng.normal(size=6) * _SHARES
        self._steps += 1
        return self._offset

    def at(self, time_s: float) -> np.ndarray:
        """The offset at a time that never goes back."""
        while self._steps <= time_s / STEP_S:
            self.step()
        return self._offset
