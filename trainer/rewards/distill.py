"""Labels of a teacher for the edge model to learn from, in place of the bench's.

Owns what a teacher's signals become. The bench's own labels, its projected positions among them, are dropped:
a clip that the teacher abstains from teaches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.frames import Video
from contracts.reward import RewardSignal
from trainer.interfaces import VideoRewardModel
from trainer.rewards.data import CAMERAS, Clip, GoalRecord
from trainer.rewards.episodes import moments, score_moments


@dataclass
class Taught:
    """What a teacher made of the clips it was shown."""

    clips: list[Clip]
    asked: int = 0
    abstained: int = 0


def relabel(
    teacher: VideoRewardModel,
    clips: Sequence[Clip],
    *,
    scores_per_s: float,
    goals: int,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Taught:
    """Clips with the teacher's progress and success: of every played clip its own goal and up to `goals`
    counterfactual ones, scored `scores_per_s` a second. Progress between two scored frames is on the line
    between them, success is that of the last one scored. Raises `EntracteError` if nothing is left."""
    taught = Taught([])
    for index, clip in enumerate(clips):
        report(index + 1, len(clips))
        if not clip.record.rate_hz:
            continue  # arranged scenes are no video: what came first has nothing to do with what follows
        made = _relabelled(teacher, clip, scores_per_s, goals, taught)
        if made is not None:
            taught.clips.append(made)
    if not taught.clips:
        raise EntracteError(
            f"the teacher {teacher.model_id} labelled no clip",
            found=f"{len(clips)} clips, {taught.abstained} of {taught.asked} goals abstained from",
            remedy="show it clips that it can judge (arranged ones are left out)",
        )
    return taught


def _relabelled(
    teacher: VideoRewardModel, clip: Clip, scores_per_s: float, goals: int, taught: Taught
) -> Clip | None:
    frames = clip.record.frames
    video = clip_video(clip)
    rows = moments(frames, clip.record.rate_hz, scores_per_s)
    kept: list[GoalRecord] = []
    progress, success = [], []
    for goal in clip.record.goals[: 1 + goals]:
        taught.asked += 1
        signals = score_moments(teacher, video, goal.instructions[0], rows)
        if any(math.isnan(s.process) or math.isnan(s.completion) for s in signals):
            taught.abstained += 1
            continue
        kept.append(goal)
        progress.append(np.interp(np.arange(frames), rows, [s.process for s in signals]))
        success.append(held(signals, rows, frames) >= teacher.completion_threshold)
    if not kept:
        return None
    record = msgspec.structs.replace(clip.record, goals=tuple(kept))
    nowhere = np.full((len(kept), frames, 2, 2), np.nan, np.float32)
    return replace(
        clip,
        record=record,
        progress=np.array(progress, np.float32),
        success=np.array(success, bool),
        points=nowhere,
    )


def held(signals: Sequence[RewardSignal], rows: Sequence[int], frames: int) -> np.ndarray:
    """Completion float64[frames]: of each frame the last that was scored up to it."""
    last = np.searchsorted(rows, np.arange(frames), side="right") - 1
    return np.array([signal.completion for signal in signals])[last]


def clip_video(clip: Clip) -> Video:
    """A played clip as any reward model is shown it."""
    rows = np.arange(clip.record.frames)
    views = {camera: clip.pictures(camera) for camera in CAMERAS}
    return Video(views, rows / clip.record.rate_hz, rows)
