"""What one hand wants, in shared memory: newest only, one writer, never waited for."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import EntracteError
from runtime.system import shared

_MAGIC = 0x454E_5452_484E_4431  # "ENTRHND1"
_HEADER_WORDS = 8
_RETRIES = 20
_WHAT = "page for a hand"
NOBODY, LEADER, JOG = 0, 1, 2
"""Kinds of a page: nobody has written yet; joint positions; shares of the jog speed."""


@dataclass(frozen=True, slots=True)
class Wish:
    """`values`: positions of a leader in the arm's units, or shares of the jog speed. `at_s` monotonic: when
    it was read; shares count until `until_s`."""

    kind: int
    values: tuple[float, ...]
    at_s: float
    until_s: float


class HandPage:
    """`create` in control, `open` in the front end or device process that writes it."""

    def __init__(self, memory: mmap.mmap, joints: int) -> None:
        self.joints = joints
        shared.require_size(memory, _size(joints), _WHAT)
        self._words = np.frombuffer(memory, np.int64, _HEADER_WORDS)
        self._times = np.frombuffer(memory, np.float64, 2, 8 * 4)
        self._values = np.frombuffer(memory, np.float64, joints, 8 * _HEADER_WORDS)
        self._barrier = shared.Barrier()
        self._last: Wish | None = None

    @classmethod
    def create(cls, path: Path, joints: int) -> HandPage:
        page = cls(shared.create(path, _size(joints)), joints)
        page._words[1] = joints
        page._words[0] = _MAGIC
        return page

    @classmethod
    def open(cls, path: Path) -> HandPage:
        """The page that control created. Raises `EntracteError`."""
        memory = shared.open_existing(path, _MAGIC, 8 * _HEADER_WORDS, _WHAT)
        return cls(memory, int(np.frombuffer(memory, np.int64, 2)[1]))

    def write(self, kind: int, values: tuple[float, ...], at_s: float, until_s: float) -> None:
        """Replace what was there. Raises `EntracteError` for another number of joints."""
        if len(values) != self.joints:
            raise EntracteError("joints of a hand", expected=self.joints, found=len(values))
        number = int(self._words[2]) & ~1  # a writer before this one may have died half-way
        self._words[2] = number + 1  # odd: being written
        self._barrier()
        self._words[3] = kind
        self._times[:] = (at_s, until_s)
        self._values[:] = values
        self._barrier()
        self._words[2] = number + 2

    def read(self) -> Wish | None:
        """The newest whole wish, the one before where a writer is in it (or died half-way: it tells its age);
        None before the first that was read."""
        for _ in range(_RETRIES):
            number = int(self._words[2])
            if number == 0 or number % 2:
                continue
            self._barrier()
            at_s, until_s = self._times.tolist()
            wish = Wish(int(self._words[3]), tuple(self._values.tolist()), at_s, until_s)
            self._barrier()
            if self._words[2] == number:
                self._last = wish
                break
        return self._last


def _size(joints: int) -> int:
    return 8 * (_HEADER_WORDS + joints)
