"""In which order a page sent what comes from it: a browser has several connections, and one may be held up.

Owns no clock: what is too old is refused before (`runtime.operator.hub`).
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_KEPT = 128
"""Far more than pages can be heard of before what they sent is too old anyway."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What a page says of all that it sends. `heard_s`: `robot_s` of the newest event that it had. `page`:
    drawn when it was loaded. `number`: grows with each."""

    heard_s: float
    page: str
    number: int


class Turns:
    """The newest of each page and kind. Jogs and commands are two kinds: ten jogs a second, on a connection
    that is open, overtake a command that needs a new one."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        return len(self._newest)

    def is_newer(self, kind: str, sent: Sent) -> bool:
        """Than all that was heard of its page before; it is then the newest."""
        whose = (sent.page, kind)
        newest = self._newest.pop(whose, -1)
        self._newest[whose] = max(newest, sent.number)
        if len(self._newest) > MOST_KEPT:
            del self._newest[next(iter(self._newest))]
        return sent.number > newest
