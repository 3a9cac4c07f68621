"""The two JSON heads of a data set: LeRobot's `meta/info.json` and our `meta/entracte/info.json`.

`info.json` says how many episodes there are: replacing it is what commits an episode. Ours is written
once and holds what LeRobot must not see (depth features, free extra information).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Any

from contracts.files import atomic, depth_file, video
from contracts.files.dataset_format import (
    BOOKKEEPING,
    DATA_PATTERN,
    DEPTH16,
    DEPTH_PATTERN,
    FILES_PER_CHUNK,
    INFO_PATH,
    LEROBOT_VERSION,
    OWN_FORMAT_VERSION,
    OWN_INFO_PATH,
    VIDEO,
    VIDEO_PATTERN,
    DatasetError,
    Feature,
    own_columns,
)
from contracts.images import MAX_PIXELS

MAX_FPS = 10_000
MAX_VALUES = 3 * MAX_PIXELS
"""Of one feature in one step."""
PLACES = ("chunk_index", "file_index", "video_key")


@dataclass(frozen=True)
class DatasetInfo:
    """Head of a data set. `features`: all but LeRobot's bookkeeping, our own and depth included."""

    fps: int
    robot_type: str
    features: dict[str, Feature]
    extra: dict[str, Any] = field(default_factory=dict)
    episodes: int = 0
    frames: int = 0
    tasks: int = 0
    data_pattern: str = DATA_PATTERN
    video_pattern: str = VIDEO_PATTERN
    depth_codec: str = depth_file.CODEC

    @property
    def given_features(self) -> dict[str, Feature]:
        """The features that the data set was created with: without our own columns."""
        own = own_columns(self.features)
        return {key: feature for key, feature in self.features.items() if key not in own}

    def with_episode(self, frames: int, tasks: int) -> DatasetInfo:
        """The head after one more episode of `frames` steps."""
        return replace(self, episodes=self.episodes + 1, frames=self.frames + frames, tasks=tasks)

    def without_last(self, frames: int) -> DatasetInfo:
        """The head without the last episode, which had `frames` steps."""
        return replace(self, episodes=self.episodes - 1, frames=self.frames - frames)


def create(root: Path, info: DatasetInfo) -> None:
    """Write both heads of an empty data set."""
    depth = {
        key: {"shape": list(f.shape)} for key, f in info.features.items() if f.dtype == DEPTH16
    }
    own = {
        "format_version": OWN_FORMAT_VERSION,
        "depth_path": DEPTH_PATTERN,
        "depth_codec": info.depth_codec,
        "depth_features": depth,
        "extra": info.extra,
    }
    atomic.write_json(root / OWN_INFO_PATH, own)
    commit(root, info)


def commit(root: Path, info: DatasetInfo) -> None:
    """Replace `meta/info.json`: from here on readers see `info.episodes` episodes."""
    stored = {key: f for key, f in info.features.items() if f.dtype != DEPTH16}
    features = {key: _feature_json(f, info.fps) for key, f in {**stored, **BOOKKEEPING}.items()}
    atomic.write_json(
        root / INFO_PATH,
        {
            "codebase_version": LEROBOT_VERSION,
            "robot_type": info.robot_type,
            "total_episodes": info.episodes,
            "total_frames": info.frames,
            "total_tasks": info.tasks,
            "chunks_size": FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": info.fps,
            "splits": {"train": f"0:{info.episodes}"} if info.episodes else {},
            "data_path": info.data_pattern,
            "video_path": info.video_pattern,
            "features": features,
        },
    )


def _feature_json(feature: Feature, fps: int) -> dict[str, Any]:
    names = list(feature.names) if feature.names is not None else None
    if feature.dtype != VIDEO:
        return {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
    return {
        "dtype": VIDEO,
        "shape": list(feature.shape),
        # LeRobot turns the shape to channel-first by these names.
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": feature.shape[0],
            "video.width": feature.shape[1],
            "video.channels": 3,
            "video.codec": video.CODEC_NAME,
            "video.pix_fmt": video.PIXEL_FORMAT,
            "video.is_depth_map": False,
            "video.fps": fps,
            "has_audio": False,
        },
    }


def load(root: Path) -> DatasetInfo:
    """Head of the data set at `root`, ours or LeRobot's own. Raises `DatasetError`."""
    if not (root / INFO_PATH).is_file():
        raise DatasetError(
            f"no data set at {root}",
            expected=f"a folder with {INFO_PATH}",
            remedy="check the path, or record one with robot-run record",
        )
    try:
        lerobot = atomic.read_json(root / INFO_PATH)
        own = atomic.read_json(root / OWN_INFO_PATH) if (root / OWN_INFO_PATH).exists() else {}
        version = lerobot["codebase_version"]
        if version != LEROBOT_VERSION:
            raise DatasetError(
                f"{root} is of another format",
                expected=LEROBOT_VERSION,
                found=version,
                remedy="convert it with LeRobot's own converter",
            )
        if own and own["format_version"] > OWN_FORMAT_VERSION:
            raise DatasetError(
                f"{root} was written by a newer release",
                expected=f"format {OWN_FORMAT_VERSION}",
                found=own["format_version"],
                remedy="update entracte",
            )
        features = {k: _feature(f) for k, f in lerobot["features"].items() if k not in BOOKKEEPING}
        for key, depth in own.get("depth_features", {}).items():
            features[key] = Feature(DEPTH16, _shape(depth["shape"]))
        found = DatasetInfo(
            fps=lerobot["fps"],
            robot_type=str(lerobot.get("robot_type") or ""),
            features=features,
            extra=own.get("extra", {}),
            episodes=int(lerobot["total_episodes"]),
            frames=int(lerobot["total_frames"]),
            tasks=int(lerobot["total_tasks"]),
            data_pattern=lerobot["data_path"],
            video_pattern=lerobot.get("video_path") or VIDEO_PATTERN,
            depth_codec=own.get("depth_codec", depth_file.CODEC),
        )
        _check(found)
        return found
    except (
        atomic.FileError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
    ) as error:
        raise DatasetError(f"head of {root} is damaged", found=repr(error)) from error


def _check(info: DatasetInfo) -> None:
    """Raises `ValueError` for numbers and patterns that reading would stumble over."""
    if not (isinstance(info.fps, int | float) and 0 < info.fps <= MAX_FPS):
        raise ValueError(f"fps {info.fps!r}")
    if min(info.episodes, info.frames, info.tasks) < 0:
        raise ValueError("a negative count")
    if not isinstance(info.extra, dict):
        raise ValueError("extra is no mapping")
    for pattern in (info.data_pattern, info.video_pattern):
        fields = [
            (name, spec) for _, name, spec, _ in Formatter().parse(pattern) if name is not None
        ]
        for name, spec in fields:
            # Anything else of str.format could ask for gigabytes of padding, or look into objects.
            if name not in PLACES or not re.fullmatch(r"(0\d)?d?", spec or ""):
                raise ValueError(f"pattern {pattern!r}")
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts or "\0" in pattern:
            raise ValueError(f"pattern {pattern!r} leads out of the data set")


def _shape(stored: Any) -> tuple[int, ...]:
    shape = tuple(int(side) for side in stored)
    if not shape or min(shape) < 1 or math.prod(shape) > MAX_VALUES:
        raise ValueError(f"shape {stored!r}")
    return shape


def _feature(stored: Mapping[str, Any]) -> Feature:
    names = stored.get("names")
    if not isinstance(names, list) or stored["dtype"] == VIDEO:
        names = None
    return Feature(
        str(stored["dtype"]), _shape(stored["shape"]), None if names is None else tuple(names)
    )
