"""Which row comes when, and how fast is learnt then: pure functions of the seed and the step.

Nothing here has a state, so a training that goes on needs no more than the number of its step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

LARGEST_SEED = 2**63 - 1


class Order:
    """The endless sequence of rows of a training: signals take turns, and of each all rows come once before
    any comes again, in an order of that pass's own."""

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        """`sizes`: rows of each signal."""
        self._sizes, self._seed = tuple(sizes), seed
        self._shuffled = lru_cache(2 * len(self._sizes))(self._shuffle)

    def row(self, position: int) -> tuple[int, int]:
        """(signal, row of it) at `position` of the sequence."""
        turn, signal = divmod(position, len(self._sizes))
        lap, place = divmod(turn, self._sizes[signal])
        return signal, int(self._shuffled(signal, lap)[place])

    def rows(self, start: int, count: int) -> list[tuple[int, int]]:
        return [self.row(start + k) for k in range(count)]

    def _shuffle(self, signal: int, lap: int) -> np.ndarray:
        chance = np.random.default_rng([self._seed, signal, lap])
        return chance.permutation(self._sizes[signal])


def steps_of(sizes: Sequence[int], epochs: float, steps: int, rows_a_step: int) -> int:
    """Optimiser steps of a training: `steps` if above 0, else what `epochs` passes over the largest signal
    take while the others keep step with it."""
    if steps:
        return steps
    return max(1, math.ceil(epochs * max(sizes) * len(sizes) / rows_a_step))


def rate_at(step: int, steps: int, warmup: float, final: float) -> float:
    """Share of the learning rate at `step` (from 0): up in a line over the first `warmup` of them, then
    half a cosine down to `final` (Loshchilov & Hutter, *SGDR*, 2017)."""
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def chance_of(seed: int, step: int, part: int, process: int) -> int:
    """The seed of dropout in one forward pass."""
    drawn = np.random.SeedSequence([seed, step, part, process]).generate_state(1, np.uint64)
    return int(drawn[0]) & LARGEST_SEED
