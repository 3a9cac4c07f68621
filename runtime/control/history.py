"""The last observations of an episode, for a policy that looks at more than one. Copies nothing.

Owns which observations go together; doesn't own when to infer.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Seen = TypeVar("Seen")


class History(Generic[Seen]):
    """`observations` of them are wanted, `apart` periods of the loop from one to the next: as the policy was
    trained."""

    def __init__(self, observations: int, apart: int) -> None:
        self._wanted, self._apart = observations, apart
        self._seen: deque[tuple[int, Seen]] = deque(maxlen=(observations - 1) * apart + 1)

    def add(self, period: int, seen: Seen) -> None:
        """The observation of this `period` of the loop, which only grows: those without a tick, or whose tick
        had no observation, count too. Nobody may write to it."""
        self._seen.append((period, seen))

    def clear(self) -> None:
        """Begin again, as at the start of an episode."""
        self._seen.clear()

    def chosen(self) -> list[Seen]:
        """As many as are wanted, oldest first and the newest last: of each period that is wanted the nearest
        there is (of two the older). Before the episode's first there is the first."""
        newest = self._seen[-1][0]
        wanted = (newest - back * self._apart for back in reversed(range(self._wanted)))
        return [min(self._seen, key=lambda one, w=period: abs(one[0] - w))[1] for period in wanted]  # type: ignore[misc]
