"""Pictures of a source video, decoded one at a time, in increasing order, when asked for.

A reader is data (a path and a place in it), so that it can be sent to another process as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.images import MAX_PIXELS, decode_jpeg

ROWS_AT_ONCE = 32
MAX_FRAMES = 200_000


class Mp4Pictures(msgspec.Struct, frozen=True, tag="mp4"):
    """Frames of a video file, from frame `first` of it."""

    path: str
    first: int = 0

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8[H, W, 3] RGB of these increasing rows. Raises `EntracteError` where the file lacks one."""
        import av

        wanted = iter(self.first + row for row in rows)
        want = next(wanted, None)
        try:
            with av.open(self.path) as container:
                stream = container.streams.video[0]
                stream.codec_context.thread_count = 1
                for at, frame in enumerate(container.decode(stream)):
                    if want is None:
                        return
                    if at == want:
                        yield frame.to_ndarray(format="rgb24")
                        want = next(wanted, None)
        except (av.error.FFmpegError, OSError, IndexError) as error:
            raise EntracteError(f"video {self.path} can't be read", found=str(error)) from error
        if want is not None:
            raise EntracteError(f"video {self.path}", expected=f"frame {want}", found="its end")


class TfrecordPictures(msgspec.Struct, frozen=True, tag="tfrecord"):
    """Encoded pictures of one record of a TFRecord file: the list of feature `key`."""

    path: str
    offset: int
    key: str

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8[H, W, 3] RGB of these rows."""
        from trainer.reward_data.tfrecord import parse_example, read_record

        encoded = parse_example(read_record(Path(self.path), self.offset))[self.key]
        for row in rows:
            yield decode_picture(bytes(encoded[row]), f"{self.path}: {self.key}")


class LeRobotPictures(msgspec.Struct, frozen=True, tag="lerobot"):
    """One camera of one episode of a LeRobotDataset v3.0; `camera_key` as in its info.json."""

    root: str
    episode: int
    camera_key: str

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8[H, W, 3] RGB of these rows."""
        from contracts.files.dataset_reader import DatasetReader

        reader = DatasetReader(self.root)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            yield from reader.frames(
                self.episode, self.camera_key, list(rows[start : start + ROWS_AT_ONCE])
            )


class ClipPictures(msgspec.Struct, frozen=True, tag="clip"):
    """One camera of a bench clip: rows of a shard (see `trainer.rewards.data`)."""

    shard: str
    first_frame: int
    camera: int

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8[H, W, 3] RGB of these rows."""
        data, offsets = _shard(self.shard)
        for row in rows:
            at = 2 * (self.first_frame + row) + self.camera
            yield decode_jpeg(data[offsets[at] : offsets[at + 1]].tobytes())


@lru_cache(maxsize=1)
def _shard(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Clips of one shard follow one another: reading it once a clip would take longer than the rest."""
    with np.load(path, allow_pickle=False) as tables:
        return tables["jpeg"], tables["offsets"]


AnyPictures = Mp4Pictures | TfrecordPictures | LeRobotPictures | ClipPictures


def decode_picture(data: bytes, where: str) -> np.ndarray:
    """uint8[H, W, 3] RGB of a JPEG or PNG. Raises `EntracteError` on anything else."""
    import cv2

    if data[:3] == b"\xff\xd8\xff":
        return decode_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and _png_fits(data):
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is not None:
            return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
    raise EntracteError(
        f"picture in {where}",
        expected=f"JPEG or PNG of at most {MAX_PIXELS} pixels",
        found=data[:24].hex(" "),
    )


def _png_fits(data: bytes) -> bool:
    """By the sizes in its first chunk (PNG specification, 11.2.1), before anything is decoded."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return False
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return 0 < width * height <= MAX_PIXELS


def video_length(path: Path) -> tuple[int, float]:
    """(frames, frames per second) of a video file, without decoding it. Raises `EntracteError`."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise EntracteError(
            f"video {path} can't be read",
            found=str(error),
            remedy="mend it, or take it and what names it out of the source",
        ) from error
    if not rate or not 0 < frames <= MAX_FRAMES:
        raise EntracteError(
            f"video {path}", expected=f"a rate and 1 to {MAX_FRAMES} frames", found=(frames, rate)
        )
    return frames, float(rate)
