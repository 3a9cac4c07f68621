"""How large a piece to ask for over a wire of unknown speed, and how long to wait for it. Arithmetic only.

Of whichever end fetches (the trainer episodes, the robot releases): it asks for some pieces ahead. One that
comes soon makes the next larger, one that comes late makes it smaller: a heartbeat must not wait behind a
piece on a slow wire until the connection is given up, and slow must not be taken for lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

LARGEST_BYTES = 512 * 1024
FIRST_BYTES = 64 * 1024
LEAST_BYTES = 8 * 1024
QUICK_S, SLOW_S = 0.1, 0.5
PATIENCE_S = 0.9


@dataclass
class Pace:
    """`piece_bytes`: what to ask for next. `patience_s`: so long nothing, and what was asked for is late; at
    most `most_patience_s`."""

    most_patience_s: float = 30.0
    piece_bytes: int = FIRST_BYTES
    patience_s: float = PATIENCE_S
    _asked_s: deque[float] = field(default_factory=deque)

    def asked(self, now_s: float) -> None:
        """For one more piece."""
        self._asked_s.append(now_s)

    def came(self, now_s: float) -> None:
        """The piece that was asked for the longest ago."""
        self.patience_s = PATIENCE_S
        if not self._asked_s:
            return
        took_s = now_s - self._asked_s.popleft()
        if took_s < QUICK_S:
            self.piece_bytes = min(2 * self.piece_bytes, LARGEST_BYTES)
        elif took_s > SLOW_S:
            self.piece_bytes = max(self.piece_bytes // 2, LEAST_BYTES)
            self.patience_s = min(max(PATIENCE_S, 4 * took_s), self.most_patience_s)

    def late(self) -> None:
        """Nothing came for `patience_s`: ask for less next time, and wait longer for it."""
        self.patience_s = min(2 * self.patience_s, self.most_patience_s)
        self.piece_bytes = max(self.piece_bytes // 2, LEAST_BYTES)

    def forget(self) -> None:
        """What was asked for counts as lost."""
        self._asked_s.clear()
