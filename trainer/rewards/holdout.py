"""What training may not see: the evaluation split, and a share kept back to calibrate on.

The calibration share holds pairs and a drawer that training lacks, as the evaluation tasks do: a
threshold chosen on combinations that were trained on would be too sure of itself on new ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np

from contracts.errors import ConfigError, EntracteError
from trainer.rewards.data import Clip, GoalRecord

VALIDATION_SHARE = 12
"""One pair in this many is kept for validation."""
VALIDATION_FIXTURES = ("drawer_blue_bar",)


def refuse_evaluation(clips: Iterable[Clip]) -> None:
    """Raise `EntracteError` if any clip is of the evaluation split."""
    for clip in clips:
        if clip.record.split != "train":
            raise EntracteError(
                "clips of the evaluation split can't train or calibrate a reward model",
                expected="split 'train'",
                found=f"split '{clip.record.split}' (task {clip.record.task}, seed {clip.record.seed})",
                remedy="record with --split train",
            )


def is_validation_goal(goal: GoalRecord) -> bool:
    """Whether this goal's pair is kept for validation."""
    if not goal.target or goal.target.endswith("drawer"):
        return False
    return zlib.crc32(f"{goal.thing}|{goal.target}".encode()) % VALIDATION_SHARE == 0


def is_validation_clip(clip: Clip) -> bool:
    """Whether the clip's own goal or fixture is kept for validation."""
    return clip.record.fixture in VALIDATION_FIXTURES or is_validation_goal(clip.record.goals[0])


def training_part(clips: Iterable[Clip]) -> list[Clip]:
    """The clips that training may use, without the goals that are kept for validation."""
    clips = list(clips)
    refuse_evaluation(clips)
    out = []
    for clip in clips:
        if is_validation_clip(clip):
            continue
        out.append(_only(clip, [not is_validation_goal(goal) for goal in clip.record.goals]))
    return out


def check_kinds(clips: Iterable[Clip], kinds: Sequence[str]) -> None:
    """Raise `ConfigError` for a kind of goal that no clip has."""
    known = {goal.kind for clip in clips for goal in clip.record.goals}
    unknown = sorted(set(kinds) - known)
    if unknown:
        raise ConfigError("kinds of goals to leave out", expected=sorted(known), found=unknown)


def without_kinds(clips: Iterable[Clip], kinds: Sequence[str]) -> list[Clip]:
    """Neither clips of these kinds of goal ("close", "press", ...) nor, in other clips, goals of them: what a
    model that learns from the rest makes of such a task is what it makes of an unknown one."""
    return [
        _only(clip, [goal.kind not in kinds for goal in clip.record.goals])
        for clip in clips
        if clip.record.goals[0].kind not in kinds
    ]


def _only(clip: Clip, keep: Sequence[bool]) -> Clip:
    """The clip with these of its goals alone."""
    if all(keep):
        return clip
    chosen = np.array(keep)
    goals = tuple(goal for goal, kept in zip(clip.record.goals, keep, strict=True) if kept)
    return replace(
        clip,
        record=msgspec.structs.replace(clip.record, goals=goals),
        progress=clip.progress[chosen],
        success=clip.success[chosen],
        points=clip.points[chosen],
    )


def validation_part(clips: Iterable[Clip]) -> list[Clip]:
    """Clips that are wholly unseen: of a kept pair or fixture."""
    clips = list(clips)
    refuse_evaluation(clips)
    return [clip for clip in clips if is_validation_clip(clip)]
