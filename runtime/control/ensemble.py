"""Temporal ensembling: the action of a step is the mean of what the last chunks say of it. Owns the chunks.

Weights after Zhao et al. 2023 (ACT, arXiv 2304.13705, section IV): exp(-decay * i), i = 0 for the oldest of
the chunks that reach the step. All memory is taken at the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Ensemble:
    """`length` entries of `joints` a chunk, `ratio` ticks apart; the last `chunks` chunks are kept."""

    def __init__(self, chunks: int, length: int, joints: int, ratio: int, decay: float) -> None:
        self._actions = np.zeros((chunks, length, joints))
        self._from = np.full(chunks, -np.inf)
        self._weights = np.exp(-decay * np.arange(chunks))
        self._ratio, self._added = ratio, 0
        self._sum, self._part = np.zeros(joints), np.zeros(joints)

    def clear(self) -> None:
        self._from.fill(-np.inf)
        self._added = 0

    def add(self, step: float, actions: Sequence[Sequence[float]]) -> None:
        """A chunk whose first entry is of `step`; the oldest makes room."""
        at = self._added % len(self._from)
        self._actions[at] = actions
        self._from[at] = step
        self._added += 1

    def blend(self, step: float) -> tuple[float, ...]:
        """The action of a step that at least one chunk reaches."""
        kept, (_, length, _) = len(self._from), self._actions.shape
        self._sum.fill(0.0)
        total, place = 0.0, 0
        for number in range(max(0, self._added - kept), self._added):
            at = number % kept
            index, between = divmod(step - self._from[at], self._ratio)
            entry = int(index)
            if entry < 0 or entry >= length - (between > 0):
                continue
            np.copyto(self._part, self._actions[at, entry])
            if between:
                np.subtract(self._actions[at, entry + 1], self._part, out=self._part)
                self._part *= between / self._ratio
                self._part += self._actions[at, entry]
            weight = self._weights[place]
            self._part *= weight
            self._sum += self._part
            total += weight
            place += 1
        self._sum /= total
        return tuple(self._sum.tolist())
