"""Reward models that others are measured against: a constant, a clock, the bench's truth, a person.

None looks at a picture. `success` and `human` use the label at the episode's end
(`EpisodeEnd.operator_success`), `success` the bench's progress as well; without a label they abstain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import StoredEpisode


class _Baseline:
    """What all of them share: the factory's signature and a threshold in the middle."""

    model_id = ""
    completion_threshold = 0.5
    completion_consecutive = 1
    known_options: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        package: Path | None = None,
        demonstrations: Sequence[Path] = (),
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.options = dict(options or {})
        unknown = sorted(set(self.options) - set(self.known_options))
        if unknown or package is not None:
            raise ConfigError(
                f"reward model '{self.model_id}'",
                expected=f"no package, options of {list(self.known_options)}",
                found=unknown or str(package),
            )


class ConstantReward(_Baseline):
    """Says the same of every moment: a control, since refinement must not gain from it.
    Option `completion` (default 1.0: every episode counts as a success)."""

    model_id = "constant"
    known_options = ("completion",)

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        value = float(self.options.get("completion", 1.0))
        return [
            RewardSignal(
                step, process=value, completion=value, contrastive=0.0, model_id="constant"
            )
            for step in (0, episode.steps - 1)[: episode.steps]
        ]


class ClockReward(_Baseline):
    """Progress is the time passed, done at the end: what a model scores that only tells the time.
    Option `full_steps` (default 0: the episode's own length is full time)."""

    model_id = "clock"
    known_options = ("full_steps",)

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        full = int(self.options.get("full_steps", 0)) or episode.steps
        return [
            RewardSignal(
                step,
                process=min(1.0, (step + 1) / full),
                completion=min(1.0, (step + 1) / full),
                contrastive=1.0,
                model_id="clock",
            )
            for step in range(episode.steps)
        ]


class _LabelReward(_Baseline):
    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        last, label = episode.steps - 1, episode.end.operator_success
        if label is None:
            return [abstain(last, "the episode has no label", self.model_id)]
        before = self._before(episode)
        process = before[-1].process if before and not label else float(label)
        return [
            *before,
            RewardSignal(
                last,
                process=process,
                completion=float(label),
                model_id=self.model_id,
                causal=False,
            ),
        ]

    def _before(self, episode: StoredEpisode) -> list[RewardSignal]:
        """What is known of the steps before the last."""
        del episode
        return []


class SuccessReward(_LabelReward):
    """The simulator's truth, where the robot's config says `label: truth` (comparison runs only)."""

    model_id = "success"

    def _before(self, episode: StoredEpisode) -> list[RewardSignal]:
        progress = episode.columns["reward.process"].reshape(-1)[:-1]
        return [
            RewardSignal(int(step), process=float(progress[step]), model_id=self.model_id)
            for step in np.flatnonzero(np.isfinite(progress))
        ]


class HumanReward(_LabelReward):
    """A person's keys, where the robot's config says `label: keys`."""

    model_id = "human"
