"""Episode logs to columns and to LeRobotDataset v3.0 episodes: the one place that knows both.

`read_episode` loads a log into columns named as in the data set, with the pictures still encoded;
`append` writes that episode through `DatasetWriter`. Scores of the trainer are not stored here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts import images, wire
from contracts.errors import WireError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import (
    CAMERA_PREFIX,
    DEPTH16,
    VIDEO,
    DatasetError,
    Feature,
    require_alike,
)
from contracts.files.episode_log import EpisodeLogReader
from contracts.files.step_table import StepTable
from contracts.messages import ABORTED, EpisodeEnd, EpisodeStart, SessionStart, Step

DEPTH_PREFIX = "observation.depth."
COLOUR, DEPTH = ".colour", ".depth"
MAX_RATE_HZ = 10_000.0
"""No arm is commanded more often; a data set keeps its first episode's rate for good."""


@dataclass(frozen=True)
class EncodedPicture:
    """One camera picture as it travelled; `codec` "raw" or one of `contracts.images`."""

    codec: str
    shape: tuple[int, ...]
    dtype: str
    data: bytes

    def decode(self) -> np.ndarray:
        """The array. Raises `ImageCodecError` or `WireError`."""
        if self.codec == "raw":
            return np.frombuffer(self.data, self.dtype).reshape(self.shape)
        return images.decode(self.codec, self.data, self.shape)


class EncodedPictures:
    """`Pictures` of one episode in memory, decoded on demand. A step whose picture was lost (control
    drops pictures before records) repeats the one before it, the first ones repeat the first there is."""

    def __init__(
        self,
        colour: Mapping[str, list[EncodedPicture | None]],
        depth: Mapping[str, list[EncodedPicture | None]],
    ) -> None:
        self._colour = {name: _filled(name, pictures) for name, pictures in colour.items()}
        self._depth = {name: _filled(name, pictures) for name, pictures in depth.items()}

    @property
    def cameras(self) -> list[str]:
        return sorted(self._colour)

    @property
    def depth_cameras(self) -> list[str]:
        return sorted(self._depth)

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """uint8[N, H, W, 3] RGB."""
        return _decode(self._colour, camera, indices)

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """uint16[N, H, W]."""
        return _decode(self._depth, camera, indices)

    def each_frame(self, camera: str) -> Iterator[np.ndarray]:
        return (picture.decode() for picture in self._colour[camera])

    def each_depth(self, camera: str) -> Iterator[np.ndarray]:
        return (picture.decode() for picture in self._depth[camera])


@dataclass(frozen=True)
class LoggedEpisode:
    """One episode read from its log. `columns`: see `trainer.interfaces.StoredEpisode`. `torn`: why the
    log ended early, "" for a whole one (then `end` is the robot's own). `lost`: rows whose picture was lost
    on the way and that show the one before. `steps_lost`: steps of the episode that are not in the log."""

    session: SessionStart
    start: EpisodeStart
    end: EpisodeEnd
    columns: dict[str, np.ndarray]
    pictures: EncodedPictures
    torn: str
    lost: int = 0
    steps_lost: int = 0


def read_episode(path: Path) -> LoggedEpisode:
    """A log as one episode. A torn log gives the steps before the tear, with `end.reason` `ABORTED`.

    Raises `WireError` if it is no episode log, or not one session, one start and steps in order.
    """
    reader = EpisodeLogReader(path)
    session: SessionStart | None = None
    start: EpisodeStart | None = None
    end: EpisodeEnd | None = None
    table: StepTable | None = None
    pictures: list[dict[str, EncodedPicture]] = []
    for packet in reader.packets():
        message = packet.message
        if end is not None:
            raise WireError(f"{path.name}: record after the episode's end")
        if isinstance(message, SessionStart) and session is None:
            session = message
        elif isinstance(message, EpisodeStart) and session is not None and start is None:
            start, table = message, StepTable(session, path.name)
        elif isinstance(message, Step) and table is not None:
            table.add(message, arrived(packet))
            pictures.append({name: _picture(packet, name) for name in packet.data})
        elif isinstance(message, EpisodeEnd) and start is not None:
            end = message
        else:
            raise WireError(f"{path.name}: {type(message).__name__} is out of place")
    if session is None or start is None or table is None:
        raise WireError(f"{path.name} has no start", found=reader.torn or "nothing")
    torn = reader.torn or ("" if end else "no end of the episode")
    if end is None or torn:
        end = EpisodeEnd(start.episode_seq, len(table), ABORTED, None, torn)
    colour = {
        c.name: [p.get(f"{c.name}.colour") for p in pictures] for c in session.observation.cameras
    }
    depth = {
        c.name: [p.get(f"{c.name}.depth") for p in pictures]
        for c in session.observation.cameras
        if any(f"{c.name}.depth" in p for p in pictures)
    }
    found = EncodedPictures(colour, depth)
    missing = table.missing(end.steps)
    return LoggedEpisode(session, start, end, table.columns(), found, torn, table.lost, missing)


def arrived(packet: wire.Packet) -> set[str]:
    """Cameras whose colour came with this step."""
    return {name.removesuffix(COLOUR) for name in packet.descriptors if name.endswith(COLOUR)}


def rate_hz(session: SessionStart, tick_s: np.ndarray) -> float:
    """Steps a second: as declared, else from the steps' times, else the chunk rate."""
    if session.loop_rate_hz > 0:
        return session.loop_rate_hz
    gaps = np.diff(tick_s)
    gaps = gaps[gaps > 0]
    return float(round(1.0 / np.median(gaps))) if len(gaps) else session.action.rate_hz


def features_of(
    session: SessionStart,
    colour: Mapping[str, tuple[int, ...]],
    depth: Mapping[str, tuple[int, ...]],
) -> dict[str, Feature]:
    """The data set's features for episodes of this session (our own columns come on top). `colour` and
    `depth`: camera -> shape of its pictures."""
    state, action = session.observation.state_names, session.action.names
    return {
        "observation.state": Feature("float32", (len(state),), state),
        "action": Feature("float32", (len(action),), action),
        "requested": Feature("float32", (len(action),), action),
        "chunk": Feature("int64", (1,)),
        "chunk_index": Feature("int64", (1,)),
        "time.tick": Feature("float64", (1,)),
        "time.lateness": Feature("float64", (1,)),
        **{CAMERA_PREFIX + name: Feature(VIDEO, shape) for name, shape in colour.items()},
        **{DEPTH_PREFIX + name: Feature(DEPTH16, shape) for name, shape in depth.items()},
    }


def append(
    writer: DatasetWriter, episode: LoggedEpisode, extra: Mapping[str, Any] | None = None
) -> int:
    """Write an episode; returns its index. `session`, `start` and `end` are kept in the episode's extra.

    Raises `DatasetError` (the data set is then unchanged), also where the data set is of another robot or
    another rate: its times would be wrong, or one joint's column would hold another joint.
    """
    pictures, declared = episode.pictures, episode.session.loop_rate_hz
    given = fps_of(declared) if declared > 0 else writer.fps, _features(episode)
    elsewhere = "give the robot another robot.id, which has a data set of its own"
    require_alike(writer.root, (writer.fps, writer.given_features), given, elsewhere)
    return writer.add_episode(
        episode.columns,
        {CAMERA_PREFIX + name: pictures.each_frame(name) for name in pictures.cameras},
        {DEPTH_PREFIX + name: pictures.each_depth(name) for name in pictures.depth_cameras},
        task=episode.start.instruction,
        extra={
            **record_of(
                episode.session, episode.start, episode.end, episode.lost, episode.steps_lost
            ),
            "torn": episode.torn,
            **(extra or {}),
        },
    )


def record_of(
    session: SessionStart, start: EpisodeStart, end: EpisodeEnd, lost: int, steps_lost: int
) -> dict[str, Any]:
    """What an episode's extra keeps of its messages, and what of it was lost on the way."""
    return {
        "session": msgspec.to_builtins(session),
        "start": msgspec.to_builtins(start),
        "end": _finite(msgspec.to_builtins(end)),
        "torn": "",
        "pictures_lost": lost,
        "steps_lost": steps_lost,
    }


def create_dataset(root: Path, episode: LoggedEpisode) -> DatasetWriter:
    """A new data set whose features are those of this episode. Raises `DatasetError`."""
    features = _features(episode)
    rate = rate_hz(episode.session, episode.columns["time.tick"])
    return create_for(root, episode.session, features, rate)


def _features(episode: LoggedEpisode) -> dict[str, Feature]:
    """Raises `DatasetError` for an episode without a step."""
    if len(episode.columns["time.tick"]) == 0:
        raise DatasetError("empty episode", expected="at least one step", found="none")
    pictures = episode.pictures
    return features_of(
        episode.session,
        {name: pictures.frames(name, [0]).shape[1:] for name in pictures.cameras},
        {name: pictures.depth(name, [0]).shape[1:] for name in pictures.depth_cameras},
    )


def create_for(
    root: Path, session: SessionStart, features: Mapping[str, Feature], rate: float
) -> DatasetWriter:
    """A new data set for episodes of this session, `rate` steps a second. Raises `DatasetError`."""
    extra = {
        "observation": msgspec.to_builtins(session.observation),
        "action": msgspec.to_builtins(session.action),
    }
    return DatasetWriter.create(root, fps_of(rate), features, session.robot_id, extra)


def fps_of(rate: float) -> int:
    """What a data set of `rate` steps a second has as its own, which knows whole numbers only: with another
    one its times would be wrong. Raises `DatasetError`."""
    if not (0 < rate <= MAX_RATE_HZ and rate == round(rate)):
        raise DatasetError(
            "steps a second of an episode",
            expected=f"a whole number above 0, at most {MAX_RATE_HZ:g}",
            found=f"{rate:g}",
            remedy="set loop.rate_hz to one",
        )
    return round(rate)


def _picture(packet: wire.Packet, name: str) -> EncodedPicture:
    buffer = packet.descriptors[name]
    return EncodedPicture(buffer.codec, buffer.shape, buffer.dtype, bytes(packet.data[name]))


def _filled(camera: str, pictures: list[EncodedPicture | None]) -> list[EncodedPicture]:
    known = next((picture for picture in pictures if picture is not None), None)
    if known is None:
        if pictures:
            raise WireError(f"episode has no picture of camera '{camera}'")
        return []
    filled: list[EncodedPicture] = []
    for picture in pictures:
        known = picture or known
        filled.append(known)
    return filled


def _decode(
    cameras: Mapping[str, list[EncodedPicture]], camera: str, indices: Sequence[int] | None
) -> np.ndarray:
    if camera not in cameras:
        raise WireError(f"episode has no camera '{camera}'", found=sorted(cameras))
    pictures = cameras[camera]
    chosen = pictures if indices is None else [pictures[index] for index in indices]
    return np.stack([picture.decode() for picture in chosen])


def _finite(tree: dict[str, Any]) -> dict[str, Any]:
    timings = tree.get("timings", {})
    return {**tree, "timings": {k: v for k, v in timings.items() if np.isfinite(v)}}
