"""Episodes' colour as MP4: H.264, yuv420p, a key frame every second frame. Owns encode and decode.

Why x264 "ultrafast" and not SVT-AV1, LeRobot's own choice: docs/results/recording.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from contracts.files.dataset_format import DatasetError

CODEC = "libx264"
CODEC_NAME = "h264"
PIXEL_FORMAT = "yuv420p"
KEY_FRAME_EVERY = 2
# No B-frames: presentation order is decoding order, so the first frame is at exactly 0 s and no edit
# list is needed, which some readers ignore.
ENCODER_OPTIONS = {"preset": "ultrafast", "crf": "18", "g": str(KEY_FRAME_EVERY), "bf": "0"}
# Beyond this many frames between two wanted ones a seek is cheaper than decoding on.
SEEK_WORTH_FRAMES = 3 * KEY_FRAME_EVERY


class _Output:
    """What FFmpeg writes to. A file of its own stays open, and its room taken, once the disk has refused a
    write; and Python's buffered ones find that out in a seek, which PyAV does not expect to fail."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self.seek, self.tell, self.close = self._file.seek, self._file.tell, self._file.close

    def write(self, data: bytes) -> int:
        """All of it, or `OSError`: FFmpeg takes a short write for a whole one."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        return len(data)


class VideoEncoder:
    """One MP4 file, frame by frame; one thread at a time. `close` or `abandon` ends it."""

    def __init__(self, path: Path, *, fps: int, shape: tuple[int, ...], what: str) -> None:
        """`shape`: (H, W, 3) of the frames. `path`: any name, MP4 content. `what`: named in errors."""
        self._shape, self._what, self._tick = shape, what, Fraction(1, fps)
        self._last: av.VideoFrame | None = None
        self.count = 0
        self._file = _Output(path)
        self._container = av.open(self._file, mode="w", format="mp4")
        stream = self._container.add_stream(CODEC, rate=fps, options=ENCODER_OPTIONS)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = shape[0], shape[1]
        stream.pix_fmt = PIXEL_FORMAT
        stream.codec_context.time_base = self._tick
        # The encoder's own thread pool would take the cores of the control loop.
        stream.codec_context.thread_count = 1
        self._stream = stream
        self._reformatter = VideoReformatter()

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8[H, W, 3] RGB. Raises `DatasetError` on another shape or dtype, `OSError`
        from the disk."""
        if (
            not isinstance(frame, np.ndarray)
            or frame.dtype != np.uint8
            or frame.shape != self._shape
        ):
            raise DatasetError(
                f"frame {self.count} of '{self._what}'",
                expected=f"uint8 of shape {self._shape}",
                found=f"{getattr(frame, 'dtype', type(frame).__name__)} {getattr(frame, 'shape', '')}",
            )
        rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        self._last = self._reformatter.reformat(rgb, format=PIXEL_FORMAT)
        self.repeat()

    def repeat(self) -> None:
        """The last frame once more: converting colours is most of what a still picture costs."""
        assert self._last is not None
        self._last.pts, self._last.time_base = self.count, self._tick
        self._container.mux(self._stream.encode(self._last))
        self.count += 1

    def close(self) -> None:
        """Write what is left and the index. Raises `OSError` from the disk."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._file.close()

    def abandon(self) -> None:
        """Give the file up as it is."""
        for end in (self._container.close, self._file.close):
            with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):
                end()


def encode(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    fps: int,
    shape: tuple[int, ...],
    length: int,
    what: str,
    look: Callable[[np.ndarray], None],
) -> None:
    """Write `length` frames uint8[H, W, 3] RGB of `shape` to `path` (any name, MP4 content).

    `look` is called with each frame as it passes (statistics). Frames are taken one at a time, so an
    iterator need not hold the episode in memory. Raises `DatasetError` on another count, shape or dtype.
    """
    encoder = VideoEncoder(path, fps=fps, shape=shape, what=what)
    try:
        for frame in frames:
            if encoder.count == length:
                raise DatasetError(
                    f"frames of '{what}'", expected=f"{length} (one per step)", found="more"
                )
            encoder.add(frame)
            look(frame)
        if encoder.count != length:
            raise DatasetError(
                f"frames of '{what}'", expected=f"{length} (one per step)", found=encoder.count
            )
        encoder.close()
    except BaseException:
        encoder.abandon()
        raise


def decode(
    path: Path,
    *,
    fps: float,
    shape: tuple[int, ...],
    first: int,
    indices: Sequence[int],
) -> np.ndarray:
    """uint8[len(indices), H, W, 3] RGB: frames `first + i` of the file for each i, in that order.

    Raises `DatasetError` if the file is missing, corrupt or lacks one of the frames.
    """
    frames = np.empty((len(indices), *shape), np.uint8)
    slots: dict[int, list[int]] = {}
    for slot, index in enumerate(indices):
        slots.setdefault(first + index, []).append(slot)
    wanted = sorted(slots)
    try:
        with av.open(str(path)) as container:
            _decode_into(frames, container, wanted, slots, fps)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DatasetError(f"video {path} can't be read", found=str(error)) from error
    except LookupError as error:
        raise DatasetError(
            f"video {path}", expected=f"frames {wanted[0]} to {wanted[-1]}", found=str(error)
        ) from error
    return frames


def _decode_into(
    frames: np.ndarray, container: Any, wanted: list[int], slots: dict[int, list[int]], fps: float
) -> None:
    stream = container.streams.video[0]
    if stream.codec_context is None or stream.time_base is None:
        raise LookupError("a video stream that nothing here decodes")
    # Starting decoder threads takes longer than decoding an episode of small pictures.
    stream.codec_context.thread_count = 1
    tick = stream.time_base
    # One converter for all frames: a fresh one per frame doubles the time.
    reformatter = VideoReformatter()
    decoded = container.decode(stream)
    at, picture = -1, None
    for index in wanted:
        if index - at > SEEK_WORTH_FRAMES:
            container.seek(round(index / fps / tick), stream=stream, backward=True)
            decoded = container.decode(stream)
        while at != index:
            picture = next(decoded, None)
            if picture is None or picture.pts is None:
                raise LookupError(f"the end before frame {index}")
            at = round(float(picture.pts * tick) * fps)
            if at > index:
                raise LookupError(f"frame {at} where {index} should be")
        assert picture is not None
        rgb = reformatter.reformat(picture, format="rgb24").to_ndarray()
        if rgb.shape != frames.shape[1:]:
            raise LookupError(f"pictures of {rgb.shape} instead of {frames.shape[1:]}")
        for slot in slots[index]:
            frames[slot] = rgb
