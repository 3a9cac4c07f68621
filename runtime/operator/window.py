"""The window: what control shows of its ticks to whoever looks on, in shared memory. Newest matter most.

One writer, which never waits and knows nothing of readers; a reader that is slow finds rows overwritten and
is told how many. Nothing durable: the record of an episode goes through the ring, the last seconds before a
fault into the black box.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.specs import ActionSpec
from runtime.system import shared

_MAGIC = 0x454E_5452_574E_4431  # "ENTRWND1"
ROWS = 1024
"""Ten seconds at 100 Hz: a viewer that was descheduled for a moment misses nothing."""
_HEADER = 64
_ABOUT_BYTES = 4096
_TEXT_BYTES = 512
_WHAT = "window of a robot under way"
_FIXED = 10
"""Columns before the joints': see `Row`."""


class About(msgspec.Struct, frozen=True):
    """What the rows mean."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rate_hz: float


@dataclass(frozen=True, slots=True)
class Row:
    """One tick: `state`, `action` (what the gate let through) and `requested` in the arm's units; `gate` is
    a set of `GateBit`s; the signals are NaN where the tick brought none."""

    number: int
    at_s: float
    episode: int
    step: int
    mode: int
    gate: int
    lateness_s: float
    process: float
    completion: float
    contrastive: float
    intervention: bool
    state: np.ndarray
    action: np.ndarray
    requested: np.ndarray


class Window:
    """`create` in control, `open` in a viewer."""

    def __init__(self, memory: mmap.mmap, joints: int) -> None:
        self._joints = joints
        self._columns = _columns(joints)
        shared.require_size(memory, _size(joints), _WHAT)
        self._map = memory
        self._words = np.frombuffer(self._map, np.int64, _HEADER // 8)
        self._rows = np.frombuffer(
            self._map, np.float64, ROWS * self._columns, _HEADER + _ABOUT_BYTES + _TEXT_BYTES
        ).reshape(ROWS, self._columns)
        self._barrier = shared.Barrier()
        self._said = ""

    @classmethod
    def create(cls, path: Path, spec: ActionSpec, rate_hz: float) -> Window:
        """Raises `EntracteError` for names that there is no room for."""
        about = msgspec.json.encode(About(spec.names, spec.units, spec.low, spec.high, rate_hz))
        if len(about) > _ABOUT_BYTES:
            raise EntracteError(
                "the names of the arm's joints are too long to be shown",
                expected=f"{_ABOUT_BYTES} bytes with units and limits",
                found=len(about),
                remedy="give them shorter names",
            )
        joints = len(spec.names)
        window = cls(shared.create(path, _size(joints)), joints)
        window._map[_HEADER : _HEADER + len(about)] = about
        window._words[1] = joints
        window._words[0] = _MAGIC
        return window

    @classmethod
    def open(cls, path: Path) -> Window:
        """The window another process created. Raises `EntracteError`."""
        memory = shared.open_existing(path, _MAGIC, _HEADER, _WHAT)
        return cls(memory, int(np.frombuffer(memory, np.int64, 2)[1]))

    def about(self) -> About:
        data = bytes(self._map[_HEADER : _HEADER + _ABOUT_BYTES]).rstrip(b"\0")
        return msgspec.json.decode(data, type=About)

    # -- control's side

    def show(
        self,
        fixed: tuple[float, ...],
        state: Sequence[float] | np.ndarray,
        action: Sequence[float],
        requested: Sequence[float],
    ) -> None:
        """One tick. `fixed`: `Row`'s fields from `at_s` to `intervention`, in order."""
        number = int(self._words[2]) + 1
        row = self._rows[number % ROWS]
        joints = self._joints
        row[-1] = 0.0  # being written
        self._barrier()
        row[0] = number
        row[1 : 1 + _FIXED] = fixed
        at = 1 + _FIXED
        row[at : at + joints] = state
        row[at + joints : at + 2 * joints] = action
        row[at + 2 * joints : at + 3 * joints] = requested
        self._barrier()
        row[-1] = number
        self._words[2] = number

    def say(self, text: str) -> None:
        """The reason of the gate's present state, in words."""
        if text == self._said:
            return
        self._said = text
        data = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        self._words[3] += 1
        self._barrier()
        self._map[_HEADER + _ABOUT_BYTES : _HEADER + _ABOUT_BYTES + _TEXT_BYTES] = data
        self._barrier()
        self._words[3] += 1

    # -- a viewer's side

    @property
    def newest(self) -> int:
        """Number of the last tick shown, 0 before the first."""
        return int(self._words[2])

    def since(self, number: int) -> tuple[list[Row], int]:
        """The rows after that one, oldest first, and how many were overwritten before they were read."""
        newest = self.newest
        first = max(number + 1, newest - ROWS + 2)
        found = []
        for wanted in range(first, newest + 1):
            copy = self._rows[wanted % ROWS].copy()
            self._barrier()
            if copy[0] == wanted and copy[-1] == wanted and self._rows[wanted % ROWS][0] == wanted:
                found.append(self._row(copy))
        return found, newest - number - len(found)

    def said(self) -> str:
        for _ in range(20):
            number = int(self._words[3])
            start = _HEADER + _ABOUT_BYTES
            data = bytes(self._map[start : start + _TEXT_BYTES])
            self._barrier()
            if number % 2 == 0 and int(self._words[3]) == number:
                return data.rstrip(b"\0").decode(errors="replace")
        return ""

    def _row(self, copy: np.ndarray) -> Row:
        at_s, episode, step, mode, gate, late_s, process, completion, contrastive, hand = copy[
            1 : 1 + _FIXED
        ].tolist()
        joints = copy[1 + _FIXED : -1].reshape(3, self._joints)
        return Row(
            int(copy[0]),
            at_s,
            int(episode),
            int(step),
            int(mode),
            int(gate),
            late_s,
            process,
            completion,
            contrastive,
            bool(hand),
            *joints,
        )


def _columns(joints: int) -> int:
    return 2 + _FIXED + 3 * joints


def _size(joints: int) -> int:
    return _HEADER + _ABOUT_BYTES + _TEXT_BYTES + 8 * ROWS * _columns(joints)
