"""Control's end of the ring: messages and raw pictures to whoever records. Owns what is dropped when.

In `asap` pace a full ring is waited for: simulated time stands still meanwhile. In `realtime` the tick
never waits: it drops the step's pictures first, then the step's record, and counts both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from contracts import wire
from contracts.messages import AnyMessage, Step
from runtime.board import Board
from runtime.frames import Frame
from runtime.ring import Ring

RESERVE = 5
"""One part in so many of the ring is kept for records without pictures: a fifth of half a second of
pictures holds minutes of records, while the link catches up or is restarted."""
_PAUSE_S = 0.0005


class Stream:
    """`ring` None: nobody records. `idle` is called while waiting and says whether to go on waiting."""

    def __init__(
        self,
        ring: Ring | None,
        board: Board,
        *,
        waits: bool,
        depth: bool,
        frames_every: int,
        idle: Callable[[], bool],
    ) -> None:
        self._ring, self._board = ring, board
        self._waits, self._depth, self._frames_every = waits, depth, frames_every
        self._idle = idle
        self._sent: dict[str, int] = {}

    def begin_episode(self) -> None:
        self._sent = {}

    def step(self, message: Step, frames: dict[str, Frame]) -> None:
        """A step and, every n-th tick, the pictures that are new since the last one sent."""
        if self._ring is None:
            return
        buffers: list[tuple[wire.Buffer, bytes | np.ndarray]] = []
        with_pictures = message.index % self._frames_every == 0
        if with_pictures:
            for name, frame in frames.items():
                if self._sent.get(name) == frame.number:
                    continue
                buffers.append(wire.raw(f"{name}.colour", frame.rgb))
                if self._depth and frame.depth is not None:
                    buffers.append(wire.raw(f"{name}.depth", frame.depth))
        parts = wire.pack(message, buffers)
        room = self._ring.capacity - self._ring.used
        if self._waits:
            pushed = self._push_waiting(parts)
        elif buffers and room - sum(map(len, parts)) < self._ring.capacity // RESERVE:
            pushed = False
        else:
            pushed = self._ring.try_push(parts)
        if pushed:
            if with_pictures:  # else what is new now is still to be sent
                self._sent.update({name: frame.number for name, frame in frames.items()})
            return
        self._board.ring_frames_dropped += bool(buffers)
        if not self._ring.try_push(wire.pack(message)):
            self._board.ring_records_dropped += 1

    def boundary(self, message: AnyMessage) -> None:
        """A message between steps: never dropped, waited for."""
        if self._ring is not None and not self._push_waiting(wire.pack(message)):
            self._board.ring_records_dropped += 1

    def _push_waiting(self, parts: list[bytes | memoryview]) -> bool:
        assert self._ring is not None
        while not self._ring.try_push(parts):
            if not self._idle():
                return False
            time.sleep(_PAUSE_S)
        return True
