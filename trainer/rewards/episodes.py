"""A reward model of videos as the daemon uses it: on stored episodes, at a rate.

Owns which moments of an episode are scored. What a signal means stays the model's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contracts.errors import EntracteError
from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import (
    BatchedRewardModel,
    GrowingRewardModel,
    StoredEpisode,
    VideoRewardModel,
)


def moments(steps: int, rate_hz: float, scores_per_s: float) -> list[int]:
    """Steps of an episode at `rate_hz` to score: from the first, `scores_per_s` of them, and the last."""
    every = max(1, round(rate_hz / scores_per_s)) if scores_per_s > 0 else max(1, steps)
    return sorted({*range(0, steps, every), steps - 1})


def end_rows(model: VideoRewardModel, times_s: np.ndarray) -> list[int]:
    """The last of these moments, at the model's rate, that its verdict needs."""
    back = np.arange(max(1, model.completion_consecutive)) / model.contract.rate_hz
    wanted = times_s[-1] - back
    rows = np.abs(times_s[None] - wanted[:, None]).argmin(axis=1)
    return sorted({*rows.tolist(), len(times_s) - 1})


def score_moments(
    model: VideoRewardModel, video: Video, instruction: str, rows: Sequence[int]
) -> list[RewardSignal]:
    """Signals of the video's frames `rows` (increasing), each from the frames up to it: as an episode that
    grows where the model can, else in one batch where it can, else one by one."""
    if isinstance(model, GrowingRewardModel):
        growing = model.grow(instruction)
        return [growing.see(video.until(row)) for row in rows]
    requests = [(video.until(row), instruction) for row in rows]
    if isinstance(model, BatchedRewardModel):
        return model.score_batch(requests)
    return [model.score(*request) for request in requests]


class OnEpisodes:
    """`RewardModel` of a `VideoRewardModel`. `scores_per_s`: how often an episode is scored (0: at its first
    step and its end alone); the last moments that the model's verdict needs are scored in any case."""

    def __init__(self, model: VideoRewardModel, scores_per_s: float) -> None:
        self.model, self._scores_per_s = model, scores_per_s

    @property
    def model_id(self) -> str:
        return self.model.model_id

    @property
    def completion_threshold(self) -> float:
        return self.model.completion_threshold

    @property
    def completion_consecutive(self) -> int:
        return self.model.completion_consecutive

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        """Abstains at the last step where the episode's pictures can't be had."""
        rate = episode.session.action.rate_hz
        ends = end_rows(self.model, np.arange(episode.steps) / rate)
        wanted = sorted({*moments(episode.steps, rate, self._scores_per_s), *ends})
        try:
            video = episode_video(episode, self.model, wanted)
        except EntracteError as error:
            return [abstain(episode.steps - 1, f"no pictures: {error}", self.model_id)]
        row_of = {int(step): row for row, step in enumerate(video.steps)}
        return score_moments(self.model, video, episode.instruction, [row_of[s] for s in wanted])


def episode_video(episode: StoredEpisode, model: VideoRewardModel, wanted: Sequence[int]) -> Video:
    """Frames of a stored episode: those to score, and what the model is shown for each of them, chosen from
    all steps. A video of these alone shows it the same: its contract takes the nearest to times that it sets.
    """
    contract = model.contract
    times = np.arange(episode.steps) / episode.session.action.rate_hz
    looked_at = [contract.choose(times[: step + 1]) for step in wanted]
    steps = np.unique(np.concatenate([wanted, *looked_at]))
    cameras = contract.cameras or tuple(c.name for c in episode.session.observation.cameras)
    views = {camera: episode.frames(camera, steps.tolist()) for camera in cameras}
    return Video(views, times[steps], steps)
