"""Reads LeRobotDataset v3.0: Entracte's own and LeRobot's, committed episodes only. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.files import atomic, dataset_info, dataset_tables, depth_file, video
from contracts.files.dataset_format import (
    BOOKKEEPING,
    DEPTH16,
    DEPTH_PATTERN,
    OWN_EPISODE_PATTERN,
    STATS_PATH,
    TASKS_PATH,
    VIDEO,
    DatasetError,
    Feature,
    array_keys,
    path_at,
)
from contracts.files.dataset_stats import Stats


class DatasetReader:
    """One data set, as far as it was committed when this was made or last `refresh`ed."""

    def __init__(self, root: str | Path) -> None:
        """Raises `DatasetError` if there is no readable data set at `root`."""
        self.root = Path(root)
        self.refresh()

    def refresh(self) -> int:
        """Take in episodes that a writer has added since; returns `num_episodes`."""
        self._info = dataset_info.load(self.root)
        self._rows: list[dict[str, Any]] = []
        self._tasks: list[str] = []
        if self._info.episodes:
            self._tasks = dataset_tables.tasks_from(_read_table(self.root / TASKS_PATH))
            self._rows = self._read_rows(self._info.episodes)
        return self.num_episodes

    @property
    def fps(self) -> int:
        return self._info.fps

    @property
    def robot_type(self) -> str:
        return self._info.robot_type

    @property
    def features(self) -> dict[str, Feature]:
        """All columns, pictures and depth included, LeRobot's bookkeeping not."""
        return dict(self._info.features)

    @property
    def given_features(self) -> dict[str, Feature]:
        """The columns that the data set was created with: without our own."""
        return self._info.given_features

    @property
    def extra_info(self) -> dict[str, Any]:
        """The `extra_info` that the data set was created with."""
        return dict(self._info.extra)

    @property
    def num_episodes(self) -> int:
        return self._info.episodes

    @property
    def num_frames(self) -> int:
        """Steps of all episodes together."""
        return self._info.frames

    @property
    def tasks(self) -> list[str]:
        """Task strings in the order of `task_index`."""
        return list(self._tasks[: self._info.tasks])

    @property
    def stats(self) -> dict[str, dict[str, np.ndarray]]:
        """`meta/stats.json`: {feature: {min, max, mean, std, count, q01, q10, q50, q90, q99}}."""
        if not (self.root / STATS_PATH).exists():
            return {}
        stored = atomic.read_json(self.root / STATS_PATH)
        try:
            return {
                key: {name: np.asarray(value) * 1 for name, value in feature.items()}
                for key, feature in stored.items()
            }
        except (AttributeError, TypeError, ValueError) as error:
            raise DatasetError(f"{self.root / STATS_PATH} is damaged", found=str(error)) from error

    def length(self, episode: int) -> int:
        """Number of steps of an episode."""
        return int(self._row(episode)["length"])

    def meta(self, episode: int) -> dict[str, Any]:
        """{"episode_index", "task", "length", "extra"}; `extra` is {} for a data set of LeRobot's."""
        row = self._row(episode)
        own = self.root / path_at(OWN_EPISODE_PATTERN, episode)
        extra = _extra(own) if own.exists() else {}
        task = row["tasks"][0] if row["tasks"] else ""
        return {
            "episode_index": episode,
            "task": task,
            "length": int(row["length"]),
            "extra": extra,
        }

    def episode_stats(self, episode: int) -> dict[str, Stats]:
        """`stats/<feature>/<name>` of `meta/episodes`, as {feature: {name: float64 array}}; {} without."""
        self._row(episode)
        for path in sorted((self.root / "meta/episodes").glob("*/*.parquet")):
            table = _read_table(path)
            if episode < table.num_rows:
                return dataset_tables.stats_of_row(table.slice(episode, 1).to_pylist()[0])
            episode -= table.num_rows
        return {}

    def episode(self, episode: int, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Columns of an episode: [T] for scalars (shape (1,), no names), else [T, *shape].

        `columns`: which ones (all, LeRobot's bookkeeping included, by default).
        """
        row = self._row(episode)
        stored = {
            **{k: self._info.features[k] for k in array_keys(self._info.features)},
            **BOOKKEEPING,
        }
        wanted = list(stored) if columns is None else list(columns)
        unknown = sorted(set(wanted) - set(stored))
        if unknown:
            raise DatasetError(
                "no such columns", expected=f"some of {sorted(stored)}", found=unknown
            )
        path = self.root / self._info.data_pattern.format(
            chunk_index=row["data/chunk_index"], file_index=row["data/file_index"], video_key=""
        )
        table = _of_episode(path, list(dict.fromkeys([*wanted, "episode_index"])), episode)
        if table.num_rows != row["length"]:
            raise DatasetError(
                f"{path} is damaged", expected=f"{row['length']} rows", found=table.num_rows
            )
        return {key: dataset_tables.to_numpy(table[key], stored[key]) for key in wanted}

    def frames(
        self, episode: int, camera_key: str, indices: Sequence[int] | None = None
    ) -> np.ndarray:
        """uint8[N, H, W, 3] RGB of the given steps (all by default), in the order asked for.

        Negative indices count from the end. `camera_key`: for instance "observation.images.front".
        """
        row, feature = self._row(episode), self._feature(camera_key, VIDEO)
        chosen = _resolve(indices, int(row["length"]))
        path = self.root / self._info.video_pattern.format(
            video_key=camera_key,
            chunk_index=row[f"videos/{camera_key}/chunk_index"],
            file_index=row[f"videos/{camera_key}/file_index"],
        )
        first = round(row[f"videos/{camera_key}/from_timestamp"] * self.fps)
        return video.decode(path, fps=self.fps, shape=feature.shape, first=first, indices=chosen)

    def depth(
        self, episode: int, camera_key: str, indices: Sequence[int] | None = None
    ) -> np.ndarray:
        """uint16[N, H, W] of the given steps (all by default), bit-equal to what was written."""
        row, feature = self._row(episode), self._feature(camera_key, DEPTH16)
        if self._info.depth_codec != depth_file.CODEC:
            raise DatasetError(
                "depth codec", expected=depth_file.CODEC, found=self._info.depth_codec
            )
        path = self.root / path_at(DEPTH_PATTERN, episode, key=camera_key)
        length = int(row["length"])
        chosen = _resolve(indices, length)
        return depth_file.read(path, shape=feature.shape, length=length, indices=chosen)

    def _feature(self, key: str, dtype: str) -> Feature:
        feature = self._info.features.get(key)
        if feature is None or feature.dtype != dtype:
            having = sorted(k for k, f in self._info.features.items() if f.dtype == dtype)
            raise DatasetError(f"no {dtype} feature '{key}'", expected=f"one of {having}")
        return feature

    def _row(self, episode: int) -> dict[str, Any]:
        if not 0 <= episode < self.num_episodes:
            raise DatasetError(
                "no such episode", expected=f"0 to {self.num_episodes - 1}", found=episode
            )
        return self._rows[episode]

    def _read_rows(self, count: int) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for path in sorted((self.root / "meta/episodes").glob("*/*.parquet")):
            if len(rows) >= count:
                break
            rows += _read_table(path, skip="stats/").to_pylist()
        indices = [row["episode_index"] for row in rows[:count]]
        if indices != list(range(count)):
            raise DatasetError(
                f"meta/episodes of {self.root} is damaged",
                expected=f"episodes 0 to {count - 1}",
                found=indices,
            )
        for row in rows[:count]:
            dataset_tables.check_row(row, self._info.features, f"meta/episodes of {self.root}")
        return rows[:count]


def _extra(path: Path) -> dict[str, Any]:
    stored = atomic.read_json(path)
    extra = stored.get("extra") if isinstance(stored, dict) else None
    if not isinstance(extra, dict):
        raise DatasetError(f"{path} is damaged", expected="a mapping 'extra'", found=type(extra))
    return extra


def _of_episode(path: Path, columns: list[str], episode: int) -> pa.Table:
    """Those columns of the episode's rows. Raises `DatasetError`."""
    table = _read_table(path, columns)
    missing = sorted(set(columns) - set(table.column_names))
    if missing:
        raise DatasetError(f"{path} is damaged", found=f"no columns {missing}")
    try:
        mine = pc.equal(table["episode_index"], episode)
        return table if pc.all(mine).as_py() else table.filter(mine)
    except pa.ArrowException as error:
        raise DatasetError(f"{path} is damaged", found=str(error)) from error


def _resolve(indices: Sequence[int] | None, length: int) -> list[int]:
    if indices is None:
        return list(range(length))
    chosen = [int(index) for index in indices]
    bad = [index for index in chosen if not -length <= index < length]
    if bad:
        raise DatasetError("no such steps", expected=f"-{length} to {length - 1}", found=bad)
    return [index % length for index in chosen]


def _read_table(path: Path, columns: list[str] | None = None, skip: str | None = None) -> pa.Table:
    """The given columns (all by default), without those whose name begins with `skip`."""
    try:
        file = pq.ParquetFile(path)
        if skip is not None:
            columns = [name for name in file.schema_arrow.names if not name.startswith(skip)]
        # No threads: the tables are small and a pool costs more than it gives.
        return file.read(columns=columns, use_threads=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"table {path} can't be read", found=str(error)) from error
