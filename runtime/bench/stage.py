"""What the bench's cameras look at, in shared memory: physics writes, the pictures process reads.

One writer, one reader, no waiting: a reader that is overtaken while it copies takes the newer one.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import DeviceError, EntracteError
from runtime.bench.world import Sight
from runtime.system import shared

_MAGIC = 0x454E_5452_5354_4731  # "ENTRSTG1"
_SLOTS = 4
_HEADER = 64
_SLOT_HEADER = 64
_SLOT_BYTES = 64 * 1024  # a scene of 40 geoms takes 10 KB
_SIZE = _HEADER + _SLOTS * _SLOT_BYTES
_RETRIES = 50
_WHAT = "stage"


class Glimpse(msgspec.Struct, frozen=True, array_like=True):
    """The scene (counted from 1, as a MuJoCo model in XML) and what of it changes: `runtime.bench.world.
    Sight`, as bytes, and when it was so."""

    scene: int
    model_xml: str
    qpos: bytes
    colours: bytes
    key: tuple[int, int, int]
    captured_s: float

    def sight(self) -> Sight:
        colours = np.frombuffer(self.colours, np.float32).reshape(-1, 4)
        return Sight(np.frombuffer(self.qpos), colours, self.key)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Glimpse).decode


class Stage:
    """`create` beside physics, `open` where pictures are taken."""

    def __init__(self, memory: mmap.mmap) -> None:
        shared.require_size(memory, _SIZE, _WHAT, DeviceError)
        self._map = memory
        self._words = np.frombuffer(self._map, np.int64, _HEADER // 8)
        self._barrier = shared.Barrier()

    @classmethod
    def create(cls, path: Path) -> Stage:
        stage = cls(shared.create(path, _SIZE))
        stage._words[0] = _MAGIC
        return stage

    @classmethod
    def open(cls, path: Path) -> Stage:
        """The stage another process created. Raises `DeviceError`."""
        return cls(shared.open_existing(path, _MAGIC, _HEADER, _WHAT, DeviceError))

    def show(self, scene: int, model_xml: str, sight: Sight, captured_s: float) -> None:
        """Publish as the newest. Raises `EntracteError` for a scene that is too large."""
        qpos, colours = sight.qpos.tobytes(), sight.colours.tobytes()
        data = _encode(Glimpse(scene, model_xml, qpos, colours, sight.key, captured_s))
        if len(data) > _SLOT_BYTES - _SLOT_HEADER:
            raise EntracteError("the scene is too large for the cameras", found=len(data))
        number = int(self._words[1]) + 1
        at = _HEADER + number % _SLOTS * _SLOT_BYTES
        head = np.frombuffer(self._map, np.int64, 3, at)
        head[0] = number
        self._barrier()
        self._map[at + _SLOT_HEADER : at + _SLOT_HEADER + len(data)] = data
        head[1] = len(data)
        self._barrier()
        head[2] = number
        self._words[1] = number

    def newest(self) -> Glimpse | None:
        """None before the first. Raises `DeviceError` when overtaken again and again."""
        for _ in range(_RETRIES):
            number = int(self._words[1])
            if number == 0:
                return None
            at = _HEADER + number % _SLOTS * _SLOT_BYTES
            head = np.frombuffer(self._map, np.int64, 3, at)
            self._barrier()
            data = self._map[at + _SLOT_HEADER : at + _SLOT_HEADER + int(head[1])]
            self._barrier()
            if head[0] == number and head[2] == number:
                return _decode(data)
        raise DeviceError("the stage changes faster than it can be copied")
