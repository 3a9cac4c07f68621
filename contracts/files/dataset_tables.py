"""Arrow tables of a data set: steps, episodes and tasks, in the column types that LeRobot reads.

Owns schemas and conversion; touches no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from contracts.files import dataset_stats
from contracts.files.dataset_format import (
    EPISODES_PER_META_FILE,
    NUMPY_DTYPES,
    DatasetError,
    Feature,
    place,
    video_keys,
)
from contracts.files.dataset_info import DatasetInfo
from contracts.files.dataset_stats import Stats

# pandas stores an unnamed index under this name; LeRobot reads the tasks from the index.
_TASK_COLUMN = "__index_level_0__"


def steps_table(features: Mapping[str, Feature], columns: Mapping[str, np.ndarray]) -> pa.Table:
    """One row per step; vectors as fixed-size lists, matrices as nested lists."""
    return pa.table({key: _arrow(columns[key], feature) for key, feature in features.items()})


def _arrow(array: np.ndarray, feature: Feature) -> pa.Array:
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    if feature.shape == (1,):
        return values
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(values, feature.shape[0])
    # Hugging Face's Array2D casts from variable lists only.
    for side in reversed(feature.shape):
        offsets = np.arange(0, len(values) + 1, side, dtype=np.int32)
        values = pa.ListArray.from_arrays(pa.array(offsets), values)
    return values


def to_numpy(column: pa.ChunkedArray, feature: Feature) -> np.ndarray:
    """[T] for a scalar, else [T, *shape]. Raises `DatasetError` if rows are of another size."""
    array = column.combine_chunks()
    length = len(array)
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_nested(array.type):
            array = array.flatten()
        else:
            break
    values: np.ndarray = array.to_numpy(zero_copy_only=False)
    if feature.dtype in NUMPY_DTYPES and values.dtype.kind not in "fiub":
        raise DatasetError("column on disk", expected=feature, found=str(array.type))
    try:
        return values.reshape(length if feature.is_scalar else (length, *feature.shape))
    except ValueError as error:
        raise DatasetError("column on disk", expected=feature, found=str(error)) from error


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Task strings as the index of a pandas frame (metadata written by hand: the robot has no pandas)."""
    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    number = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    metadata = {
        "index_columns": [_TASK_COLUMN],
        "column_indexes": [{"name": None, "field_name": None, **text}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", **number},
            {"name": None, "field_name": _TASK_COLUMN, **text},
        ],
        "creator": {"library": "entracte", "version": "1"},
        "pandas_version": "2.2.0",
    }
    table = pa.table(
        {
            "task_index": pa.array(range(len(tasks)), pa.int64()),
            _TASK_COLUMN: pa.array(list(tasks), pa.string()),
        }
    )
    return table.replace_schema_metadata({"pandas": json.dumps(metadata)})


def tasks_from(table: pa.Table) -> list[str]:
    """Task strings in the order of `task_index`."""
    names = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or len(names) != 1:
        raise DatasetError(
            "columns of tasks.parquet", expected="task_index and the task", found=table.column_names
        )
    pairs = list(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))
    if not all(isinstance(index, int) and isinstance(task, str) for index, task in pairs):
        raise DatasetError("tasks.parquet", expected="numbers and words", found=pairs[:3])
    return [task for _, task in sorted(pairs)]


def check_row(row: Mapping[str, Any], features: Mapping[str, Feature], what: str) -> None:
    """Raise `DatasetError` unless a row of `meta/episodes` says where its episode is."""
    places = ["data/chunk_index", "data/file_index", "length"]
    for key in video_keys(features):
        places += [f"videos/{key}/chunk_index", f"videos/{key}/file_index"]
    bad = [name for name in places if not _is_count(row.get(name))]
    starts = [f"videos/{key}/from_timestamp" for key in video_keys(features)]
    bad += [name for name in starts if not _is_time(row.get(name))]
    tasks = row.get("tasks")
    if bad or not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise DatasetError(
            f"{what} is damaged", found={name: row.get(name) for name in (*bad, "tasks")}
        )


def require_own_places(rows: Sequence[Mapping[str, Any]], episodes: range, root: Path) -> None:
    """Raise `DatasetError` unless the rows of one table are those episodes, each in its own file, where the
    writer puts it: it would overwrite what another program put elsewhere."""
    names = ("episode_index", "data/chunk_index", "data/file_index")
    found = [tuple(row.get(name) for name in names) for row in rows]
    expected = [(episode, *place(episode)) for episode in episodes]
    if found != expected:
        other = next((f for f, e in zip(found, expected, strict=False) if f != e), None)
        raise DatasetError(
            f"{root} was changed by another program",
            expected=f"episodes {episodes[0]} to {episodes[-1]}, each in a file of its own",
            found=f"{len(rows)} rows" if other is None else dict(zip(names, other, strict=True)),
            remedy="read it and write its episodes to a new data set",
        )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 2**31


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < 2**31


def bookkeeping(info: DatasetInfo, length: int, task_index: int) -> dict[str, np.ndarray]:
    """LeRobot's own columns of the next episode after `info`."""
    steps = np.arange(length, dtype=np.int64)
    return {
        "timestamp": (steps / info.fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, info.episodes, np.int64),
        "index": steps + info.frames,
        "task_index": np.full(length, task_index, np.int64),
    }


def episode_values(info: DatasetInfo, length: int, task: str) -> dict[str, Any]:
    """What `meta/episodes` says of the next episode after `info`, statistics apart."""
    chunk, file = place(info.episodes)
    meta_chunk, meta_file = place(info.episodes // EPISODES_PER_META_FILE)
    videos: dict[str, Any] = {}
    for key in video_keys(info.features):
        videos[f"videos/{key}/chunk_index"] = chunk
        videos[f"videos/{key}/file_index"] = file
        videos[f"videos/{key}/from_timestamp"] = 0.0
        videos[f"videos/{key}/to_timestamp"] = length / info.fps
    return {
        "episode_index": info.episodes,
        "tasks": [task],
        "length": length,
        "dataset_from_index": info.frames,
        "dataset_to_index": info.frames + length,
        "data/chunk_index": chunk,
        "data/file_index": file,
        **videos,
        "meta/episodes/chunk_index": meta_chunk,
        "meta/episodes/file_index": meta_file,
    }


def episode_row(values: Mapping[str, Any], stats: Mapping[str, Stats]) -> pa.Table:
    """One row of `meta/episodes`: `values` (ints, floats, list of strings) and `stats/<feature>/<name>`."""
    columns: dict[str, pa.Array] = {}
    for key, value in values.items():
        columns[key] = pa.array([value])
    for key, feature in stats.items():
        for name, array in feature.items():
            kind: pa.DataType = pa.int64() if name == "count" else pa.float64()
            for _ in array.shape:
                kind = pa.list_(kind)
            value = array.astype(int) if name == "count" else array
            columns[f"stats/{key}/{name}"] = pa.array([value.tolist()], kind)
    return pa.table(columns)


def stats_of_row(row: Mapping[str, Any]) -> dict[str, Stats]:
    """The statistics that `episode_row` put into a row of `meta/episodes`; a column that came with a later
    row is null in this one."""
    found: dict[str, Stats] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            _, key, name = column.split("/", 2)
            found.setdefault(key, {})[name] = np.asarray(value, np.float64)
    return {key: stats for key, stats in found.items() if set(stats) >= set(dataset_stats.KEYS)}
