"""The workshop's reward model: how far the shoulder has come up since the episode began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.reward import RewardSignal
from trainer.interfaces import StoredEpisode

SHOULDER = 1


class ReachReward:
    """`trainer.interfaces.RewardModel`. Option `reach_deg`: how far up counts as done."""

    model_id = "workshop-reach-1"
    completion_threshold = 0.5
    completion_consecutive = 2

    def __init__(
        self,
        *,
        package: Path | None,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
    ) -> None:
        del package, demonstrations, seed
        self._reach_deg = float(options.get("reach_deg", 30.0))

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        # Pictures are there as well, our own camera's too: a gauge that is not red means no score.
        gauge = episode.frames("gauge", [-1])[0]
        red = (gauge[..., 0] > 150) & (gauge[..., 1] < 120)
        if not red.any():
            return [
                RewardSignal(
                    episode.steps - 1, model_id=self.model_id, abstained="gauge unreadable"
                )
            ]
        moved = np.abs(episode.states[:, SHOULDER] - episode.states[0, SHOULDER])
        process = np.clip(moved / self._reach_deg, 0.0, 1.0)
        change = np.diff(process, prepend=process[:1])
        return [
            RewardSignal(
                step,
                process=float(p),
                completion=float(p),
                contrastive=float(np.clip(10 * c, -1.0, 1.0)),
                model_id=self.model_id,
            )
            for step, (p, c) in enumerate(zip(process, change, strict=True))
        ]
