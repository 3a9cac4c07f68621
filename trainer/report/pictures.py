"""Pictures and films of recorded episodes: signal traces with frames, side-by-side videos, posters."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from contracts.files import atomic
from contracts.images import encode_jpeg
from trainer.report.charts import Trace
from trainer.report.rows import Episode, Recording

SHOTS = 6
FILM_HEIGHT = 288
HOLD_LAST_S = 0.8


def camera_of(recording: Recording) -> str:
    """The camera that shows the scene: "front" where there is one."""
    return "front" if "front" in recording.cameras else recording.cameras[0]


def trace(episode: Episode) -> Trace:
    """Signals over time of a recorded episode, with `SHOTS` frames spread over it."""
    recording = episode.recording
    if recording is None:
        raise ValueError(f"episode {episode.seq} was not recorded")
    columns = recording.columns()
    length = len(columns["action"])
    rate_hz = episode.rate_hz
    picks = np.unique(np.linspace(0, length - 1, SHOTS).round().astype(int)).tolist()
    frames = list(recording.frames(camera_of(recording), picks)) if recording.cameras else []
    return Trace(
        time_s=[index / rate_hz for index in range(length)],
        process=_signal(columns, "reward.process", length),
        completion=_signal(columns, "reward.completion", length),
        contrastive=_signal(columns, "reward.contrastive", length),
        frames=[
            (pick / rate_hz, jpeg_uri(frame)) for pick, frame in zip(picks, frames, strict=False)
        ],
        frame_aspect=frames[0].shape[1] / frames[0].shape[0] if frames else 4 / 3,
    )


def _signal(columns: dict[str, np.ndarray], name: str, length: int) -> list[float]:
    return [float(value) for value in columns.get(name, np.full(length, np.nan))]


def jpeg_uri(frame: np.ndarray, quality: int = 85) -> str:
    data = encode_jpeg(np.ascontiguousarray(frame), quality)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def side_by_side(left: Episode, right: Episode) -> Iterator[np.ndarray]:
    """uint8[H, W, 3] RGB frames of two recorded episodes beside one another, from the same moment on;
    the one that ends first stands still. A white seam parts them."""
    films = [_film(left), _film(right)]
    rate_hz = left.rate_hz
    longest = max(len(film) for film in films) + round(HOLD_LAST_S * rate_hz)
    seam = np.full((FILM_HEIGHT, 8, 3), 255, np.uint8)
    for index in range(longest):
        halves = [film[min(index, len(film) - 1)] for film in films]
        yield _even(np.hstack([halves[0], seam, halves[1]]))


def _film(episode: Episode) -> list[np.ndarray]:
    recording = episode.recording
    if recording is None:
        raise ValueError(f"episode {episode.seq} was not recorded")
    length = len(recording.columns()["action"])
    frames = recording.frames(camera_of(recording), list(range(length)))
    width = round(FILM_HEIGHT * frames.shape[2] / frames.shape[1])
    way = cv2.INTER_CUBIC if width > frames.shape[2] else cv2.INTER_AREA
    return [cv2.resize(f, (width, FILM_HEIGHT), interpolation=way).astype(np.uint8) for f in frames]


def _even(frame: np.ndarray) -> np.ndarray:
    return frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]


def write_film(
    path: Path, frames: Iterator[np.ndarray], rate_hz: float, made_by: str = "robot-trainer report"
) -> np.ndarray | None:
    """An H.264 MP4 that browsers play; returns its last frame (the poster), None if there was none."""
    last = None
    # faststart: the index comes first, so that the film starts before all of it is read.
    layout = {"movflags": "faststart"}
    with (
        atomic.replacing(path) as temporary,
        av.open(str(temporary), mode="w", format="mp4", options=layout) as container,
    ):
        container.metadata["comment"] = made_by
        rate = Fraction(rate_hz).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"crf": "21", "bf": "0"})
        assert isinstance(stream, VideoStream)
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            if last is None:
                stream.height, stream.width = frame.shape[:2]
            last = frame
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        if last is not None:
            container.mux(stream.encode(None))
    return last


def write_poster(path: Path, frame: np.ndarray) -> None:
    done, data = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{path.name}: OpenCV could not encode the poster")
    atomic.write_bytes(path, data.tobytes())
