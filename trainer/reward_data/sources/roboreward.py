"""Folders in RoboReward's format: metadata.jsonl (`file_name`, `task`, `reward`) beside MP4 files.

Layout: huggingface.co/datasets/teetone/RoboReward; the folder holds metadata.jsonl itself or one folder
a split does. Rows over the same pictures (counterfactual commands) are one group: by our `group`
column where it is there, else by the file's size and its ends.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from contracts.errors import EntracteError
from trainer.reward_data.readers import Mp4Pictures, video_length
from trainer.reward_data.record import HIGHEST, LOWEST, Goal, SourceVideo, digest
from trainer.reward_data.settings import SourceSettings, folder_of

METADATA = "metadata.jsonl"
COMPARED_BYTES = 1 << 16


class RoboRewardSettings(SourceSettings, frozen=True, kw_only=True):
    """`splits`: folders to read (empty: all that are there)."""

    splits: tuple[str, ...] = ()


class RoboRewardRow(msgspec.Struct, frozen=True):
    """The columns that every RoboReward row has, and our group where we wrote it."""

    file_name: str
    task: str
    reward: int
    group: str = ""


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


def read_rows(table: Path) -> list[RoboRewardRow]:
    """Rows of a metadata.jsonl. Raises `EntracteError` naming the line that is wrong."""
    rows = []
    for number, line in enumerate(table.read_bytes().splitlines(), 1):
        try:
            row = msgspec.json.decode(line, type=RoboRewardRow)
        except msgspec.MsgspecError as error:
            raise EntracteError(f"{table}, line {number}", found=str(error)) from error
        if not LOWEST <= row.reward <= HIGHEST:
            raise EntracteError(
                f"{table}, line {number}: reward", expected="1 to 5", found=row.reward
            )
        rows.append(row)
    return rows


def _table(table: Path, settings: RoboRewardSettings) -> list[SourceVideo]:
    videos = []
    for number, row in enumerate(read_rows(table)):
        file = (table.parent / row.file_name).resolve()
        if not file.is_relative_to(table.parent.resolve()):
            raise EntracteError(f"{table}: file outside its folder", found=row.file_name)
        frames, rate_hz = video_length(file)
        group = row.group or digest("content", *_ends(file))
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


def _ends(file: Path) -> tuple[int, str, str]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(COMPARED_BYTES)
        opened.seek(max(0, size - COMPARED_BYTES))
        return size, head.hex(), opened.read().hex()
