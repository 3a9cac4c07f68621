"""Arrow tables of a data set: steps, episodes and tasks, in the column types that LeRobot reads.

Owns schemas and conversion; touches no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from contracts.files import dataset_stats
from contracts.files.dataset_format import DatasetError, Feature
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
    """[T] for shape (1,), else [T, *shape]. Raises `DatasetError` if rows are of another size."""
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
    try:
        return values.reshape(length if feature.shape == (1,) else (length, *feature.shape))
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
    pairs = zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True)
    return [task for _, task in sorted(pairs)]


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
    """The statistics that `episode_row` put into a row of `meta/episodes`."""
    found: dict[str, Stats] = {}
    for column, value in row.items():
        if column.startswith("stats/"):
            _, key, name = column.split("/", 2)
            found.setdefault(key, {})[name] = np.asarray(value, np.float64)
    return {key: stats for key, stats in found.items() if set(stats) >= set(dataset_stats.KEYS)}
