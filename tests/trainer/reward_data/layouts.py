"""Writes tiny recordings as the data sets have them: MP4 files, TFRecord files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from contracts.files import video
from contracts.images import encode_jpeg
from trainer.reward_data.tfrecord import crc32c, masked

SHAPE = (48, 64, 3)
SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def moving_square(frames: int, seed: int = 0) -> list[np.ndarray]:
    """A square that goes from left to right, so that every frame is another one."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 90, SHAPE).astype(np.uint8)
    pictures = []
    for k in range(frames):
        picture = ground.copy()
        left = round(k * (SHAPE[1] - 12) / max(1, frames - 1))
        picture[18:30, left : left + 12] = (230, 60 + seed % 100, 40)
        pictures.append(picture)
    return pictures


def write_mp4(path: Path, frames: int = 12, fps: int = 6, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = moving_square(frames, seed)
    video.encode(
        path, pictures, fps=fps, shape=SHAPE, length=frames, what="test", look=lambda f: None
    )
    return path


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def example(features: dict[str, list[bytes] | list[float] | list[int]]) -> bytes:
    """A serialised tf.train.Example."""
    entries = b""
    for name, values in features.items():
        if isinstance(values[0], bytes):
            kind, body = 1, b"".join(_field(1, v) for v in values)  # type: ignore[arg-type]
        elif isinstance(values[0], float):
            kind, body = 2, _field(1, struct.pack(f"<{len(values)}f", *values))  # type: ignore[arg-type]
        else:
            kind, body = 3, _field(1, b"".join(_varint(int(v)) for v in values))
        entries += _field(1, _field(1, name.encode()) + _field(2, _field(kind, body)))
    return _field(1, entries)


def tfrecord(records: list[bytes]) -> bytes:
    out = b""
    for data in records:
        head = struct.pack("<Q", len(data))
        out += head + struct.pack("<I", masked(crc32c(head)))
        out += data + struct.pack("<I", masked(crc32c(data)))
    return out


TASKS = ("put the carrot on the plate", "put the red cup in the sink", "open the drawer")


def rlds_episode(task: str, number: int, frames: int = 10, finished: bool = True) -> bytes:
    last = [0] * (frames - 1) + [int(finished)]
    return example(
        {
            "steps/language_instruction": [task.encode()] * frames,
            "steps/observation/image_0": [encode_jpeg(p) for p in moving_square(frames, number)],
            "steps/is_last": last,
            "steps/reward": [0.0] * frames,
            "episode_metadata/file_path": [b"somewhere/out.npy"],
            "episode_metadata/episode_id": [number],
        }
    )
