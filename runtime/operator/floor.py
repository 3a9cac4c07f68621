"""Control's side of people's commands: which are lawful now, and what has been asked for since.

`Floor.listen` is called in every tick, in an episode and between two, and never waits. What a request
leads to is up to episode and control, which read the fields and clear what they have acted on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum, IntFlag

from runtime.board import Board
from runtime.operator.commands import DESKS, Command, Inbox


class Phase(IntEnum):
    """What control is about, in a person's words."""

    STARTING = 0
    RESET = 1
    """The arm is brought back, or somebody is waited for who sets the scene."""
    SETTING_UP = 2
    RUNNING = 3
    LABEL = 4
    """Waiting for success or failure of the episode that has just ended."""
    RELEASE = 5
    ENDED = 6
    ROOM = 7
    """Waiting for room in the spool: the trainer is away or behind."""


class Flag(IntFlag):
    """Above the phase on the board."""

    PAUSED = 1
    MATCHING = 2
    """Somebody wants to take over, and the leader stands too far from the arm yet."""
    TAKEN_OVER = 4
    WAITS_FOR_RESET = 8
    CAN_TAKE_OVER = 16
    CAN_TAKE_BACK = 32
    """The last episode can still be thrown away and recorded again."""


LATE_S = 0.5
"""An "end" so soon after the wait for the scene began was meant for the episode before it."""

_PHASE_BITS, _FLAG_BITS = 8, 16
_ALWAYS = {Command.STOP, Command.PAUSE, Command.RESUME}
_EPISODE = {Command.END, Command.RERECORD, Command.SUCCESS, Command.FAILURE}
_LAWFUL = {
    Phase.RUNNING: _ALWAYS | _EPISODE | {Command.TAKE_OVER, Command.HAND_BACK},
    Phase.LABEL: _ALWAYS | _EPISODE,
    Phase.RESET: _ALWAYS | {Command.RESET_DONE, Command.END, Command.RERECORD},
}


def read_phase(board: Board) -> tuple[Phase, Flag]:
    """What the board says, for front ends."""
    word = board.operator_phase
    flags = word >> _PHASE_BITS & ((1 << _FLAG_BITS) - 1)
    return Phase(word & ((1 << _PHASE_BITS) - 1)), Flag(flags)


def read_helm(board: Board) -> str:
    """The desk that has taken over, or wants to; "" for none."""
    return ("", *DESKS)[board.operator_phase >> (_PHASE_BITS + _FLAG_BITS)]


def read_outcomes(board: Board) -> tuple[int, int]:
    """Successes, and episodes whose outcome is known."""
    return board.outcomes >> 32, board.outcomes & 0xFFFF_FFFF


class Floor:
    """`ends`: why a person ended the episode, "" while nobody did. `label`: their verdict on it.
    `wants_helm`: the desk that wants to move the arm itself, "" for none."""

    def __init__(
        self,
        board: Board,
        *,
        can_take_over: bool = False,
        person_drives: bool = False,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`person_drives`: who has the helm keeps it from one episode to the next."""
        self._board, self._inbox = board, Inbox(board)
        self.paused = self.reset_done = False
        self.ends = ""
        self.label: bool | None = None
        self._wants_helm = ""
        self._counted: bool | None = None
        self._now_s, self._waits_since_s = now_s, 0.0
        self._person_drives = person_drives
        self._phase = Phase.STARTING
        self._flags = Flag.CAN_TAKE_OVER if can_take_over else Flag(0)
        self._show()

    @property
    def phase(self) -> Phase:
        return self._phase

    @property
    def wants_helm(self) -> str:
        return self._wants_helm

    @wants_helm.setter
    def wants_helm(self, desk: str) -> None:
        self._wants_helm = desk
        self._show()

    @property
    def may_rerecord(self) -> bool:
        """Whether the last episode can still be taken back."""
        return Flag.CAN_TAKE_BACK in self._flags

    @may_rerecord.setter
    def may_rerecord(self, may: bool) -> None:
        self.flag(Flag.CAN_TAKE_BACK, may)

    def enter(self, phase: Phase) -> None:
        """From here on control is about that. What was asked of an earlier episode is forgotten; a pause
        lasts."""
        if phase is Phase.RUNNING:
            self.ends, self.label = "", None
            self.wants_helm = self.wants_helm if self._person_drives else ""
        self._phase = phase
        self._show()

    def flag(self, flag: Flag, on: bool) -> None:
        wanted = self._flags | flag if on else self._flags & ~flag
        if wanted != self._flags:
            self._flags = wanted
            self._show()

    def wait_for_reset(self, waits: bool) -> None:
        """Somebody sets the scene from here on, or doesn't any more: only between the two can they say that
        it is set."""
        if waits:
            self.reset_done, self._waits_since_s = False, self._now_s()
        self.flag(Flag.WAITS_FOR_RESET, waits)

    def count(self, success: bool | None) -> None:
        """One more episode ended so (None: nobody knows)."""
        self._counted = success
        if success is not None:
            self._board.outcomes += (int(success) << 32) + 1

    def count_back(self) -> None:
        """The last episode that was counted is taken back."""
        if self._counted is not None:
            self._board.outcomes -= (int(self._counted) << 32) + 1
        self._counted = None

    def listen(self) -> None:
        """Take every command that waits."""
        while (asked := self._inbox.take()) is not None:
            desk, command = asked
            lawful = command in _LAWFUL.get(self._phase, _ALWAYS)
            self._inbox.answer(lawful and self._take(desk, command))

    def _take(self, desk: str, command: Command) -> bool:
        if command is Command.STOP:
            self._board.estop_requested = 1
        elif command in (Command.PAUSE, Command.RESUME):
            self.paused = command is Command.PAUSE
            self.flag(Flag.PAUSED, self.paused)
        elif command in (Command.SUCCESS, Command.FAILURE):
            self.label = command is Command.SUCCESS
            self.ends = self.ends or "operator"
        elif command is Command.RERECORD:
            if self._phase is Phase.RESET and not self.may_rerecord:
                return False
            self.ends = "rerecord"
        elif self._phase is Phase.RESET:
            # An "end" that came late for its episode must not begin the next one.
            late = command is Command.END and self._now_s() - self._waits_since_s < LATE_S
            if late or Flag.WAITS_FOR_RESET not in self._flags:
                return False
            self.reset_done = True
        elif command is Command.END:
            self.ends = self.ends or "operator"
        elif command is Command.TAKE_OVER:
            if not self._flags & Flag.CAN_TAKE_OVER:
                return False
            self.wants_helm = desk
        elif command is Command.HAND_BACK:
            self.wants_helm = ""
        return True

    def _show(self) -> None:
        desk = DESKS.index(self._wants_helm) + 1 if self._wants_helm else 0
        flags = desk << _FLAG_BITS | self._flags
        self._board.operator_phase = flags << _PHASE_BITS | self._phase
