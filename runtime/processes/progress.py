"""How far a run is, for who waits at a terminal. Reads the board only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from runtime.board import Board


class Progress:
    """One line that is rewritten on a terminal, a line every few seconds elsewhere."""

    def __init__(
        self, total: int, describe: Callable[[Board], str] = lambda board: "", *, quiet: bool
    ) -> None:
        """`total`: episodes that are wanted, 0: nobody knows. `describe`: what else to say of the board."""
        self._total, self._describe, self._quiet = total, describe, quiet
        self._terminal = sys.stderr.isatty()
        self._started_s = self._printed_s = time.monotonic()
        self._done = -1

    def __call__(self, board: Board) -> None:
        self.show(board.episodes_done, lambda: self._describe(board))

    def show(self, done: int, more: Callable[[], str]) -> None:
        """So many are done, by whomever; `more` is asked only if it is to be said."""
        now_s = time.monotonic()
        if self._quiet or now_s - self._printed_s < (0.2 if self._terminal else 5.0):
            return
        if done == self._done and not self._terminal:
            return
        self._done, self._printed_s = done, now_s
        of = f" of {self._total}" if self._total else ""
        left = ""
        if self._total and done:
            left_s = (now_s - self._started_s) / done * (self._total - done)
            left = f", {left_s:.0f} s left"
        line = f"episode {done}{of}{left}{more()}"
        sys.stderr.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def say(self, what: str) -> None:
        """A sentence on a line of its own."""
        sys.stderr.write(f"\r\x1b[K{what}\n" if self._terminal else f"{what}\n")
        sys.stderr.flush()


def refining(board: Board) -> str:
    """What to say while a policy is refined."""
    waiting = ", waiting for a release" if board.waiting_for_release else ""
    if board.waiting_for_room:
        waiting = f", no room: {board.spooled} episodes wait for the trainer"
    return f", policy {board.policy_version}, {board.loop_rate_hz:.1f} Hz{waiting}"
