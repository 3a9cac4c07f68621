"""What a data set on disk is: features, our own columns, file names, what an episode must satisfy.

Pure: no file is touched here. The layout is LeRobotDataset v3.0; the columns that
LeRobot doesn't have are ordinary features to it, and what it could not open (depth) stays out of
its `info.json`, in `meta/entracte/`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import EntracteError

LEROBOT_VERSION = "v3.0"
OWN_FORMAT_VERSION = 1
FILES_PER_CHUNK = 1000
# One metadata table is rewritten with every episode: small enough that this stays cheap.
EPISODES_PER_META_FILE = 50

NUMPY_DTYPES = ("float32", "float64", "int64", "bool")
VIDEO = "video"
DEPTH16 = "depth16"
# Times are monotonic seconds: float32 would round them to milliseconds after a few hours of uptime.
TIME_DTYPE = "float64"

INFO_PATH = Path("meta/info.json")
STATS_PATH = Path("meta/stats.json")
TASKS_PATH = Path("meta/tasks.parquet")
OWN_INFO_PATH = Path("meta/entracte/info.json")
LOCK_PATH = Path("meta/entracte/writer.lock")
DATA_PATTERN = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATTERN = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATTERN = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DEPTH_PATTERN = "depth/{key}/chunk-{chunk_index:03d}/file-{file_index:03d}.depth"
OWN_EPISODE_PATTERN = "meta/entracte/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.json"


class DatasetError(EntracteError):
    """A data set, or an episode for one, that can't be written or read."""


@dataclass(frozen=True)
class Feature:
    """One column. `dtype`: float32, float64, int64 or bool (array [T, *shape], [T] for shape (1,)),
    video (uint8 RGB frames, shape (H, W, 3)) or depth16 (uint16 frames, shape (H, W)).
    `names`: one per entry of a vector, or None."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    @property
    def is_scalar(self) -> bool:
        """Read as [T]. With a name its one entry is a vector's: the joint of a robot that has no other."""
        return self.shape == (1,) and self.names is None


BOOKKEEPING: dict[str, Feature] = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}
"""LeRobot's own columns: the writer fills them. `timestamp` is frame_index / fps, not a measured time."""

CAMERA_PREFIX = "observation.images."
NO_VERSION = -1
NO_VERDICT = -1

_OWN: dict[str, tuple[Feature, float | int | bool]] = {
    "time.state": (Feature(TIME_DTYPE, (1,)), math.nan),
    "time.inference": (Feature(TIME_DTYPE, (1,)), math.nan),
    "time.actuation": (Feature(TIME_DTYPE, (1,)), math.nan),
    "policy_version": (Feature("int64", (1,)), NO_VERSION),
    "reward_version": (Feature("int64", (1,)), NO_VERSION),
    "reward.process": (Feature("float32", (1,)), math.nan),
    "reward.completion": (Feature("float32", (1,)), math.nan),
    "reward.contrastive": (Feature("float32", (1,)), math.nan),
    "gate.verdict": (Feature("int64", (1,)), NO_VERDICT),
    "intervention": (Feature("bool", (1,)), False),
}


def own_columns(features: Mapping[str, Feature]) -> dict[str, tuple[Feature, float | int | bool]]:
    """Our columns for a data set with these features, each with the value it has when not given.

    `time.capture.<camera>` and `time.receive.<camera>` for each video, `time.state`,
    `time.inference`, `time.actuation` (monotonic seconds of the robot, NaN: unknown);
    `policy_version`, `reward_version` (a release's publish_seq, -1: none); `reward.process`,
    `reward.completion`, `reward.contrastive` (NaN: abstained or not scored); `gate.verdict` (bit set,
    -1: no gate); `intervention`.
    """
    times: dict[str, tuple[Feature, float | int | bool]] = {}
    for key in video_keys(features):
        camera = key.removeprefix(CAMERA_PREFIX)
        times[f"time.capture.{camera}"] = (Feature(TIME_DTYPE, (1,)), math.nan)
        times[f"time.receive.{camera}"] = (Feature(TIME_DTYPE, (1,)), math.nan)
    return {**times, **_OWN}


def video_keys(features: Mapping[str, Feature]) -> list[str]:
    return [key for key, feature in features.items() if feature.dtype == VIDEO]


def depth_keys(features: Mapping[str, Feature]) -> list[str]:
    return [key for key, feature in features.items() if feature.dtype == DEPTH16]


def array_keys(features: Mapping[str, Feature]) -> list[str]:
    return [key for key, feature in features.items() if feature.dtype not in (VIDEO, DEPTH16)]


def place(index: int, per_chunk: int = FILES_PER_CHUNK) -> tuple[int, int]:
    """(chunk_index, file_index) of the `index`-th file."""
    return index // per_chunk, index % per_chunk


def path_at(pattern: str, index: int, **names: str) -> Path:
    """Relative path of the `index`-th file of a pattern."""
    chunk, file = place(index)
    return Path(pattern.format(chunk_index=chunk, file_index=file, **names))


def check_features(features: Mapping[str, Feature]) -> None:
    """Raise `DatasetError` unless these features can be stored and LeRobot could open them."""
    for key, feature in features.items():
        if not key or "/" in key or key.startswith(".") or not key.isprintable():
            raise DatasetError("feature name", expected="a name without '/'", found=repr(key))
        if key in BOOKKEEPING or key == "task":
            raise DatasetError(
                f"feature '{key}' is filled by the writer", remedy="leave it out of the features"
            )
        if feature.dtype not in (*NUMPY_DTYPES, VIDEO, DEPTH16):
            raise DatasetError(
                f"dtype of feature '{key}'",
                expected=[*NUMPY_DTYPES, VIDEO, DEPTH16],
                found=repr(feature.dtype),
            )
        _check_shape(key, feature)
        own = own_columns(features).get(key)
        if own is not None and own[0] != feature:
            raise DatasetError(
                f"feature '{key}' is one of Entracte's own columns",
                expected=own[0],
                found=feature,
                remedy="leave it out of the features or choose another name",
            )


def _check_shape(key: str, feature: Feature) -> None:
    shape = feature.shape
    expected: str | None = None
    if not shape or not all(isinstance(n, int) and n > 0 for n in shape):
        expected = "at least one positive side; (1,) for a scalar"
    elif feature.dtype == VIDEO and (
        len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2
    ):
        expected = "(H, W, 3) with even H and W (yuv420p halves both)"
    elif feature.dtype == DEPTH16 and len(shape) != 2:
        expected = "(H, W)"
    elif feature.dtype in NUMPY_DTYPES and len(shape) > 2:
        expected = "one or two dimensions"
    elif feature.names is not None and len(feature.names) != shape[0]:
        expected = f"{len(feature.names)} entries for {len(feature.names)} names"
    if expected is not None:
        raise DatasetError(f"shape of feature '{key}'", expected=expected, found=shape)


Kind = tuple[int, Mapping[str, Feature]]
"""Steps a second, and the features."""


def require_alike(
    root: Path, known: Kind, given: Kind, elsewhere: str = "record to another folder"
) -> None:
    """Raise `DatasetError` unless episodes of the `given` kind can be recorded at `root`, of the `known`.
    `elsewhere`: what to do where they are meant to be of that kind."""
    if known[0] != given[0]:
        raise DatasetError(
            f"{root} has another rate",
            expected=f"{known[0]} steps a second",
            found=given[0],
            remedy=f"set loop.rate_hz, or {elsewhere}",
        )
    other = sorted(
        k for k in known[1].keys() | given[1].keys() if known[1].get(k) != given[1].get(k)
    )
    if other:
        raise DatasetError(
            f"{root} was recorded with another robot",
            expected={key: known[1].get(key) for key in other},
            found={key: given[1].get(key) for key in other},
            remedy=elsewhere,
        )


def check_columns(
    features: Mapping[str, Feature], columns: Mapping[str, Any]
) -> tuple[int, dict[str, np.ndarray]]:
    """(length T, arrays in the features' dtypes, our missing columns filled) of one episode.

    Raises `DatasetError` on unknown or missing columns, other lengths, shapes or dtypes (only
    lossless casts are made), infinities, and NaN in actions and observations.
    """
    own = own_columns(features)
    wanted = {
        **{key: features[key] for key in array_keys(features)},
        **{k: f for k, (f, _) in own.items()},
    }
    unknown = sorted(set(columns) - set(wanted))
    missing = sorted(set(wanted) - set(own) - set(columns))
    if unknown or missing:
        raise DatasetError(
            "columns of the episode",
            expected=sorted(wanted),
            found=f"unknown {unknown}, missing {missing}",
            remedy="declare new columns as features when the data set is created",
        )
    if not columns:
        raise DatasetError("episode without columns", expected=sorted(wanted))
    first = next(iter(columns))
    length = len(np.atleast_1d(columns[first]))
    if length == 0:
        raise DatasetError(
            "empty episode", expected="at least one step", found=f"'{first}' of length 0"
        )
    checked = {}
    for key, feature in wanted.items():
        if key in columns:
            checked[key] = _checked(key, feature, np.asarray(columns[key]), length, first)
        else:
            checked[key] = np.full(length, own[key][1], feature.dtype)
    return length, checked


def _checked(key: str, feature: Feature, array: np.ndarray, length: int, first: str) -> np.ndarray:
    if array.ndim and len(array) != length:
        raise DatasetError(
            f"length of column '{key}'", expected=f"{length} (as '{first}')", found=len(array)
        )
    shape = (length, *feature.shape)
    if array.shape != shape and not (feature.shape == (1,) and array.shape == (length,)):
        raise DatasetError(f"shape of column '{key}'", expected=shape, found=array.shape)
    if not np.can_cast(array.dtype, feature.dtype, "safe"):
        raise DatasetError(
            f"dtype of column '{key}'",
            expected=feature.dtype,
            found=array.dtype,
            remedy=f"cast it with .astype('{feature.dtype}') where losing precision is meant",
        )
    array = np.ascontiguousarray(
        array.reshape(length) if feature.shape == (1,) else array, feature.dtype
    )
    if array.dtype.kind == "f":
        must_be_finite = key == "action" or key.startswith(("action.", "observation."))
        bad = ~np.isfinite(array) if must_be_finite else np.isinf(array)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            raise DatasetError(
                f"column '{key}'",
                expected="finite values" if must_be_finite else "finite values or NaN",
                found=f"{array[at]} at step {at[0]}" + (f", entry {at[1:]}" if at[1:] else ""),
                remedy="a step with such a value must not be recorded as valid",
            )
    return array
