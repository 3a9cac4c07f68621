"""LeRobotDataset v3.0: Entracte's own and LeRobot's.

Outcome, best first: the operator's or simulator's label of Entracte's episodes, `next.success` of the last
step, what the recipe takes the others for (`trainer.outcomes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from contracts.errors import EntracteError
from contracts.files.dataset_format import CAMERA_PREFIX, VIDEO
from contracts.files.dataset_reader import DatasetReader
from trainer.outcomes import is_demonstration, labelled, was_stopped
from trainer.reward_data.readers import LeRobotPictures
from trainer.reward_data.record import Goal, SourceVideo, digest
from trainer.reward_data.settings import SourceSettings, folder_of
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST

SUCCESS = "next.success"


class LeRobotSettings(SourceSettings, frozen=True, kw_only=True):
    """`camera`: name or key of the camera ("": the first by name); `outcome`: what an episode without a
    label is taken for unless it was stopped ("": a demonstration for a success, what a policy of Entracte's
    did for unknown); `failure`: the 1-5 score of one that is labelled a failure."""

    camera: str = ""
    outcome: Literal["", "success", "unknown"] = ""
    failure: int = LOWEST

    def __post_init__(self) -> None:
        super().__post_init__()
        if not LOWEST <= self.failure < HIGHEST:
            raise ValueError(f"failure must be 1 to 4, found {self.failure}")


def read(settings: LeRobotSettings) -> list[SourceVideo]:
    """Every committed episode that has a task."""
    reader = DatasetReader(folder_of(settings))
    cameras = sorted(key for key, f in reader.features.items() if f.dtype == VIDEO)
    wanted = settings.camera
    key = next((k for k in cameras if wanted in ("", k, k.removeprefix(CAMERA_PREFIX))), None)
    if key is None:
        raise EntracteError(
            f"source '{settings.name}': camera '{wanted}'", expected=f"one of {cameras}"
        )
    videos = []
    for index in range(reader.num_episodes):
        meta = reader.meta(index)
        if not meta["task"]:
            continue
        reward, origin = _label(reader, index, meta["extra"], settings)
        where = digest("lerobot", reader.root.resolve().name, index)
        videos.append(
            SourceVideo(
                source=settings.name,
                video_id=f"{settings.name}/{digest(where, key)}",
                group=where,
                pictures=LeRobotPictures(str(reader.root), index, key),
                frames=meta["length"],
                rate_hz=float(reader.fps),
                goals=(Goal((meta["task"],), reward, origin),),
                licence=settings.licence,
            )
        )
    return videos


def _label(
    reader: DatasetReader, index: int, extra: Mapping[str, object], settings: LeRobotSettings
) -> tuple[int | None, str]:
    said = labelled(extra)
    if said is None and SUCCESS in reader.features:
        said = bool(np.asarray(reader.episode(index, [SUCCESS])[SUCCESS]).ravel()[-1])
    if said is not None:
        return (HIGHEST if said else settings.failure), "human or simulator"
    done = _taken_for_done(extra, settings.outcome)
    return (HIGHEST, "demonstration") if done else (None, "unknown")


def _taken_for_done(extra: Mapping[str, object], outcome: str) -> bool:
    """An episode that has no label."""
    if not outcome:
        return is_demonstration(extra)
    return outcome == "success" and not was_stopped(extra)
