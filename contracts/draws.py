"""What a policy's chunks are drawn with: the robot draws it, a trainer that has the seeds draws it again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_EXPLORATION = 1
"""Sets the draw of a chunk's offset apart from that of its noise."""
Seeds = tuple[int, int]
"""`policy.seed` and the absolute value of the scene's seed."""


def chunk_noise(seeds: Seeds, number: int, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """float32[N, T, A]: what the flow of an episode's chunk `number` starts from, for each of N candidates;
    the first one's is the same whatever N is."""
    drawn = np.random.default_rng([*seeds, number]).standard_normal(shape)
    return (drawn * scale).astype(np.float32)


def chunk_offset(seeds: Seeds, number: int, explore_deg: float, units: Sequence[str]) -> np.ndarray:
    """float32[A]: what exploration adds to every action of that chunk, normal with standard deviation
    `explore_deg` in joints whose unit is "deg", 0 in others."""
    drawn = np.random.default_rng([*seeds, number, _EXPLORATION]).normal(size=len(units))
    explores = np.array([unit == "deg" for unit in units])
    offset: np.ndarray = (explore_deg * drawn * explores).astype(np.float32)
    return offset
