"""What a person may ask for, and how it travels over the board: none lost, none done twice.

Each front end has a desk of its own, two words of the board: the last command with its number, written by
the front end alone, and control's answer with the same number. Both are single words, so a reader sees a
whole command or none; a desk's next command is posted when the last one was answered.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from contracts.errors import EntracteError
from runtime.board import Board

FIRST_WORD = 99
DESKS = ("terminal", "web", "device")
"""Front ends; "device" is a gamepad or a leader arm with buttons."""
MOST_WAITING = 8
_CODE_BITS = 8


class Command(IntEnum):
    """Asking twice for the same thing changes nothing: pausing what is paused is done already."""

    END = 1
    """End the episode now and keep it; while the scene is being reset: the reset is done."""
    RERECORD = 2
    """End the episode now and throw it away; the same one is run again."""
    STOP = 3
    """The arm stops, the run ends."""
    PAUSE = 4
    RESUME = 5
    SUCCESS = 6
    FAILURE = 7
    RESET_DONE = 8
    TAKE_OVER = 9
    HAND_BACK = 10


class Answer(IntEnum):
    """What control made of a command."""

    DONE = 1
    REFUSED = 2
    """It means nothing now: a label without an episode, say."""


def pack(number: int, code: int) -> int:
    return number << _CODE_BITS | code


def unpack(word: int) -> tuple[int, int]:
    return word >> _CODE_BITS, word & ((1 << _CODE_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Answered:
    """`number` as `Desk.send` returned it."""

    number: int
    command: Command
    answer: Answer


class Desk:
    """A front end's end. Call `pump` some times a second: it posts what waits and returns the answers.

    Not thread-safe. One process at a time has a desk (`lock` is a file in the run's shared memory).
    """

    def __init__(self, board: Board, name: str, lock: Path | None = None) -> None:
        """Raises `EntracteError` if another process sits at this desk."""
        self.name = name
        self._board = board
        self._word = FIRST_WORD + 2 * DESKS.index(name)
        self._lock = _locked(lock, name) if lock else -1
        # A front end that is started again goes on counting where the last one died.
        self._number, self._posted = unpack(board.word(self._word))
        if unpack(board.word(self._word + 1))[0] == self._number:
            self._posted = 0
        self._waiting: deque[tuple[int, Command]] = deque()
        self._given = self._number

    def send(self, command: Command) -> int:
        """Ask for it; returns its number. Raises `EntracteError` when control has not answered the last
        few. A stop doesn't wait in line: the board has a word of its own for it, and what waits is
        dropped."""
        if command is Command.STOP:
            self._board.estop_requested = 1
            self._waiting.clear()
        if len(self._waiting) >= MOST_WAITING:
            raise EntracteError("the robot has not answered the last commands", found=MOST_WAITING)
        self._given += 1
        self._waiting.append((self._given, command))
        return self._given

    def pump(self) -> list[Answered]:
        """Answers that came, oldest first."""
        answered: list[Answered] = []
        number, answer = unpack(self._board.word(self._word + 1))
        if self._posted and number == self._number:
            answered.append(Answered(number, Command(self._posted), Answer(answer)))
            self._posted = 0
        if not self._posted and self._waiting:
            self._number, command = self._waiting.popleft()
            self._posted = int(command)
            self._board.set_word(self._word, pack(self._number, command))
        return answered

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


class Inbox:
    """Control's end: takes each command once, in the order of the desks. Costs a few reads of memory."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._taken: tuple[int, int, Command] | None = None

    def take(self) -> tuple[str, Command] | None:
        """The next command that has no answer, and the desk it came from. Answer it before the next one."""
        for desk, name in enumerate(DESKS):
            word = FIRST_WORD + 2 * desk
            asked = self._board.word(word)
            number, code = unpack(asked)
            if number == unpack(self._board.word(word + 1))[0]:
                continue
            if code not in Command._value2member_map_:
                self._board.set_word(word + 1, pack(number, Answer.REFUSED))
                continue
            self._taken = (word, number, Command(code))
            return name, Command(code)
        return None

    def answer(self, done: bool) -> None:
        """Only now is the command taken off the desk: what dies in between finds it there again."""
        assert self._taken is not None
        word, number, _ = self._taken
        self._taken = None
        self._board.set_word(word + 1, pack(number, Answer.DONE if done else Answer.REFUSED))


def _locked(path: Path, name: str) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        raise EntracteError(
            f"another process gives this robot's {name} commands",
            remedy="use that one, or the web page",
        ) from error
    return file
