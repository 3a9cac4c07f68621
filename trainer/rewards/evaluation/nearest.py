"""The demonstration nearest neighbour: no training, frozen features. A learned match must beat it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal

EARLIER_S = 2.0
NOT_SHOWN = "no demonstration says its instruction, so without the nearest-neighbour baseline"


class NearestDemonstrations:
    """Progress is the mean normalised time of the three nearest demonstration frames; completion compares
    the distance to the last frames with the distance to all earlier ones.

    `demonstrations`: embeddings float[T, D] of each. No label: they succeed by construction.
    """

    def __init__(self, demonstrations: Sequence[np.ndarray]) -> None:
        self._when = np.concatenate([np.linspace(0.0, 1.0, len(d)) for d in demonstrations])
        table = np.concatenate(demonstrations)
        self._scale = table.std(axis=0) + 1e-3
        self._table = table / self._scale

    def read(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Progress and completion float[N] of embeddings float[N, D]."""
        features, table, when = embeddings / self._scale, self._table, self._when
        squared = (features**2).sum(1)[:, None] + (table**2).sum(1)[None] - 2.0 * features @ table.T
        near = np.argsort(squared, axis=1)[:, :3]
        end = squared[:, when >= 0.95].min(axis=1)
        before = squared[:, when < 0.8].min(axis=1)
        sharp = np.clip((end - before) / table.shape[1] * 20.0, -30, 30)
        return when[near].mean(axis=1), 1.0 / (1.0 + np.exp(sharp))


class NearestReward:
    """The same as a `VideoRewardModel`, for one task; it is deaf to the instruction. `embed`: pictures
    uint8[N, H, W, 3] per camera -> float[N, D]."""

    model_id = "nearest demonstration"
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(
        self,
        embed: Callable[[Mapping[str, np.ndarray]], np.ndarray],
        contract: FrameContract,
        demonstrations: Sequence[np.ndarray],
    ) -> None:
        self.contract = contract
        self._embed, self._nearest = embed, NearestDemonstrations(demonstrations)

    def score(self, video: Video, instruction: str) -> RewardSignal:
        del instruction
        shown = self.contract.shown(video)
        earlier = int(np.abs(shown.times_s[-1] - shown.times_s - EARLIER_S).argmin())
        seen = shown.take([earlier, len(shown) - 1] if earlier < len(shown) - 1 else [earlier])
        process, completion = self._nearest.read(self._embed(seen.views))
        return RewardSignal(
            int(video.steps[-1]),
            process=float(process[-1]),
            completion=float(completion[-1]),
            contrastive=float(process[-1] - process[0]),
            model_id=self.model_id,
        )
