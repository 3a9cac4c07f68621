"""Writes LeRobotDataset v3.0 with Entracte's own columns, one whole episode at a time.

One parquet and one MP4 (per camera) an episode: v3.0 allows any grouping, and this one needs neither
rewriting nor appending of files that already hold committed data. Every file is written atomically;
`meta/info.json` comes last and is the commit point, so a writer killed at any moment leaves a data
set that ends with the last finished episode. Scoring, reading and locking out readers are not done here.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.files import atomic, dataset_info, dataset_stats, dataset_tables
from contracts.files.dataset_format import (
    BOOKKEEPING,
    DATA_PATTERN,
    DEPTH_PATTERN,
    EPISODES_PATTERN,
    EPISODES_PER_META_FILE,
    INFO_PATH,
    LOCK_PATH,
    OWN_EPISODE_PATTERN,
    OWN_INFO_PATH,
    STATS_PATH,
    TASKS_PATH,
    VIDEO_PATTERN,
    DatasetError,
    Feature,
    array_keys,
    check_columns,
    check_features,
    depth_keys,
    own_columns,
    path_at,
    video_keys,
)
from contracts.files.dataset_info import DatasetInfo
from contracts.files.dataset_stats import Stats
from contracts.files.dataset_stream import EpisodeFiles, Pictures


class DatasetWriter:
    """Appends episodes to one data set; holds its lock until `close` (or leaving the `with` block)."""

    def __init__(self, root: Path, lock: int) -> None:
        """Use `create` or `open`."""
        self.root = root
        self.removed = 0
        """Files of an unfinished episode that `open` found and removed."""
        self._lock: int | None = lock
        self._info = dataset_info.load(root)
        self._tasks: list[str] = []
        self._stats: dict[str, Stats] = {}
        self._group: pa.Table | None = None
        self._load_committed()

    @classmethod
    def create(
        cls,
        root: str | Path,
        fps: int,
        features: Mapping[str, Feature],
        robot_type: str,
        extra_info: Mapping[str, Any] | None = None,
    ) -> DatasetWriter:
        """A new, empty data set at `root`, which may exist but not hold one.

        `features`: see `Feature`; our own columns (`dataset_format.own_columns`) are added to them.
        `extra_info`: any JSON, kept where LeRobot ignores it. Raises `DatasetError`.
        """
        root = Path(root)
        if fps < 1 or fps != int(fps):
            raise DatasetError("fps", expected="a positive whole number", found=fps)
        check_features(features)
        own = {key: feature for key, (feature, _) in own_columns(features).items()}
        info = DatasetInfo(int(fps), robot_type, {**features, **own}, dict(extra_info or {}))
        lock = _acquire(root)
        try:
            if (root / INFO_PATH).exists():
                raise DatasetError(
                    f"{root} already holds a data set", remedy="open it, or choose another path"
                )
            dataset_info.create(root, info)
            return cls(root, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def open(cls, root: str | Path) -> DatasetWriter:
        """The data set at `root`, to append to; what a killed writer left unfinished is removed."""
        root = Path(root)
        _require_ours(dataset_info.load(root), root)
        lock = _acquire(root)
        try:
            removed = atomic.remove_leftovers(root)
            writer = cls(root, lock)
            writer.removed = removed + writer._discard_unfinished()
            return writer
        except BaseException:
            os.close(lock)
            raise

    @property
    def features(self) -> dict[str, Feature]:
        """All columns, our own included, LeRobot's bookkeeping not."""
        return dict(self._info.features)

    @property
    def given_features(self) -> dict[str, Feature]:
        """The columns that an episode must bring: without our own."""
        return self._info.given_features

    @property
    def fps(self) -> int:
        return self._info.fps

    @property
    def num_episodes(self) -> int:
        return self._info.episodes

    def add_episode(
        self,
        columns: Mapping[str, np.ndarray],
        frames: Mapping[str, Iterable[np.ndarray]],
        depth: Mapping[str, Iterable[np.ndarray]] | None,
        task: str,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Append one episode, durably; returns its index.

        `columns`: array [T, *shape] per feature ([T] for shape (1,)); our own columns may be left out.
        `frames`: per video feature T frames uint8[H, W, 3] RGB, `depth`: per depth16 feature T frames
        uint16[H, W]; sequences, arrays or iterators (taken one frame at a time). `task`: the instruction.
        `extra`: any JSON about the episode. Raises `DatasetError`; the data set is then unchanged.
        """
        length, checked = check_columns(self._info.given_features, columns)
        depth = depth or {}
        _check_keys("frames", frames, video_keys(self._info.features))
        _check_keys("depth", depth, depth_keys(self._info.features))
        record = self._own_record(task, length, extra)
        files = self.begin(length)
        try:
            for key, pictures in (*depth.items(), *frames.items()):
                files.add_all(key, pictures, length)
            return self._keep(files, length, checked, task, record)
        except BaseException:
            files.discard()
            raise

    def begin(self, reserve: int) -> EpisodeFiles:
        """Open the picture files of the next episode, to be filled as the pictures come. Pass them to `keep`,
        or `discard` them. `reserve`: the most steps that are expected (more cost one copy of the depth)."""
        self._require_open()
        return EpisodeFiles(self.root, self._info, reserve)

    def keep(
        self,
        files: Pictures,
        columns: Mapping[str, np.ndarray],
        task: str,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Append the episode whose pictures are in `files`, durably; returns its index. Arguments as for
        `add_episode`. Raises `DatasetError` or `OSError`; the files are then discarded."""
        try:
            length, checked = check_columns(self._info.given_features, columns)
            return self._keep(files, length, checked, task, self._own_record(task, length, extra))
        except BaseException:
            files.discard()
            raise

    def drop_last(self) -> int:
        """Take the last episode out again, durably; returns how many are left. Raises `DatasetError` where
        there is none. Killed at any moment, the data set is whole with it or without it."""
        self._require_open()
        if not self.num_episodes:
            raise DatasetError("no episode to drop", expected="at least one in the data set")
        length = self._last_length()
        info = self._info.without_last(length)
        try:
            dataset_info.commit(self.root, info)
            self._info, dropped = info, self._info.episodes - 1
            self._load_committed()
            group_path = self.root / path_at(EPISODES_PATTERN, dropped // EPISODES_PER_META_FILE)
            if self._group is None or dropped % EPISODES_PER_META_FILE == 0:
                group_path.unlink(missing_ok=True)
            else:
                _write_table(group_path, self._group)
            self._write_stats(self._stats)
            self._discard_unfinished()
        except BaseException:
            self.close()
            raise
        return self.num_episodes

    def close(self) -> None:
        """Release the lock; every finished episode is already on disk."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._lock is None:
            raise DatasetError("writer is closed", remedy="open the data set again")

    def _own_record(self, task: str, length: int, extra: Mapping[str, Any] | None) -> bytes:
        self._require_open()
        if not isinstance(task, str) or not task.strip():
            raise DatasetError("task", expected="the instruction in words", found=repr(task))
        head = {"episode_index": self._info.episodes, "task": task, "length": length}
        return _json("extra", {**head, "extra": dict(extra or {})})

    def _keep(
        self,
        files: Pictures,
        length: int,
        checked: dict[str, np.ndarray],
        task: str,
        record: bytes,
    ) -> int:
        """The steps, the record and the names of the pictures, then the commit."""
        episode = self._info.episodes
        tasks = self._tasks if task in self._tasks else [*self._tasks, task]
        checked |= dataset_tables.bookkeeping(self._info, length, tasks.index(task))
        stats = {key: dataset_stats.of_array(array) for key, array in checked.items()}
        try:
            stats |= files.finish(length)
            self._write_steps(checked)
            own_path = self.root / path_at(OWN_EPISODE_PATTERN, episode)
            atomic.write_bytes(own_path, record, sync_directory=False)
            files.publish(episode)
        except BaseException:
            self._discard_unfinished()
            raise
        try:
            self._commit(length, task, tasks, stats)
        except BaseException:
            # Whether the episode counts is on disk only: a reopened writer reads it from there.
            self.close()
            raise
        return episode

    def _write_steps(self, columns: Mapping[str, np.ndarray]) -> None:
        path = self.root / path_at(DATA_PATTERN, self._info.episodes)
        stored = {key: self._info.features[key] for key in array_keys(self._info.features)}
        table = dataset_tables.steps_table({**stored, **BOOKKEEPING}, columns)
        _write_table(path, table)

    def _commit(
        self,
        length: int,
        task: str,
        tasks: list[str],
        stats: dict[str, Stats],
    ) -> None:
        episode = self._info.episodes
        if tasks != self._tasks:
            _write_table(self.root / TASKS_PATH, dataset_tables.tasks_table(tasks))
        row = dataset_tables.episode_row(
            dataset_tables.episode_values(self._info, length, task), stats
        )
        fresh = self._group is None or episode % EPISODES_PER_META_FILE == 0
        # By name: a file that another version or LeRobot began has its columns in another order.
        rows = [row] if fresh else [self._group, row]
        group = pa.concat_tables(rows, promote_options="default").combine_chunks()
        group_path = self.root / path_at(EPISODES_PATTERN, episode // EPISODES_PER_META_FILE)
        _write_table(group_path, group)
        merged = dataset_stats.merge([self._stats, stats])
        self._write_stats(merged)
        # Everything that the new head refers to must be on disk before it.
        files = [*self._episode_files(), group_path, self.root / STATS_PATH]
        for directory in {path.parent for path in files}:
            atomic.sync(directory)
        info = self._info.with_episode(length, len(tasks))
        dataset_info.commit(self.root, info)
        self._info, self._tasks, self._stats, self._group = info, tasks, merged, group

    def _episode_files(self) -> list[Path]:
        """Files of the episode being added."""
        features, episode = self._info.features, self._info.episodes
        relative = [path_at(DATA_PATTERN, episode), path_at(OWN_EPISODE_PATTERN, episode)]
        relative += [path_at(VIDEO_PATTERN, episode, video_key=key) for key in video_keys(features)]
        relative += [path_at(DEPTH_PATTERN, episode, key=key) for key in depth_keys(features)]
        return [self.root / path for path in relative]

    def _write_stats(self, stats: dict[str, Stats]) -> None:
        path = self.root / STATS_PATH
        if not stats:
            path.unlink(missing_ok=True)
            return
        atomic.write_json(path, dataset_stats.to_json(stats), sync_directory=False)

    def _discard_unfinished(self) -> int:
        """Remove what there is of an episode that does not count; returns how many files."""
        found = [path for path in self._episode_files() if path.exists()]
        for path in found:
            path.unlink()
        return len(found)

    def _last_length(self) -> int:
        assert self._group is not None
        return int(self._group["length"][-1].as_py())

    def _load_committed(self) -> None:
        """Tasks, statistics and the metadata table being filled, without what was never committed."""
        self._tasks, self._stats, self._group = [], {}, None
        if self._info.episodes == 0:
            return
        tasks = pq.read_table(self.root / TASKS_PATH)
        self._tasks = dataset_tables.tasks_from(tasks)[: self._info.tasks]
        stats: list[dict[str, Stats]] = []
        for first in range(0, self._info.episodes, EPISODES_PER_META_FILE):
            count = min(EPISODES_PER_META_FILE, self._info.episodes - first)
            path = self.root / path_at(EPISODES_PATTERN, first // EPISODES_PER_META_FILE)
            self._group = pq.read_table(path).slice(0, self._info.episodes - first)
            rows = self._group.to_pylist()
            dataset_tables.require_own_places(rows, range(first, first + count), self.root)
            stats += [dataset_tables.stats_of_row(row) for row in rows]
        self._stats = dataset_stats.merge(stats)


def _require_ours(info: DatasetInfo, root: Path) -> None:
    # LeRobot packs episodes into shared files under other numbers: appending ours would overwrite them.
    if not (root / OWN_INFO_PATH).exists() or info.data_pattern != DATA_PATTERN:
        raise DatasetError(
            f"{root} was not written by Entracte",
            remedy="read it and write its episodes to a new data set",
        )


def _acquire(root: Path) -> int:
    """Descriptor of the locked lock file; the system frees it when the process dies."""
    path = root / LOCK_PATH
    atomic.make_directory(path.parent)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise DatasetError(
            f"{root} is being written by another process", remedy="close the other writer first"
        ) from error
    return lock


def _write_table(path: Path, table: pa.Table) -> None:
    with atomic.replacing(path, sync_directory=False) as temporary:
        # Dictionaries and statistics cost more than they save on a few hundred rows.
        pq.write_table(
            table, temporary, compression="snappy", use_dictionary=False, write_statistics=False
        )


def _check_keys(what: str, given: Mapping[str, object], wanted: list[str]) -> None:
    if set(given) != set(wanted):
        raise DatasetError(
            f"{what} of the episode",
            expected=f"exactly {sorted(wanted)}",
            found=sorted(given),
            remedy="give one per feature of that dtype",
        )


def _json(what: str, value: Any) -> bytes:
    try:
        return atomic.json_bytes(what, value)
    except atomic.FileError as error:
        raise DatasetError(str(error)) from error
