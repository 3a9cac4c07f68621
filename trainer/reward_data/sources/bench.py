"""Clips of the simulated bench (`robot-reward record-clips`): many goals a clip, labelled by the state.

Pictures stay where they are; labels travel with the record (a clip has tens of frames).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trainer.reward_data.readers import ClipPictures
from trainer.reward_data.record import Goal, SourceVideo, digest, score_of
from trainer.reward_data.settings import SourceSettings, folder_of
from trainer.rewards.data import CAMERAS, Clip, load_clips


class BenchSettings(SourceSettings, frozen=True, kw_only=True):
    """`camera`; `tasks` to keep (empty: all); `arranged`: also stills of arranged scenes, which have no
    motion to clip or rewind."""

    camera: Literal["front", "wrist"] = "front"
    tasks: tuple[str, ...] = ()
    arranged: bool = False


def read(settings: BenchSettings) -> list[SourceVideo]:
    """Every clip of the folder, its own goal first."""
    folder = folder_of(settings)
    clips = load_clips([folder], tasks=settings.tasks or None)
    kept = [clip for clip in clips if settings.arranged or clip.record.rate_hz > 0]
    return [_video(folder, clip, settings) for clip in kept]


def _video(folder: Path, clip: Clip, settings: BenchSettings) -> SourceVideo:
    record = clip.record
    where = digest("bench", folder.resolve().name, record.shard, record.first_frame)
    goals = []
    for index, goal in enumerate(record.goals):
        progress = tuple(round(float(p), 4) for p in clip.progress[index].clip(0, 1))
        done = tuple(bool(d) for d in clip.success[index])
        reward = score_of(progress[-1], done[-1])
        goals.append(Goal(goal.instructions, reward, "state", progress, done, meant=index == 0))
    return SourceVideo(
        source=settings.name,
        video_id=f"{settings.name}/{digest(where, settings.camera)}",
        group=digest("bench", clip.recording),
        pictures=ClipPictures(
            str(folder / record.shard), record.first_frame, CAMERAS.index(settings.camera)
        ),
        frames=record.frames,
        rate_hz=record.rate_hz or 1.0,
        goals=tuple(goals),
        licence=settings.licence,
        things=record.things,
        style=record.style,
    )
