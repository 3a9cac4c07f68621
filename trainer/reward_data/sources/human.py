"""Human videos: a folder of MP4 files, each with a caption.

A caption is the file's own `<name>.txt`, or a row of metadata.jsonl or captions.jsonl
(`file_name`, `caption`) in the folder.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from contracts.errors import EntracteError
from trainer.reward_data.readers import Mp4Pictures, video_length
from trainer.reward_data.record import Goal, SourceVideo, content_group, digest
from trainer.reward_data.settings import Outcome, SourceSettings, folder_of
from trainer.rewards.roboreward_rows import HIGHEST

TABLES = ("metadata.jsonl", "captions.jsonl")


class HumanSettings(SourceSettings, frozen=True, kw_only=True):
    """`outcome`: whether people are taken to have done what the caption says."""

    outcome: Outcome = "success"


class _Row(msgspec.Struct, frozen=True):
    file_name: str
    caption: str


def read(settings: HumanSettings) -> list[SourceVideo]:
    """One video a captioned file, by path; files without a caption are left out."""
    root = folder_of(settings)
    captions = _captions(root)
    videos = []
    for file in sorted(root.rglob("*.mp4")):
        name = file.relative_to(root).as_posix()
        beside = file.with_suffix(".txt")
        said = captions.get(name, _said(beside))
        if said:
            videos.append(captioned(file, name, (said,), settings, settings.outcome))
    if not videos:
        raise EntracteError(
            f"source '{settings.name}'",
            expected=f"MP4 files with a .txt beside them or a row in {' or '.join(TABLES)}",
            found=f"none in {root}",
        )
    return videos


def _said(file: Path) -> str:
    return file.read_text("utf-8", "replace").strip() if file.exists() else ""


def captioned(
    file: Path, name: str, said: tuple[str, ...], settings: SourceSettings, outcome: Outcome
) -> SourceVideo:
    """A whole file as the recording of what its caption says."""
    frames, rate_hz = video_length(file)
    done = outcome == "success"
    return SourceVideo(
        source=settings.name,
        video_id=f"{settings.name}/{digest(name)}",
        group=content_group(file),
        pictures=Mp4Pictures(str(file)),
        frames=frames,
        rate_hz=rate_hz,
        goals=(Goal(said, HIGHEST if done else None, "caption" if done else "unknown"),),
        licence=settings.licence,
        style="human",
    )


def _captions(root: Path) -> dict[str, str]:
    for name in TABLES:
        table = root / name
        if not table.exists():
            continue
        try:
            lines = [line for line in table.read_bytes().splitlines() if line.strip()]
            rows = [msgspec.json.decode(line, type=_Row) for line in lines]
        except msgspec.MsgspecError as error:
            raise EntracteError(
                f"{table}", expected="rows with file_name and caption", found=str(error)
            ) from error
        return {row.file_name: row.caption.strip() for row in rows}
    return {}
