"""Whether the robot may begin another episode that is to reach the trainer: room in the spool. Control's end.

The link says on the board whether there is room; without it the arm waits in hold, ticking, for as long as it
takes. Episodes under way are never ended for it: the spool keeps room for one.
"""

from __future__ import annotations

from runtime.board import Board
from runtime.control.resting import Resting
from runtime.operator.floor import Floor, Phase
from runtime.run import Run

PATIENCE_S = 3600.0
"""Of one look; there is no end to the looking."""


class Room:
    """`wait` before every episode."""

    def __init__(self, run: Run, board: Board, floor: Floor, resting: Resting) -> None:
        link, sink = run.config.link, run.plan.sink
        self._needed = sink == "link" and link.on_full == "hold"
        self._board, self._floor, self._resting = board, floor, resting

    def wait(self) -> bool:
        """Rest until another episode fits; False: a stop was asked for, or the arm was lost."""
        board = self._board
        if not self._needed or not board.spool_full:
            return True
        board.waiting_for_room = 1
        self._floor.enter(Phase.ROOM)
        try:
            while board.spool_full:
                if not self._resting.until(lambda: not board.spool_full, PATIENCE_S):
                    return False
        finally:
            board.waiting_for_room = 0
        return True
