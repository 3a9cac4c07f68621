"""The last observations of an episode, for a policy that looks at more than one. Copies nothing.

Owns which observations go together; doesn't own when to infer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

Seen = tuple[Mapping[str, np.ndarray], np.ndarray]
"""Pictures uint8[H,W,3] by camera and joints float32[joints] of one tick."""


class History:
    """`observations` of them are wanted, `apart` periods of the loop from one to the next: as the policy was
    trained."""

    def __init__(self, observations: int, apart: int) -> None:
        self._wanted, self._apart = observations, apart
        self._seen: deque[tuple[int, Seen]] = deque(maxlen=(observations - 1) * apart + 1)

    def add(self, period: int, pictures: Mapping[str, np.ndarray], state: np.ndarray) -> None:
        """The observation of this `period` of the loop, which only grows: those without a tick, or whose tick
        had no observation, count too. Nobody may write to it."""
        self._seen.append((period, (pictures, state)))

    def earlier(self) -> list[Seen]:
        """Those that go before the newest, oldest first: of each period that is wanted the nearest there is
        (of two the older). Before the episode's first there is the first."""
        newest = self._seen[-1][0]
        wanted = (newest - back * self._apart for back in range(self._wanted - 1, 0, -1))
        return [min(self._seen, key=lambda one, w=period: abs(one[0] - w))[1] for period in wanted]  # type: ignore[misc]
