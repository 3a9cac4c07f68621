"""Rows of a folder in RoboReward's format: metadata.jsonl (`file_name`, `task`, `reward`) beside MP4 files.

Layout: huggingface.co/datasets/teetone/RoboReward. Owns reading and checking the table, no video.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError

METADATA = "metadata.jsonl"
LOWEST, HIGHEST = 1, 5
SPLITS = ("train", "val", "validation", "test")


class RoboRewardRow(msgspec.Struct, frozen=True):
    """One line; fields that aren't named here are left alone. `check` is the data set's own automatic check.
    `subset` and `group` (the recording that the video was made of) are there where we wrote the file."""

    file_name: str
    task: str
    reward: int
    check: Any = msgspec.field(default=None, name="gpt5_mini_check")
    subset: str = ""
    group: str = ""

    @property
    def name(self) -> str:
        return f"{self.file_name} | {self.task}"

    @property
    def counted_in(self) -> str:
        """The subset that the row counts in: its own field, else the first folder of `file_name` (after the
        split's own, if it is there; the data card names no such column)."""
        if self.subset:
            return self.subset
        folders = Path(self.file_name).parts[:-1]
        if len(folders) > 1 and folders[0] in SPLITS:
            folders = folders[1:]
        return folders[0] if folders else "all"

    @property
    def recording(self) -> str:
        """What rows must share to be no independent draws."""
        return self.group or self.file_name


def read_rows(table: Path) -> list[RoboRewardRow]:
    """Rows of a metadata.jsonl in its order, blank lines left out. Raises `EntracteError` naming the line
    that is wrong, or whose file lies outside the table's folder."""
    try:
        lines = table.read_bytes().splitlines()
    except OSError as error:
        raise EntracteError(
            f"{table.parent} is no RoboReward folder", expected=METADATA, found=str(error)
        ) from error
    decoder = msgspec.json.Decoder(RoboRewardRow)
    home = table.parent.resolve()
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{table} line {number}"
        try:
            row = decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise EntracteError(where, found=str(error)) from error
        if not LOWEST <= row.reward <= HIGHEST:
            raise EntracteError(f"{where}: reward", expected="1 to 5", found=row.reward)
        if not (table.parent / row.file_name).resolve().is_relative_to(home):
            raise EntracteError(f"{where}: file outside its folder", found=row.file_name)
        rows.append(row)
    if not rows:
        raise EntracteError(f"{table} holds no row")
    return rows
