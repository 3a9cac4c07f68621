"""Newest pictures of one camera in shared memory: one writer, any number of readers, no waiting.

Owns the slots, their sequence numbers, and the counters of whoever takes the pictures. A reader that is
overtaken while it copies notices and takes the newer picture. Four slots at 30 Hz leave a reader 100 ms for
a copy that takes 1 ms.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np

from contracts.errors import DeviceError
from runtime.system import shared

_MAGIC = 0x454E_5452_4652_4D32  # "ENTRFRM2"
_SLOTS = 4
REACH = _SLOTS - 2
"""How many pictures before the newest `nearest` looks at: the oldest slot is the one that is written next."""
_HEADER = 256
_SLOT_HEADER = 64
_RETRIES = 50
_WHAT = "camera's pictures"
_COUNTERS_AT = 8
_TIMES_AT = 20


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: `rgb` uint8[H,W,3], `depth` uint16[H,W] aligned to it or None, which nobody may write to.
    `captured_s` is the
    device's time on the robot's clock, `received_s` when it was taken over, `number` counts from 1.
    `device_s` is the same moment on the device's own clock and `global_s` on the wall clock, as the driver
    estimates it (Unix seconds); NaN where there is none."""

    rgb: np.ndarray
    depth: np.ndarray | None
    captured_s: float
    received_s: float
    number: int
    device_s: float = math.nan
    global_s: float = math.nan


class CaptureState(IntEnum):
    """What the process that has the camera is doing."""

    STARTING = 0
    LIVE = 1
    LOST = 2
    """The device is away, silent or frozen; it is being opened again."""


COUNTERS = (
    "late",
    "dropped",
    "frozen",
    "out_of_order",
    "silences",
    "errors",
    "opened",
    "resets",
    "processes",
)
"""Counters in the header, all since the start of the run: pictures that were late, never arrived, repeated
what was there, or came after a newer one; times nothing came at all; exceptions of the driver; times the
device was opened and reset; processes that had it."""

TIMES = ("latency_mean_s", "latency_max_s", "interval_max_s", "processor_s")
"""Seconds in the header: from capture to the slot (running mean over about 100 pictures, and the largest),
the longest time between two pictures, and the processor time of the capture process."""


class FrameSlots:
    """`create` in the process that has the camera, `open` in the one that looks."""

    def __init__(self, memory: mmap.mmap, path: Path, height: int, width: int, depth: bool) -> None:
        self.path, self.height, self.width, self.depth = path, height, width, depth
        self._colour_bytes = height * width * 3
        self._stride = _stride(height, width, depth)
        shared.require_size(memory, _HEADER + _SLOTS * self._stride, _WHAT, DeviceError)
        self._map = memory
        self._words = np.frombuffer(self._map, np.int64, _HEADER // 8)
        self._times = np.frombuffer(self._map, np.float64, _HEADER // 8)
        self._barrier = shared.Barrier()
        self._last: Frame | None = None
        self._slots = [self._slot(index) for index in range(_SLOTS)]

    def _slot(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        at = _HEADER + index * self._stride
        numbers = np.frombuffer(self._map, np.int64, 2, at)
        times = np.frombuffer(self._map, np.float64, 3, at + 16)
        at += _SLOT_HEADER
        size = (self.height, self.width)
        rgb = np.frombuffer(self._map, np.uint8, self._colour_bytes, at).reshape(*size, 3)
        if not self.depth:
            return numbers, times, rgb, None
        at += self._colour_bytes
        return numbers, times, rgb, np.ndarray(size, np.uint16, self._map, at)

    @classmethod
    def create(cls, path: Path, height: int, width: int, depth: bool) -> FrameSlots:
        memory = shared.create(path, _HEADER + _SLOTS * _stride(height, width, depth))
        slots = cls(memory, path, height, width, depth)
        slots._words[1:5] = (height, width, int(depth), 0)
        slots._words[0] = _MAGIC
        return slots

    @classmethod
    def open(cls, path: Path) -> FrameSlots:
        """The slots another process created. Raises `DeviceError`."""
        memory = shared.open_existing(path, _MAGIC, _HEADER, _WHAT, DeviceError)
        _, height, width, depth = np.frombuffer(memory, np.int64, 4).tolist()
        return cls(memory, path, height, width, bool(depth))

    def write(
        self,
        rgb: np.ndarray,
        depth: np.ndarray | None,
        captured_s: float,
        device_s: float = math.nan,
        global_s: float = math.nan,
    ) -> None:
        """Publish a picture as the newest: one copy of each array, into the slot."""
        number = int(self._words[4]) + 1
        numbers, times, rgb_slot, depth_slot = self._slots[number % _SLOTS]
        numbers[0] = number
        self._barrier()
        rgb_slot[...] = rgb
        if depth_slot is not None:
            depth_slot[...] = 0 if depth is None else depth
        times[:] = (captured_s, device_s, global_s)
        self._barrier()
        numbers[1] = number
        self._words[4] = number

    def newest(self, received_s: float) -> Frame | None:
        """A copy of the newest whole picture, the same one until there is a newer; None before the first."""
        for _ in range(_RETRIES):
            number = int(self._words[4])
            if number == 0:
                return None
            if self._last is None or self._last.number != number:
                found = self._copy(number, received_s)
                if found is None:
                    continue  # overtaken
                self._last = found
            return self._last
        raise DeviceError(f"pictures at {self.path} change faster than they can be copied")

    def nearest(self, received_s: float, at_s: float) -> Frame | None:
        """A copy of that picture among the last ones which was captured nearest to `at_s` (of two as near the
        newer); None before the first."""
        newest = int(self._words[4])
        kept = range(newest, max(0, newest - REACH - 1), -1)
        off_s = [(abs(float(self._slots[n % _SLOTS][1][0]) - at_s), n) for n in kept]
        for _, number in sorted(off_s, key=lambda one: one[0]):
            if self._last is not None and self._last.number == number:
                return self._last
            if (found := self._copy(number, received_s)) is not None:
                return found
        return self.newest(received_s)

    def _copy(self, number: int, received_s: float) -> Frame | None:
        """That picture, or None if it was overwritten meanwhile."""
        numbers, times, rgb, depth = self._slots[number % _SLOTS]
        self._barrier()
        copy = rgb.copy()
        depth_copy = None if depth is None else depth.copy()
        captured_s, device_s, global_s = times.tolist()
        self._barrier()
        if not numbers[0] == numbers[1] == number:
            return None
        for array in (copy, depth_copy):
            if array is not None:
                array.flags.writeable = False  # given to more than one reader
        return Frame(copy, depth_copy, captured_s, received_s, number, device_s, global_s)

    # -- what the process that takes the pictures says of itself

    def last(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Views of the newest picture: for the writer alone, whom nobody overtakes."""
        number = int(self._words[4])
        return self._slots[number % _SLOTS][2:] if number else None

    @property
    def pictures(self) -> int:
        """How many were published."""
        return int(self._words[4])

    @property
    def captured_s(self) -> float:
        """When the newest picture was taken; 0 before the first."""
        number = int(self._words[4])
        return float(self._slots[number % _SLOTS][1][0]) if number else 0.0

    @property
    def state(self) -> CaptureState:
        return CaptureState(int(self._words[5]))

    @state.setter
    def state(self, state: CaptureState) -> None:
        self._words[5] = int(state)

    def count(self, counter: str, by: int = 1) -> None:
        """Add to one of `COUNTERS` (writer only)."""
        self._words[_COUNTERS_AT + COUNTERS.index(counter)] += by

    def set_time(self, name: str, value_s: float) -> None:
        """Set one of `TIMES` (writer only)."""
        self._times[_TIMES_AT + TIMES.index(name)] = value_s

    def time(self, name: str) -> float:
        return float(self._times[_TIMES_AT + TIMES.index(name)])

    def counters(self) -> dict[str, int]:
        """`COUNTERS` by name."""
        values = self._words[_COUNTERS_AT : _COUNTERS_AT + len(COUNTERS)].tolist()
        return dict(zip(COUNTERS, values, strict=True))


def _stride(height: int, width: int, depth: bool) -> int:
    """Bytes of a slot: its head, colour and depth, rounded up to a cache line."""
    return (_SLOT_HEADER + height * width * (5 if depth else 3) + 63) & ~63
