"""Single-producer single-consumer ring of records in shared memory. Owns the layout, not the content.

A record is a list of byte parts (what `contracts.wire.pack` returns). Neither side ever waits for the
other here: `try_push` says False when there is no room, `pop` says None when there is nothing.
Positions live in the file, so a consumer that died and came back goes on with the record it had.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from contracts.errors import EntracteError
from runtime.system import shared

_MAGIC = 0x454E_5452_524E_4731  # "ENTRRNG1"
_HEADER = 64 * 4  # each counter on a cache line of its own
_MAGIC_WORD, _CAPACITY_WORD, _HEAD_WORD, _TAIL_WORD = 0, 1, 8, 16
_PUSHED_WORD, _POPPED_WORD = 9, 17
_WRAP = -1
_MOST = 1 << 62
MAX_PARTS = 64


class RingError(EntracteError):
    """The ring's memory isn't what its writer leaves there."""


def _padded(size: int) -> int:
    return (size + 7) & ~7


class Ring:
    """Records in FIFO order. One process pushes, one pops; each opens the file for itself.

    Layout of a record, 8-byte words: sequence, parts, bytes of the record, one length a part, the
    parts (each padded to 8), sequence again. The two sequence words guard against reading a record
    whose bytes have not arrived yet on a machine with weak memory ordering.
    """

    def __init__(self, file: int, path: Path, size: int) -> None:
        self.path = path
        self._map = mmap.mmap(file, size)
        self._view = memoryview(self._map)
        self._header = self._view[:_HEADER].cast("q")
        self._bytes = self._view[_HEADER:]
        self._words = self._bytes.cast("q")
        self.capacity = size - _HEADER
        self._popped: int | None = None
        self._lent: list[memoryview] = []
        self._fresh = True
        self._barrier = shared.Barrier()

    @classmethod
    def create(cls, path: Path, capacity: int) -> Ring:
        """A new empty ring of `capacity` bytes (rounded up to 8). Raises `EntracteError`: no room for it."""
        size = _HEADER + _padded(capacity)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            shared.reserve(file, size, path)
            ring = cls(file, path, size)
        finally:
            os.close(file)
        ring._header[_CAPACITY_WORD] = ring.capacity
        ring._header[_MAGIC_WORD] = _MAGIC
        return ring

    @classmethod
    def open(cls, path: Path) -> Ring:
        """The ring another process created. Raises `RingError`."""
        try:
            file = os.open(path, os.O_RDWR)
        except OSError as error:
            raise RingError(f"no ring at {path}", found=error.strerror) from error
        try:
            size = os.fstat(file).st_size
            if size <= _HEADER or size % 8:
                raise RingError(f"{path} is of no size that a ring has", found=f"{size} bytes")
            ring = cls(file, path, size)
        finally:
            os.close(file)
        if ring._header[_MAGIC_WORD] != _MAGIC or ring._header[_CAPACITY_WORD] != ring.capacity:
            ring.close()
            raise RingError(f"{path} is no ring of this layout")
        return ring

    @property
    def used(self) -> int:
        """Bytes in use, as far as this side can see."""
        return self._header[_HEAD_WORD] - self._header[_TAIL_WORD]

    @property
    def waiting(self) -> int:
        """Records pushed and not yet released."""
        if not self.used:
            return 0  # whatever the counts say: a writer that died between its two stores left one too many
        return self._header[_PUSHED_WORD] - self._header[_POPPED_WORD]

    def try_push(self, parts: Sequence[bytes | memoryview]) -> bool:
        """Copy a record in; False when it does not fit now. `RingError` when it never can."""
        lengths = [memoryview(part).nbytes for part in parts]
        if not 0 < len(lengths) <= MAX_PARTS:
            raise RingError("wrong number of parts", expected=f"1 to {MAX_PARTS}", found=len(parts))
        size = 8 * (3 + len(lengths) + 1) + sum(_padded(length) for length in lengths)
        if size + 8 > self.capacity // 2:
            raise RingError(
                "record too large for the ring",
                expected=f"<= {self.capacity // 2 - 8} bytes",
                found=size,
                remedy="raise recording.ring_s in the hardware config",
            )
        head, tail = self._positions()
        start = head % self.capacity
        skip = self.capacity - start if start + size > self.capacity else 0
        if head + skip + size - tail > self.capacity:
            return False
        if skip:
            self._words[start // 8] = _WRAP
            start = 0
        sequence = self._header[_PUSHED_WORD]
        word = start // 8
        self._words[word], self._words[word + 1], self._words[word + 2] = sequence, len(parts), size
        at = start + 8 * (3 + len(lengths))
        for index, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            self._words[word + 3 + index] = length
            self._bytes[at : at + length] = memoryview(part).cast("B")
            at += _padded(length)
        self._words[at // 8] = sequence
        self._barrier()
        self._header[_PUSHED_WORD] = sequence + 1
        self._header[_HEAD_WORD] = head + skip + size
        return True

    def pop(self) -> list[memoryview] | None:
        """The oldest record as views into the ring, valid until `release`; None when empty."""
        if self._popped is not None:
            raise RingError("pop before the last record was released")
        head, tail = self._positions()
        if head == tail:
            return None
        self._barrier()
        start = tail % self.capacity
        skip = 0
        if self._words[start // 8] == _WRAP:
            skip, start = self.capacity - start, 0
        word = start // 8
        sequence, count, size = self._words[word], self._words[word + 1], self._words[word + 2]
        if not (0 < count <= MAX_PARTS and 0 < size <= self.capacity - start):
            raise RingError("corrupt record", found=f"{count} parts, {size} bytes")
        expected = self._header[_POPPED_WORD]
        closing = self._words[(start + size) // 8 - 1]
        if self._fresh and sequence == closing == expected - 1:
            # Whoever read before was killed between the two stores of `release`: counted, and still there.
            self._header[_POPPED_WORD] = expected = sequence
        self._fresh = False
        if sequence != expected or closing != expected:
            return None  # counted bytes have not all arrived: look again at the next call
        at = start + 8 * (3 + count)
        parts: list[memoryview] = []
        for index in range(count):
            length = self._words[word + 3 + index]
            if not 0 <= length <= start + size - 8 - at:
                raise RingError("corrupt record", found=f"part of {length} bytes")
            parts.append(self._bytes[at : at + length].toreadonly())
            at += _padded(length)
        self._popped, self._lent = skip + size, parts
        return list(parts)

    def _positions(self) -> tuple[int, int]:
        """(head, tail), where both sides can have left them. Raises `RingError`."""
        tail, head = self._header[_TAIL_WORD], self._header[_HEAD_WORD]
        popped, pushed = self._header[_POPPED_WORD], self._header[_PUSHED_WORD]
        if not 0 <= head - tail <= self.capacity or (head | tail) % 8 or not 0 <= tail <= _MOST:
            raise RingError("corrupt positions", found=f"{tail} to {head}")
        if not (0 <= pushed <= _MOST and 0 <= popped <= _MOST):
            raise RingError("corrupt counts", found=f"{pushed} pushed, {popped} popped")
        return head, tail

    def release(self) -> None:
        """Give the room of the popped record back; its views must not be used any more."""
        if self._popped is None:
            raise RingError("release without pop")
        self._lent = []
        self._barrier()
        self._header[_POPPED_WORD] = self._header[_POPPED_WORD] + 1
        self._header[_TAIL_WORD] = self._header[_TAIL_WORD] + self._popped
        self._popped = None

    def put_back(self) -> None:
        """Leave the popped record where it is: the next `pop` gives it again."""
        if self._popped is None:
            raise RingError("put_back without pop")
        self._lent, self._popped = [], None

    def close(self) -> None:
        """Unmap; views handed out by `pop` must be gone."""
        for part in self._lent:
            part.release()
        self._header.release()
        self._words.release()
        self._bytes.release()
        self._view.release()
        with contextlib.suppress(BufferError):  # a view still held keeps the mapping until it goes
            self._map.close()

    def __enter__(self) -> Ring:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
