"""RLDS data sets as TFRecord files (Open X-Embodiment): one Example an episode, steps as lists.

Layout: github.com/google-research/rlds and the Open X-Embodiment converters: keys "steps/...", language per
step or once in "episode_metadata/...". An episode that stops before its `is_last` step was cut short when the
file was made (octo's Bridge debug file holds the first 10 steps of each): it is no success, whatever the
rest of it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contracts.errors import EntracteError
from trainer.reward_data.readers import TfrecordPictures
from trainer.reward_data.record import Goal, SourceVideo, digest
from trainer.reward_data.settings import Outcome, SourceSettings, folder_of
from trainer.reward_data.tfrecord import Values, parse_example, read_record, record_offsets
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST


class RldsSettings(SourceSettings, frozen=True, kw_only=True):
    """`picture`: key of the camera ("" takes the first "steps/observation/*image*" by name); `instruction`:
    key of the command ("" looks for one); `rate_hz`: of the steps, which the file doesn't say; `outcome`:
    what a complete episode is taken for where no reward says it (demonstrations: "success");
    `unfinished`: the 1-5 score of an episode that was cut short (0: leave such episodes out)."""

    picture: str = ""
    instruction: str = ""
    rate_hz: float = 5.0
    outcome: Outcome = "success"
    unfinished: int = LOWEST

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rate_hz > 0 and 0 <= self.unfinished < HIGHEST):
            raise ValueError(
                f"rate_hz must be above 0 and unfinished 0 to 4, found {self.rate_hz}, {self.unfinished}"
            )


def read(settings: RldsSettings) -> list[SourceVideo]:
    """Every episode of the file, or of the folder's *.tfrecord* files, with a command and pictures."""
    path = folder_of(settings)
    home = path if path.is_dir() else path.parent
    files = sorted(path.rglob("*.tfrecord*")) if path.is_dir() else [path]
    videos = [
        video
        for file in files
        for offset in record_offsets(file)
        if (video := _episode(file, file.relative_to(home), offset, settings)) is not None
    ]
    if not videos:
        raise EntracteError(
            f"source '{settings.name}'", expected="episodes with a command", found=f"none in {path}"
        )
    return videos


def _episode(file: Path, name: Path, offset: int, settings: RldsSettings) -> SourceVideo | None:
    example = parse_example(read_record(file, offset))
    key = settings.picture or _picture_key(example)
    command = _command(example, settings.instruction)
    pictures = example.get(key)
    if not isinstance(pictures, list) or not pictures:
        raise EntracteError(f"{file}: no pictures '{key}'", expected=f"one of {_pictures(example)}")
    reward, origin = _label(example, settings)
    if not command or reward == 0:
        return None
    where = _text(example.get("episode_metadata/file_path")) or name.as_posix()
    said = example.get("episode_metadata/episode_id")
    number = int(said[0]) if isinstance(said, np.ndarray) and len(said) else offset
    group = digest("rlds", where, number)
    return SourceVideo(
        source=settings.name,
        video_id=f"{settings.name}/{group}",
        group=group,
        pictures=TfrecordPictures(str(file), offset, key),
        frames=len(pictures),
        rate_hz=settings.rate_hz,
        goals=(Goal((command,), reward, origin),),
        licence=settings.licence,
    )


def _label(example: dict[str, Values], settings: RldsSettings) -> tuple[int | None, str]:
    """(score, who says so): 0 for one to leave out. A reward above 0 on the last step is the robot's or
    operator's word for success, as in the Open X-Embodiment sets."""
    rewards, last = example.get("steps/reward"), example.get("steps/is_last")
    if isinstance(rewards, np.ndarray) and len(rewards) and rewards[-1] > 0:
        return HIGHEST, "reward"
    if isinstance(last, np.ndarray) and len(last) and not last[-1]:
        return settings.unfinished, "unfinished"
    return (HIGHEST, "demonstration") if settings.outcome == "success" else (None, "unknown")


def _pictures(example: dict[str, Values]) -> list[str]:
    return sorted(
        key
        for key, values in example.items()
        if key.startswith("steps/observation/")
        and "image" in key
        and "depth" not in key
        and isinstance(values, list)
        and values
    )


def _picture_key(example: dict[str, Values]) -> str:
    return next(iter(_pictures(example)), "")


def _command(example: dict[str, Values], key: str) -> str:
    keys: Sequence[str] = [key] if key else sorted(k for k in example if "instruction" in k)
    for name in keys:
        said = _text(example.get(name))
        if said:
            return said
    return ""


def _text(values: Values | None) -> str:
    if not isinstance(values, list) or not values:
        return ""
    return values[0].decode("utf-8", "replace").strip()
