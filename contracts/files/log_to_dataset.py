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
from contracts.files.dataset_format import CAMERA_PREFIX, DEPTH16, VIDEO, Feature
from contracts.files.episode_log import EpisodeLogReader
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart, Step

DEPTH_PREFIX = "observation.depth."
MAX_STEPS = 200_000
_REWARDS = ("process", "completion", "contrastive")


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
        self.lost = sum(
            picture is None
            for group in (colour, depth)
            for pictures in group.values()
            for picture in pictures
        )

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
    log ended early, "" for a whole one (then `end` is the robot's own)."""

    session: SessionStart
    start: EpisodeStart
    end: EpisodeEnd
    columns: dict[str, np.ndarray]
    pictures: EncodedPictures
    torn: str


def read_episode(path: Path) -> LoggedEpisode:
    """A log as one episode. A torn log gives the steps before the tear, with `end.reason` "aborted".

    Raises `WireError` if it is no episode log, or not one session, one start and steps in order.
    """
    reader = EpisodeLogReader(path)
    session: SessionStart | None = None
    start: EpisodeStart | None = None
    end: EpisodeEnd | None = None
    steps: list[Step] = []
    pictures: list[dict[str, EncodedPicture]] = []
    for packet in reader.packets():
        message = packet.message
        if end is not None:
            raise WireError(f"{path.name}: record after the episode's end")
        if isinstance(message, SessionStart) and session is None:
            session = message
        elif isinstance(message, EpisodeStart) and session is not None and start is None:
            start = message
        elif isinstance(message, Step) and start is not None:
            if len(steps) >= MAX_STEPS:
                raise WireError(f"{path.name}: too many steps", expected=f"<= {MAX_STEPS}")
            steps.append(message)
            pictures.append({name: _picture(packet, name) for name in packet.data})
        elif isinstance(message, EpisodeEnd) and start is not None:
            end = message
        else:
            raise WireError(f"{path.name}: {type(message).__name__} is out of place")
    if session is None or start is None:
        raise WireError(f"{path.name} has no start", found=reader.torn or "nothing")
    torn = reader.torn or ("" if end else "no end of the episode")
    if end is None or torn:
        end = EpisodeEnd(start.episode_seq, len(steps), "aborted", None, torn)
    columns = _columns(path.name, session, steps)
    colour = {
        c.name: [p.get(f"{c.name}.colour") for p in pictures] for c in session.observation.cameras
    }
    depth = {
        c.name: [p.get(f"{c.name}.depth") for p in pictures]
        for c in session.observation.cameras
        if any(f"{c.name}.depth" in p for p in pictures)
    }
    return LoggedEpisode(session, start, end, columns, EncodedPictures(colour, depth), torn)


def rate_hz(session: SessionStart, tick_s: np.ndarray) -> float:
    """Steps a second: as declared, else from the steps' times, else the chunk rate."""
    if session.loop_rate_hz > 0:
        return session.loop_rate_hz
    gaps = np.diff(tick_s)
    gaps = gaps[gaps > 0]
    return float(1.0 / np.median(gaps)) if len(gaps) else session.action.rate_hz


def features_of(session: SessionStart, pictures: EncodedPictures) -> dict[str, Feature]:
    """The data set's features for episodes of this session (our own columns come on top)."""
    state, action = session.observation.state_names, session.action.names
    features = {
        "observation.state": Feature("float32", (len(state),), state),
        "action": Feature("float32", (len(action),), action),
        "requested": Feature("float32", (len(action),), action),
        "chunk": Feature("int64", (1,)),
        "chunk_index": Feature("int64", (1,)),
        "time.tick": Feature("float64", (1,)),
        "time.lateness": Feature("float64", (1,)),
    }
    for name in pictures.cameras:
        height, width = pictures.frames(name, [0]).shape[1:3]
        features[CAMERA_PREFIX + name] = Feature(VIDEO, (height, width, 3))
    for name in pictures.depth_cameras:
        features[DEPTH_PREFIX + name] = Feature(DEPTH16, pictures.depth(name, [0]).shape[1:])
    return features


def append(
    writer: DatasetWriter, episode: LoggedEpisode, extra: Mapping[str, Any] | None = None
) -> int:
    """Write an episode; returns its index. `session`, `start` and `end` are kept in the episode's extra.

    Raises `DatasetError` (the data set is then unchanged).
    """
    pictures = episode.pictures
    return writer.add_episode(
        episode.columns,
        {CAMERA_PREFIX + name: pictures.each_frame(name) for name in pictures.cameras},
        {DEPTH_PREFIX + name: pictures.each_depth(name) for name in pictures.depth_cameras},
        task=episode.start.instruction,
        extra={
            "session": msgspec.to_builtins(episode.session),
            "start": msgspec.to_builtins(episode.start),
            "end": _finite(msgspec.to_builtins(episode.end)),
            "torn": episode.torn,
            "pictures_lost": pictures.lost,
            **(extra or {}),
        },
    )


def create_dataset(root: Path, episode: LoggedEpisode) -> DatasetWriter:
    """A new data set whose features are those of this episode."""
    rate = max(1, round(rate_hz(episode.session, episode.columns["time.tick"])))
    features = features_of(episode.session, episode.pictures)
    extra = {
        "observation": msgspec.to_builtins(episode.session.observation),
        "action": msgspec.to_builtins(episode.session.action),
    }
    return DatasetWriter.create(root, rate, features, episode.session.robot_id, extra)


def _columns(name: str, session: SessionStart, steps: list[Step]) -> dict[str, np.ndarray]:
    state_size, action_size = len(session.observation.state_names), len(session.action.names)
    for index, step in enumerate(steps):
        sizes = (len(step.state), len(step.action), len(step.requested))
        if sizes != (state_size, action_size, action_size):
            raise WireError(
                f"{name}: arity of step {step.index}",
                expected=(state_size, action_size, action_size),
                found=sizes,
            )
        if index and step.index <= steps[index - 1].index:
            raise WireError(f"{name}: steps are out of order", found=step.index)

    def floats(values: list[Any], width: int) -> np.ndarray:
        return np.array(values, np.float32).reshape(len(steps), width)

    def times(values: list[float]) -> np.ndarray:
        return np.array(values, np.float64)

    def whole(values: list[int]) -> np.ndarray:
        return np.array(values, np.int64)

    columns = {
        "observation.state": floats([s.state for s in steps], state_size),
        "action": floats([s.action for s in steps], action_size),
        # What was asked for may be non-finite (the gate refuses it); tables take NaN, not infinity.
        "requested": _no_infinity(floats([s.requested for s in steps], action_size)),
        "chunk": whole([s.chunk for s in steps]),
        "chunk_index": whole([s.chunk_index for s in steps]),
        "time.tick": times([s.tick_s for s in steps]),
        "time.lateness": times([s.lateness_s for s in steps]),
        "time.state": times([s.state_s for s in steps]),
        "time.inference": times([s.inference_started_s for s in steps]),
        "time.actuation": times([s.actuated_s for s in steps]),
        "policy_version": whole([s.policy_version for s in steps]),
        "reward_version": whole([s.reward_version for s in steps]),
        "gate.verdict": whole([s.gate for s in steps]),
        "intervention": np.array([s.intervention for s in steps], bool),
    }
    for signal in _REWARDS:
        columns[f"reward.{signal}"] = np.array(
            [np.nan if s.reward is None else getattr(s.reward, signal) for s in steps], np.float32
        )
    for camera in session.observation.cameras:
        for kind, attribute in (("capture", "captured_s"), ("receive", "received_s")):
            values = [getattr(s, attribute).get(camera.name, np.nan) for s in steps]
            columns[f"time.{kind}.{camera.name}"] = times(values)
    return columns


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


def _no_infinity(array: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(array), np.float32(np.nan), array)


def _finite(tree: dict[str, Any]) -> dict[str, Any]:
    timings = tree.get("timings", {})
    return {**tree, "timings": {k: v for k, v in timings.items() if np.isfinite(v)}}
