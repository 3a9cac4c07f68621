"""Depth of one episode and camera in one file: losslessly compressed frames behind an index.

Layout, little-endian: magic (8 bytes), height, width, frames (uint32 each), frames + 1 offsets (uint64,
from the start of the file; unused room may follow), then the frames as `contracts.images` encodes them
(codec id in the data set's own metadata, since LeRobot v3.0 has no depth).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from contracts.files.dataset_format import DatasetError
from contracts.images import DEPTH_VZS_ZSTD, ImageCodecError, decode_depth, encode_depth

CODEC = DEPTH_VZS_ZSTD
MAGIC = b"ENTDEP\x00\x01"
_HEADER = struct.Struct("<8sIII")


class DepthWriter:
    """One file, frame by frame; one thread at a time. `close` or `abandon` ends it.

    The index comes before the frames and its size is known at the end only: room for `reserve` frames is
    left (a hole in the file), and an episode that outgrows it is moved once.
    """

    def __init__(self, path: Path, *, shape: tuple[int, ...], what: str, reserve: int) -> None:
        """`shape`: (H, W) of the frames. `what`: named in errors."""
        self._path, self._shape, self._what, self._reserve = path, shape, what, reserve
        self._offsets = array("Q", [_HEADER.size + 8 * (reserve + 1)])
        self._last = b""
        self._file: BinaryIO = path.open("wb")
        self._file.seek(self._offsets[0])

    @property
    def count(self) -> int:
        return len(self._offsets) - 1

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint16[H, W]. Raises `DatasetError` on another shape or dtype, `OSError` from
        the disk."""
        if (
            not isinstance(frame, np.ndarray)
            or frame.dtype != np.uint16
            or frame.shape != self._shape
        ):
            raise DatasetError(
                f"depth frame {self.count} of '{self._what}'",
                expected=f"uint16 of shape {self._shape}",
                found=f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}",
            )
        self._last = encode_depth(frame)
        self.repeat()

    def repeat(self) -> None:
        """The last frame once more."""
        self._offsets.append(self._offsets[-1] + self._file.write(self._last))

    def close(self) -> None:
        """Write the index. Raises `OSError` from the disk."""
        if self.count > self._reserve:
            self._make_room()
        self._file.seek(0)
        index = np.frombuffer(self._offsets, np.uint64).astype("<u8").tobytes()
        self._file.write(_HEADER.pack(MAGIC, *self._shape, self.count) + index)
        self._file.close()

    def abandon(self) -> None:
        """Give the file up as it is."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _make_room(self) -> None:
        moved = self._path.with_name(f"{self._path.stem}.moved{self._path.suffix}")
        start = _HEADER.size + 8 * (self.count + 1)
        self._file.close()
        try:
            with self._path.open("rb") as old, moved.open("wb") as new:
                old.seek(self._offsets[0])
                new.seek(start)
                shutil.copyfileobj(old, new, 1 << 20)
            os.replace(moved, self._path)
        except BaseException:
            moved.unlink(missing_ok=True)
            raise
        shift = start - self._offsets[0]
        self._offsets = array("Q", [offset + shift for offset in self._offsets])
        self._file = self._path.open("r+b")


def read(path: Path, *, shape: tuple[int, ...], length: int, indices: Sequence[int]) -> np.ndarray:
    """uint16[len(indices), H, W], bit-equal. Raises `DatasetError` on a missing or damaged file."""
    if len(shape) != 2:
        raise DatasetError("shape of a depth feature", expected="(H, W)", found=shape)
    try:
        frames = np.empty((len(indices), *shape), np.uint16)
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
            expected = _HEADER.pack(MAGIC, shape[0], shape[1], length)
            if header != expected:
                raise DatasetError(
                    f"header of {path}",
                    expected=expected.hex(),
                    found=header.hex(),
                )
            offsets = np.frombuffer(file.read((length + 1) * 8), "<u8")
            size = path.stat().st_size
            whole = len(offsets) == length + 1 and int(offsets[-1]) == size
            if not whole or (offsets[1:] < offsets[:-1]).any():
                raise DatasetError(
                    f"{path} is damaged", expected=f"{length} frames", found=f"{size} bytes"
                )
            for slot, index in enumerate(indices):
                file.seek(int(offsets[index]))
                data = file.read(int(offsets[index + 1] - offsets[index]))
                frames[slot] = decode_depth(data, shape)
    except (OSError, ValueError, ImageCodecError) as error:
        raise DatasetError(f"depth file {path} can't be read", found=str(error)) from error
    return frames
