"""Newest pictures of one camera in shared memory: one writer, any number of readers, no waiting.

Owns the slots and their sequence numbers. A reader that is overtaken while it copies notices and takes
the newer picture. Four slots at 30 Hz leave a reader 100 ms for a copy that takes 1 ms.
"""

from __future__ import annotations

import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import DeviceError

_MAGIC = 0x454E_5452_4652_4D31  # "ENTRFRM1"
_SLOTS = 4
_HEADER = 256
_SLOT_HEADER = 64
_RETRIES = 50


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: `rgb` uint8[H,W,3], `depth` uint16[H,W] aligned to it or None. `captured_s` is the
    device's time on the robot's clock, `received_s` when it was taken over, `number` counts from 1."""

    rgb: np.ndarray
    depth: np.ndarray | None
    captured_s: float
    received_s: float
    number: int


class FrameSlots:
    """`create` in the process that has the camera, `open` in the one that looks."""

    def __init__(self, file: int, path: Path, height: int, width: int, depth: bool) -> None:
        self.path, self.height, self.width, self.depth = path, height, width, depth
        self._colour_bytes = height * width * 3
        self._depth_bytes = height * width * 2 if depth else 0
        self._stride = (_SLOT_HEADER + self._colour_bytes + self._depth_bytes + 63) & ~63
        self._map = mmap.mmap(file, _HEADER + _SLOTS * self._stride)
        self._words = np.frombuffer(self._map, np.int64, _HEADER // 8)
        self._barrier = threading.Lock()
        self._slots = [self._slot(index) for index in range(_SLOTS)]

    def _slot(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        at = _HEADER + index * self._stride
        numbers = np.frombuffer(self._map, np.int64, 2, at)
        times = np.frombuffer(self._map, np.float64, 2, at + 16)
        at += _SLOT_HEADER
        size = (self.height, self.width)
        rgb = np.frombuffer(self._map, np.uint8, self._colour_bytes, at).reshape(*size, 3)
        if not self.depth:
            return numbers, times, rgb, None
        at += self._colour_bytes
        return numbers, times, rgb, np.ndarray(size, np.uint16, self._map, at)

    @classmethod
    def create(cls, path: Path, height: int, width: int, depth: bool) -> FrameSlots:
        size = height * width * (5 if depth else 3)
        stride = (_SLOT_HEADER + size + 63) & ~63
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(file, _HEADER + _SLOTS * stride)
            slots = cls(file, path, height, width, depth)
        finally:
            os.close(file)
        slots._words[1:5] = (height, width, int(depth), 0)
        slots._words[0] = _MAGIC
        return slots

    @classmethod
    def open(cls, path: Path) -> FrameSlots:
        """The slots another process created. Raises `DeviceError`."""
        try:
            file = os.open(path, os.O_RDWR)
        except OSError as error:
            raise DeviceError(f"no pictures at {path}", found=error.strerror) from error
        try:
            head = np.frombuffer(os.pread(file, _HEADER, 0).ljust(_HEADER, b"\0"), np.int64)
            if head[0] != _MAGIC:
                raise DeviceError(f"{path} holds no pictures of this layout")
            return cls(file, path, int(head[1]), int(head[2]), bool(head[3]))
        finally:
            os.close(file)

    def write(self, rgb: np.ndarray, depth: np.ndarray | None, captured_s: float) -> None:
        """Publish a picture as the newest."""
        number = int(self._words[4]) + 1
        numbers, times, rgb_slot, depth_slot = self._slots[number % _SLOTS]
        numbers[0] = number
        with self._barrier:  # a lock is the only full memory barrier that Python offers
            pass
        rgb_slot[...] = rgb
        if depth_slot is not None:
            depth_slot[...] = 0 if depth is None else depth
        times[0] = captured_s
        with self._barrier:
            pass
        numbers[1] = number
        self._words[4] = number

    def newest(self, received_s: float) -> Frame | None:
        """A copy of the newest whole picture; None before the first."""
        for _ in range(_RETRIES):
            number = int(self._words[4])
            if number == 0:
                return None
            numbers, times, rgb, depth = self._slots[number % _SLOTS]
            with self._barrier:
                pass
            copy = rgb.copy()
            depth_copy = None if depth is None else depth.copy()
            captured_s = float(times[0])
            with self._barrier:
                pass
            if numbers[0] == number and numbers[1] == number:
                return Frame(copy, depth_copy, captured_s, received_s, number)
        raise DeviceError(f"pictures at {self.path} change faster than they can be copied")
