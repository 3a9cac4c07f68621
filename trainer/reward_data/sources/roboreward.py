"""Folders in RoboReward's format (`trainer.rewards.roboreward_rows`): metadata.jsonl beside MP4 files.

The folder holds metadata.jsonl itself or one folder a split does. Rows over the same pictures (counterfactual
commands) are one group: by our `group` column where it is there, else by the file's content.
"""

from __future__ import annotations

from pathlib import Path

from contracts.errors import EntracteError
from trainer.reward_data.readers import Mp4Pictures, video_length
from trainer.reward_data.record import Goal, SourceVideo, content_group, digest
from trainer.reward_data.settings import SourceSettings, folder_of
from trainer.rewards.roboreward_rows import METADATA, read_rows


class RoboRewardSettings(SourceSettings, frozen=True, kw_only=True):
    """`splits`: folders to read (empty: all that are there)."""

    splits: tuple[str, ...] = ()


def read(settings: RoboRewardSettings) -> list[SourceVideo]:
    """One video a row, in the order of the rows."""
    root = folder_of(settings)
    tables = [root / METADATA] if (root / METADATA).exists() else sorted(root.glob(f"*/{METADATA}"))
    if settings.splits:
        tables = [table for table in tables if table.parent.name in settings.splits]
    if not tables:
        raise EntracteError(
            f"source '{settings.name}'", expected=f"a {METADATA} in {root}", found="none"
        )
    return [video for table in tables for video in _table(table, settings)]


def _table(table: Path, settings: RoboRewardSettings) -> list[SourceVideo]:
    videos = []
    for number, row in enumerate(read_rows(table)):
        file = (table.parent / row.file_name).resolve()
        frames, rate_hz = video_length(file)
        group = row.group or content_group(file)
        videos.append(
            SourceVideo(
                source=settings.name,
                video_id=f"{settings.name}/{digest(table.parent.name, number, row.file_name)}",
                group=group,
                pictures=Mp4Pictures(str(file)),
                frames=frames,
                rate_hz=rate_hz,
                goals=(Goal((row.task,), row.reward, "human or model (RoboReward)"),),
                licence=settings.licence,
            )
        )
    return videos
