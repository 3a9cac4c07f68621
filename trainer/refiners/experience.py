"""Episodes and demonstrations as a refiner trains on them: frozen features, action chunks, outcomes.

Owns the reading of pictures through the frozen trunk (once per episode) and the padding of chunks.
Knows no refinement method.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from contracts import language
from contracts.errors import PackageError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.packages import Package
from contracts.package import ChunkSpec
from trainer.imitate import ImitateOptions, augment
from trainer.interfaces import StoredEpisode
from trainer.policies.flow import FlowPolicy

_TRUNK_BATCH = 32
SHIFT_PX, COLOUR = ImitateOptions().shift_px, ImitateOptions().colour


@dataclass(frozen=True)
class Trajectory:
    """One episode at the chunk rate, thinned: `features` float32[V, M, F] of the frozen trunk on V views of
    the same pictures, `chunks` float32[M, T, A] in arm units (what was executed from there on; after the
    end the last action again), `remaining` float32[M] actions until the end, `success` the label."""

    features: np.ndarray
    chunks: np.ndarray
    remaining: np.ndarray
    success: bool


def chunks_at(actions: np.ndarray, starts: np.ndarray, length: int, every: int) -> np.ndarray:
    """float32[M, length, A]: from each start, every `every`-th of actions float32[T, A]; the last repeats."""
    index = starts[:, None] + every * np.arange(length)[None, :]
    return np.ascontiguousarray(actions[np.minimum(index, len(actions) - 1)], dtype=np.float32)


class FrozenTrunk:
    """Observations to features, as the robot's trunk engine computes them."""

    def __init__(self, package: Package, policy: FlowPolicy) -> None:
        manifest = package.manifest
        if manifest.chunk is None:
            raise PackageError(f"package {package.folder} says nothing of its chunks")
        self.chunk: ChunkSpec = manifest.chunk
        self._manifest = manifest
        self._trunk = policy.trunk.eval().requires_grad_(False)

    def trajectory(
        self,
        episode: StoredEpisode,
        success: bool,
        thin: int,
        views: int = 1,
        rng: np.random.Generator | None = None,
    ) -> Trajectory:
        """An episode of the robot's, every `thin`-th step of the chunk rate."""
        times = episode.columns["time.tick"]
        tick_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / self.chunk.rate_hz
        every = _ticks_per_action(tick_s, self.chunk.rate_hz)
        starts = np.arange(0, episode.steps, every * thin)
        pictures = [episode.frames(name, starts.tolist()) for name in self._manifest.cameras]
        states, text = episode.states[starts], episode.instruction
        features = self.views(pictures, states, text, views, rng)
        return self._cut(features, episode.actions, starts, every, success=success)

    def demonstrations(
        self,
        folders: Iterable[Path],
        thin: int,
        views: int = 1,
        rng: np.random.Generator | None = None,
    ) -> list[Trajectory]:
        """Every episode of these data sets, as successes."""
        found = []
        for folder in folders:
            reader = DatasetReader(folder)
            every = _ticks_per_action(1.0 / reader.fps, self.chunk.rate_hz)
            for index in range(reader.num_episodes):
                columns = reader.episode(index, ["observation.state", "action"])
                actions = columns["action"]
                starts = np.arange(0, len(actions), every * thin)
                pictures = [
                    reader.frames(index, f"observation.images.{camera}", starts.tolist())
                    for camera in self._manifest.cameras
                ]
                states, text = columns["observation.state"][starts], str(reader.meta(index)["task"])
                features = self.views(pictures, states, text, views, rng)
                found.append(self._cut(features, actions, starts, every, success=True))
        return found

    def views(
        self,
        pictures: Sequence[np.ndarray],
        states: np.ndarray,
        text: str,
        count: int,
        rng: np.random.Generator | None,
    ) -> np.ndarray:
        """float32[count, M, F]: of the pictures as they are, then of augmented ones (as in imitation)."""
        found = [self.features(pictures, states, text)]
        for _ in range(count - 1):
            assert rng is not None, "augmentation needs a source of chance"
            moved = [
                augment(batch, SHIFT_PX, COLOUR, rng).round().numpy().astype(np.uint8)
                for batch in self._sized(pictures)
            ]
            found.append(self.features(moved, states, text))
        return np.stack(found)

    def _sized(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        height, width = self._manifest.image_height, self._manifest.image_width
        return [_resized(batch, height, width) for batch in pictures]

    def features(self, pictures: Sequence[np.ndarray], states: np.ndarray, text: str) -> np.ndarray:
        """float32[M, F] from uint8[M, H, W, 3] per camera, in the manifest's order, and [M, S]."""
        tokens = language.encode(text, self._manifest.vocabulary, self._manifest.instruction_length)
        sized = self._sized(pictures)
        out = []
        with torch.inference_mode():
            for start in range(0, len(states), _TRUNK_BATCH):
                part = slice(start, start + _TRUNK_BATCH)
                images = [torch.from_numpy(batch[part]) for batch in sized]
                state = torch.from_numpy(np.asarray(states[part], dtype=np.float32))
                token = torch.from_numpy(tokens)[None].expand(len(state), -1)
                out.append(self._trunk(*images, state, token).numpy())
        return np.concatenate(out)

    def _cut(
        self,
        features: np.ndarray,
        actions: np.ndarray,
        starts: np.ndarray,
        every: int,
        *,
        success: bool,
    ) -> Trajectory:
        remaining = ((len(actions) - 1 - starts) / every).astype(np.float32)
        chunks = chunks_at(actions, starts, self.chunk.length, every)
        return Trajectory(features, chunks, remaining, success)


def _ticks_per_action(tick_s: float, rate_hz: float) -> int:
    return max(1, round(1.0 / (tick_s * rate_hz)))


def _resized(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    if pictures.shape[1:3] == (height, width):
        return np.ascontiguousarray(pictures)
    sized = [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.stack(sized)
