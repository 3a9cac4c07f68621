"""Reads the frames of an MP4 that a reward model is shown. The choice is the frame contract's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np

from contracts.errors import EntracteError
from contracts.frames import FrameContract, Video

MOST_BYTES = 4 << 30
"""Of pictures in memory at once: ten minutes of 640x480 at 8 Hz."""


def frame_times(path: Path) -> np.ndarray:
    """float64[N] seconds of every frame from the first one, by the file's own clock. Decodes nothing."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = float(stream.time_base or 1.0)
            stamps = sorted({p.pts for p in container.demux(stream) if p.pts is not None})
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise EntracteError(f"{path} is no video that can be read", found=str(error)) from error
    if not stamps:
        raise EntracteError(f"{path} holds no frame")
    return (np.array(stamps, np.float64) - stamps[0]) * base


def read_video(
    path: Path, contract: FrameContract | None = None, cameras: Sequence[str] = ()
) -> Video:
    """The frames that `contract` chooses (all without one), `steps` being their number in the file.

    `cameras`: whose pictures lie side by side in the file, from the left; by default the file is one picture
    of the contract's first camera ("video" where it names none). Raises `EntracteError`.
    """
    times = frame_times(path)
    wanted = contract.choose(times) if contract else np.arange(len(times))
    names = tuple(cameras) or ((contract.cameras if contract else ())[:1] or ("video",))
    pictures = _decode(path, set(wanted.tolist()))
    rows = np.array([row for row in wanted.tolist() if row in pictures])
    if not len(rows) or rows[-1] != wanted[-1]:
        raise EntracteError(f"{path} ends early", expected=f"{len(times)} frames that decode")
    whole = np.stack([pictures[row] for row in rows.tolist()])
    width = whole.shape[2] // len(names)
    if not width:
        raise EntracteError(f"{path}: {len(names)} pictures side by side", found=whole.shape[2])
    views = {name: whole[:, :, i * width : (i + 1) * width] for i, name in enumerate(names)}
    return Video(views, times[rows], rows.astype(np.int64))


def _decode(path: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """Frame number -> uint8[H, W, 3] RGB, read in order: most videos are short and key frames are rare."""
    out: dict[int, np.ndarray] = {}
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(stream)):
                if not number and frame.width * frame.height * 3 * len(wanted) > MOST_BYTES:
                    raise EntracteError(
                        f"{path}: {len(wanted)} pictures of {frame.width}x{frame.height}",
                        expected=f"at most {MOST_BYTES >> 30} GiB in memory",
                        remedy="cut it, or make it smaller",
                    )
                if number in wanted:
                    out[number] = frame.to_ndarray(format="rgb24")
                if len(out) == len(wanted):
                    break
    except (av.error.FFmpegError, OSError) as error:
        raise EntracteError(f"{path} does not decode", found=str(error)) from error
    return out
