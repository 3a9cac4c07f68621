"""Demonstrations in memory: recorded data sets decoded once, cut into (observation, chunk) samples.

Reads LeRobotDataset v3.0, whoever wrote it; knows neither the robot nor how the policy is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from contracts import language
from contracts.errors import ConfigError
from contracts.files.dataset_reader import DatasetReader
from contracts.keyframes import next_keyframes


@dataclass(frozen=True)
class Demonstration:
    """One episode of T steps. `states` float32[T, S], `actions` float32[T, A]; `images` per camera
    uint8[K, H, W, 3] are those of the steps `seen` int64[K]."""

    instruction: str
    images: dict[str, np.ndarray]
    seen: np.ndarray
    states: np.ndarray
    actions: np.ndarray


@dataclass(frozen=True)
class Samples:
    """The seen steps of all demonstrations, one after another. `chunks` float32[N, T, A]: the actions that
    follow each step, the last one repeated at the end; `tokens` int64[N, L]; `keyframes` float32[N, A]:
    the action at the next moment at which the gripper starts to move, or at the end (James and Davison
    2022): where the hand is going, which is where the things are, with no label but the demonstration."""

    images: dict[str, np.ndarray]
    states: np.ndarray
    tokens: np.ndarray
    chunks: np.ndarray
    keyframes: np.ndarray
    episode: np.ndarray

    def __len__(self) -> int:
        return len(self.states)


def read(
    roots: Sequence[Path],
    *,
    cameras: Sequence[str],
    width: int,
    height: int,
    rate_hz: float,
    every: int = 1,
    episodes: int | None = None,
    keep: Callable[[dict[str, object]], bool] = lambda meta: True,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Demonstration]:
    """The data sets' episodes for which `keep(meta)`, at most `episodes` of each data set, as they were
    recorded at `rate_hz` (a data set of a multiple of it is thinned out). Pictures are kept of each
    `every`-th step only: those between are much alike, and memory holds that many more episodes.

    Raises `ConfigError` when a data set has another rate or no such episode.
    """
    found: list[Demonstration] = []
    for root in roots:
        reader = DatasetReader(root)
        stride = steps_per_action(reader, rate_hz)
        wanted = [i for i in range(reader.num_episodes) if keep(reader.meta(i))][:episodes]
        for done, index in enumerate(wanted):
            found.append(
                _episode(
                    reader,
                    index,
                    cameras=cameras,
                    width=width,
                    height=height,
                    stride=stride,
                    every=every,
                )
            )
            progress(done + 1, len(wanted))
        if not wanted:
            raise nothing_in(reader)
    return found


def steps_per_action(reader: DatasetReader, rate_hz: float) -> int:
    """Rows of that data set to an action at `rate_hz`. Raises `ConfigError` where they are no whole number:
    the actions would be those of other times."""
    stride = reader.fps / rate_hz
    if stride < 1 or stride != int(stride):
        raise ConfigError(
            f"data set {reader.root}",
            expected=f"a multiple of {rate_hz:g} steps a second",
            found=reader.fps,
            remedy="record it again at such a rate",
        )
    return int(stride)


def nothing_in(reader: DatasetReader) -> ConfigError:
    return ConfigError(f"data set {reader.root} has no episode to learn from")


def samples(
    demonstrations: Sequence[Demonstration],
    *,
    cameras: Sequence[str],
    vocabulary: tuple[str, ...],
    instruction_length: int,
    chunk_length: int,
    gripper: int = -1,
) -> Samples:
    """Every step of every demonstration as one training sample. `gripper`: its place in the action."""
    tokens, states, chunks, keyframes = [], [], [], []
    for one in demonstrations:
        seen, last = one.seen, len(one.actions) - 1
        ids = language.encode(one.instruction, vocabulary, instruction_length)
        tokens.append(np.repeat(ids[None], len(seen), 0))
        states.append(one.states[seen])
        chunks.append(one.actions[np.minimum(seen[:, None] + np.arange(chunk_length), last)])
        keyframes.append(one.actions[next_keyframes(one.actions, gripper)[seen]])
    return Samples(
        images={c: np.concatenate([d.images[c] for d in demonstrations]) for c in cameras},
        states=np.concatenate(states),
        tokens=np.concatenate(tokens),
        chunks=np.concatenate(chunks),
        keyframes=np.concatenate(keyframes),
        episode=np.repeat(np.arange(len(demonstrations)), [len(d.seen) for d in demonstrations]),
    )


def shrink(frames: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8[N, H, W, 3] at the size that the model takes; area-averaged, as the robot does it."""
    if frames.shape[1:3] == (height, width):
        return frames
    size = (width, height)
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])


def _episode(
    reader: DatasetReader,
    index: int,
    *,
    cameras: Sequence[str],
    width: int,
    height: int,
    stride: int,
    every: int,
) -> Demonstration:
    columns = reader.episode(index, ["observation.state", "action"])
    actions = columns["action"][::stride].astype(np.float32)
    seen = np.arange(index % every, len(actions), every)
    steps = [int(step) * stride for step in seen]
    images = {
        camera: shrink(reader.frames(index, f"observation.images.{camera}", steps), width, height)
        for camera in cameras
    }
    return Demonstration(
        instruction=str(reader.meta(index)["task"]),
        images=images,
        seen=seen,
        states=columns["observation.state"][::stride].astype(np.float32),
        actions=actions,
    )
