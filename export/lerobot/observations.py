"""Observations for a package's golden vectors: recorded ones of a data set, or drawn from the statistics.

A case is as many consecutive observations as the policy looks at, oldest first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import PackageError
from contracts.files.dataset_reader import DatasetReader
from export.lerobot.checkpoint import Checkpoint
from export.lerobot.config import STATE

CASES = 4
_COARSE = 16

Observation = dict[str, np.ndarray]
"""`observation.state` float32[S] and each picture feature uint8[H, W, 3], by LeRobot's names."""


def recorded(checkpoint: Checkpoint, root: Path) -> list[list[Observation]]:
    """Cases spread evenly over the first episodes of a data set. Raises `PackageError`."""
    reader = DatasetReader(root)
    renamed = checkpoint.processors.renamed
    images = {name: renamed.get(name, name) for name in checkpoint.config.images}
    missing = sorted({STATE, *images.values()} - reader.features.keys())
    if missing or not reader.num_episodes:
        raise PackageError(
            f"data set {root} is not what {checkpoint.folder} was trained on",
            expected=sorted({STATE, *images.values()}),
            found=sorted(reader.features) if reader.num_episodes else "no episode",
        )
    steps = checkpoint.config.n_obs_steps
    cases = []
    for case in range(CASES):
        episode = case % reader.num_episodes
        length = reader.length(episode)
        last = min(length - 1, max(steps - 1, length * (case + 1) // (CASES + 1)))
        indices = [max(0, last - back) for back in reversed(range(steps))]
        states = reader.episode(episode, [STATE])[STATE]
        pictures = {
            name: reader.frames(episode, stored, indices) for name, stored in images.items()
        }
        for name, frames in pictures.items():
            wanted = checkpoint.config.images[name].shape[1:]
            if frames.shape[1:3] != wanted:
                raise PackageError(
                    f"pictures of {images[name]} in {root}",
                    expected=wanted,
                    found=frames.shape[1:3],
                )
        cases.append(
            [
                {
                    STATE: states[index].astype(np.float32),
                    **{name: frames[place] for name, frames in pictures.items()},
                }
                for place, index in enumerate(indices)
            ]
        )
    return cases


def drawn(checkpoint: Checkpoint, seed: int = 0) -> list[list[Observation]]:
    """Cases of smooth random pictures and of joints inside the range of the training data."""
    rng = np.random.default_rng(seed)
    reach = checkpoint.normaliser(STATE, "STATE").range()
    size = checkpoint.config.state_size
    low, high = np.zeros(size), np.ones(size)
    if reach is not None:
        low, high = (bound.reshape(-1).numpy() for bound in reach)
    cases = []
    for _ in range(CASES):
        case: list[Observation] = []
        state = rng.uniform(low, high)
        pictures = {
            name: _smooth(rng, feature.shape[1], feature.shape[2])
            for name, feature in checkpoint.config.images.items()
        }
        for step in range(checkpoint.config.n_obs_steps):
            observation = {n: np.roll(p, 2 * step, axis=1) for n, p in pictures.items()}
            moved = state + 0.01 * step * (high - low)
            observation[STATE] = np.clip(moved, low, high).astype(np.float32)
            case.append(observation)
        cases.append(case)
    return cases


def _smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = rng.integers(0, 256, (-(-height // _COARSE), -(-width // _COARSE), 3))
    tall = np.repeat(np.repeat(coarse, _COARSE, 0), _COARSE, 1)[:height, :width].astype(float)
    slope = np.linspace(-40.0, 40.0, width)[None, :, None]
    return np.clip(tall + slope, 0, 255).astype(np.uint8)
