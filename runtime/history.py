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
    """`observations` of them are wanted, `apart` ticks from one to the next: as the policy was trained."""

    def __init__(self, observations: int, apart: int) -> None:
        self._wanted, self._apart = observations, apart
        self._seen: deque[Seen] = deque(maxlen=(observations - 1) * apart + 1)

    def add(self, pictures: Mapping[str, np.ndarray], state: np.ndarray) -> None:
        """The observation of this tick; call once in every tick that has one. Nobody may write to it."""
        self._seen.append((pictures, state))

    def earlier(self) -> list[Seen]:
        """Those that go before the newest, oldest first; before the episode's first there is the first."""
        newest = len(self._seen) - 1
        steps = range(self._wanted - 1, 0, -1)
        return [self._seen[max(0, newest - step * self._apart)] for step in steps]
