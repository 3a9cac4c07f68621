"""Depth of one episode and camera in one file: losslessly compressed frames behind an index.

Layout, little-endian: magic (8 bytes), height, width, frames (uint32 each), frames + 1 offsets (uint64,
from the start of the file), then the frames as `contracts.images` encodes them (codec id in the data
set's own metadata, since LeRobot v3.0 has no depth).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from contracts.files.dataset_format import DatasetError
from contracts.images import DEPTH_VZS_ZSTD, ImageCodecError, decode_depth, encode_depth

CODEC = DEPTH_VZS_ZSTD
MAGIC = b"ENTDEP\x00\x01"
_HEADER = struct.Struct("<8sIII")


def write(
    path: Path, frames: Iterable[np.ndarray], *, shape: tuple[int, ...], length: int, what: str
) -> None:
    """Write `length` frames uint16[H, W] of `shape`; `DatasetError` on another count or kind."""
    offsets = np.zeros(length + 1, "<u8")
    start = _HEADER.size + offsets.nbytes
    offsets[0] = start
    count = 0
    with path.open("wb") as file:
        file.seek(start)
        for frame in frames:
            if (
                not isinstance(frame, np.ndarray)
                or frame.dtype != np.uint16
                or frame.shape != shape
            ):
                raise DatasetError(
                    f"depth frame {count} of '{what}'",
                    expected=f"uint16 of shape {shape}",
                    found=f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}",
                )
            if count == length:
                raise DatasetError(
                    f"depth of '{what}'", expected=f"{length} (one per step)", found="more"
                )
            count += 1
            offsets[count] = offsets[count - 1] + file.write(encode_depth(frame))
        if count != length:
            raise DatasetError(
                f"depth of '{what}'", expected=f"{length} (one per step)", found=count
            )
        file.seek(0)
        file.write(_HEADER.pack(MAGIC, shape[0], shape[1], length) + offsets.tobytes())


def read(path: Path, *, shape: tuple[int, ...], length: int, indices: Sequence[int]) -> np.ndarray:
    """uint16[len(indices), H, W], bit-equal. Raises `DatasetError` on a missing or damaged file."""
    frames = np.empty((len(indices), *shape), np.uint16)
    try:
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
