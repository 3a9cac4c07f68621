"""Episodes that no data set can hold: stored, said, and no reason for the trainer to stop."""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tiny_package import ACTION
from tiny_robot import episode, pictures, session_start, step

from contracts import wire
from contracts.files import atomic, dataset_info
from contracts.files.dataset_format import EPISODES_PATTERN, INFO_PATH, DatasetError, path_at
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import EpisodeLogWriter
from contracts.messages import SessionStart
from trainer import worker
from trainer.config import StoreSection, TrainerConfig
from trainer.interfaces import EpisodeKey
from trainer.keeper import keep
from trainer.live_frames import LiveFrames
from trainer.metrics import Metrics, read_metrics
from trainer.store import Store, UnreadableLog
from trainer.worker import Worker

IDLE = SimpleNamespace(
    take=lambda entry: None,
    look=lambda: None,
    renew=lambda: None,
    learns_from=lambda entry: False,
)
"""A trainer's work that is none."""


def store_one(
    store: Store,
    seq: int,
    *,
    steps: int = 4,
    session: SessionStart | None = None,
    robot_id: str = "bench-0",
) -> None:
    log = EpisodeLogWriter(store.root / "inbox" / f"{seq}")
    log.append(wire.pack(session or session_start(robot_id=robot_id)))
    for parts in episode(seq, steps=steps, robot_id=robot_id):
        log.append(parts)
    finished = log.finish()
    assert keep(store, EpisodeKey(robot_id, "s1", seq), finished.path, finished.sha256)


def in_data_set(store: Store, robot_id: str = "bench-0") -> list[int]:
    """Numbers of the episodes that the robot's data set holds, in its order."""
    root = store.root / "dataset" / robot_id
    if not (root / INFO_PATH).exists():
        return []
    reader = DatasetReader(root)
    return [reader.meta(n)["extra"]["key"][2] for n in range(reader.num_episodes)]


@pytest.mark.parametrize("rate_hz", [math.inf, 1e300, 1e5, 12.5])
def test_a_data_set_is_not_begun_with_a_rate_that_there_is_not(
    tmp_path: Path, rate_hz: float
) -> None:
    store = Store(tmp_path / "store")
    store_one(store, 1, session=msgspec.structs.replace(session_start(), loop_rate_hz=rate_hz))
    store_one(store, 2)
    with pytest.raises(DatasetError, match="steps a second"):
        store.write_dataset(store.entries[0], keep_log=True)
    assert store.write_dataset(store.entries[1], keep_log=True)
    reader = DatasetReader(store.root / "dataset" / "bench-0")
    assert (reader.num_episodes, reader.fps) == (1, 10), "the next one begins it"


def test_a_data_set_is_not_begun_with_an_episode_without_a_step(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for seq, steps in ((1, 0), (2, 4), (3, 0)):
        store_one(store, seq, steps=steps)
    for entry in (store.entries[0], store.entries[2]):
        with pytest.raises(DatasetError, match="at least one step"):
            store.write_dataset(entry, keep_log=True)
        if entry is store.entries[0]:
            assert store.write_dataset(store.entries[1], keep_log=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loop_rate_hz": 20.0}, r"another rate: expected 10 .* found 20; .*robot\.id"),
        (
            {"action": msgspec.structs.replace(ACTION, names=ACTION.names[::-1])},
            r"another robot: .*'action'.*robot\.id",
        ),
    ],
)
def test_a_data_set_takes_nothing_of_another_rate_or_other_joints(
    tmp_path: Path, change: dict, words: str
) -> None:
    """Its rows say neither: the times would be wrong, or one joint would stand in another's column."""
    store = Store(tmp_path / "store")
    store_one(store, 1)
    store_one(store, 2, session=msgspec.structs.replace(session_start(), **change))
    store_one(store, 3)
    first, other, last = store.entries
    assert store.write_dataset(first, keep_log=False)
    with pytest.raises(DatasetError, match=words):
        store.write_dataset(other, keep_log=False)
    assert store.write_dataset(last, keep_log=False)
    assert in_data_set(store) == [1, 3] and store.log_path(other.key).exists()


def test_an_episode_that_no_data_set_can_hold_does_not_begin_one(tmp_path: Path) -> None:
    """Nothing is in it, and yet its rate and joints would be those of all that come after."""
    store = Store(tmp_path / "store")
    log = EpisodeLogWriter(store.root / "inbox" / "1")
    first, _, *others = episode(1, steps=4)
    blind = msgspec.structs.replace(step(0), state=(math.nan,) * 6)
    for parts in (wire.pack(session_start()), first, wire.pack(blind, pictures(0, 1)), *others):
        log.append(parts)
    finished = log.finish()
    assert keep(store, EpisodeKey("bench-0", "s1", 1), finished.path, finished.sha256)
    store_one(store, 2, session=msgspec.structs.replace(session_start(), loop_rate_hz=20.0))
    with pytest.raises(DatasetError, match="finite values"):
        store.write_dataset(store.entries[0], keep_log=True)
    assert store.write_dataset(store.entries[1], keep_log=True)
    assert DatasetReader(store.root / "dataset" / "bench-0").fps == 20
    assert in_data_set(store) == in_data_set(Store(tmp_path / "store")) == [2]


def test_a_data_set_that_can_not_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """An old copy lies beside one of its files: what it holds would be written to it once more."""
    store = Store(tmp_path / "store")
    for seq in (1, 2):
        store_one(store, seq)
    rows = store.root / "dataset" / "bench-0" / path_at(EPISODES_PATTERN, 0)
    old = rows.with_name("file-000-old.parquet")
    assert store.write_dataset(store.entries[0], keep_log=True)
    before = rows.read_bytes()
    assert store.write_dataset(store.entries[1], keep_log=True)
    old.write_bytes(before)
    again = Store(tmp_path / "store")
    for entry in again.entries:
        with pytest.raises(DatasetError, match="damaged"):
            again.write_dataset(entry, keep_log=True)
    old.unlink()
    assert not any(again.write_dataset(entry, keep_log=True) for entry in again.entries)
    assert in_data_set(again) == [1, 2]


def test_an_episode_whose_commit_was_in_doubt_is_written_once(tmp_path: Path, monkeypatch) -> None:
    """The head has its name, and only then its folder's sync fails."""
    store = Store(tmp_path / "store")
    for seq in (1, 2):
        store_one(store, seq)
    assert store.write_dataset(store.entries[0], keep_log=True)
    real = dataset_info.commit

    def doubtful(*arguments) -> None:
        real(*arguments)
        raise OSError(errno.EIO, "the folder can't be synced")

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(dataset_info, "commit", doubtful)
        store.write_dataset(store.entries[1], keep_log=True)
    assert not store.write_dataset(store.entries[1], keep_log=True)
    assert in_data_set(store) == [1, 2]


def work(store: Store, metrics: Metrics, until: Sequence[int]) -> Worker:
    """A worker over what is stored that scores nothing; ended once it has taken the last of `until`."""
    stopping = threading.Event()
    taken: list[int] = []

    def take(entry) -> None:
        taken.append(entry.episode_seq)
        if taken == list(until):
            stopping.set()

    working = Worker(
        TrainerConfig(), store, metrics, SimpleNamespace(take=take), LiveFrames(False), stopping
    )
    for entry in store.entries:
        working.put(entry)
    working.start()
    working.join(60)
    assert not working.is_alive()
    return working


def test_whatever_an_episode_does_to_the_data_set_the_worker_goes_on(
    tmp_path: Path, monkeypatch
) -> None:
    store, metrics = Store(tmp_path / "store"), Metrics(tmp_path / "metrics.jsonl")
    for seq, steps in ((1, 0), (2, 4), (3, 4)):
        store_one(store, seq, steps=steps)
    write = store.write_dataset

    def failing(entry, *, keep_log: bool) -> bool:
        if entry.episode_seq == 2:
            raise IndexError("of a kind that nobody thought of")
        return write(entry, keep_log=keep_log)

    monkeypatch.setattr(store, "write_dataset", failing)
    assert work(store, metrics, (1, 2, 3)).failure == ""
    told = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["kind"] for record in told] == ["dataset_failure"] * 2
    assert "at least one step" in told[0]["problem"]
    assert told[1]["problem"] == "IndexError: of a kind that nobody thought of"
    assert DatasetReader(store.root / "dataset" / "bench-0").num_episodes == 1


def refuse(store: Store, robot_id: str) -> Path:
    """A file where that robot's data set would be: the disk takes none, whatever is tried."""
    path = store.root / "dataset" / robot_id
    atomic.make_directory(path.parent)
    path.write_text("somebody's own")
    return path


def test_a_data_set_that_the_disk_does_not_take_holds_up_no_other_robots(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(worker, "DISK_AGAIN_S", 0.01)
    store, metrics = Store(tmp_path / "store"), Metrics(tmp_path / "metrics.jsonl")
    for seq in (1, 2, 3):
        for robot_id in ("bench-0", "bench-1"):
            store_one(store, seq, robot_id=robot_id)
    own, stopping = refuse(store, "bench-0"), threading.Event()
    working = Worker(TrainerConfig(), store, metrics, IDLE, LiveFrames(False), stopping)
    for entry in store.entries:
        working.put(entry)
    working.start()
    try:
        for robot_id in ("bench-1", "bench-0"):
            give_up_s = time.monotonic() + 60
            while len(in_data_set(store, robot_id)) < 3:
                assert working.is_alive() and time.monotonic() < give_up_s
                time.sleep(0.01)
            if robot_id == "bench-1":
                own.unlink()
    finally:
        stopping.set()
        working.join(60)
    assert in_data_set(store, "bench-0") == in_data_set(store, "bench-1") == [1, 2, 3]
    failed = {record["key"] for record in read_metrics(tmp_path / "metrics.jsonl")}
    assert failed == {"bench-0__s1__00000001"}, "in order, and nothing of the other's"


def test_at_the_end_what_the_disk_does_not_take_is_tried_once(tmp_path: Path) -> None:
    """It was tried until the end of the minute, and every attempt was written down."""
    store, metrics = Store(tmp_path / "store"), Metrics(tmp_path / "metrics.jsonl")
    for robot_id in ("bench-0", "bench-1"):
        for seq in (1, 2):
            store_one(store, seq, robot_id=robot_id)
    refuse(store, "bench-0")
    assert work(store, metrics, (1, 2, 1, 2)).failure == ""
    told = [record["key"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert told == ["bench-0__s1__00000001"]
    assert in_data_set(store, "bench-1") == [1, 2]


def test_a_log_that_the_disk_does_not_give_holds_up_nobody_and_is_kept(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """A folder in its place stands for a sector that can't be read: the error is real, and does not go."""
    monkeypatch.setattr(worker, "DISK_AGAIN_S", 0.01)
    store, metrics = Store(tmp_path / "store"), Metrics(tmp_path / "metrics.jsonl")
    for seq in (1, 2, 3):
        store_one(store, seq)
    path, good = store.log_path(store.entries[1].key), tmp_path / "good"
    path.rename(good)
    path.mkdir()
    stopping = threading.Event()
    config = TrainerConfig(store=StoreSection(keep_logs=False))
    working = Worker(config, store, metrics, IDLE, LiveFrames(False), stopping)
    for entry in store.entries:
        working.put(entry)
    working.start()
    root = store.root / "dataset" / "bench-0"
    try:
        give_up_s = time.monotonic() + 60
        while not (working.aside and DatasetReader(root).num_episodes == 2):
            assert working.is_alive() and time.monotonic() < give_up_s
            time.sleep(0.01)
    finally:
        stopping.set()
        working.join(60)
    told = [(one["key"], one["aside"]) for one in read_metrics(tmp_path / "metrics.jsonl")]
    assert told == [("bench-0__s1__00000002", last) for last in (False, False, True)]
    assert "can't be read" in capsys.readouterr().err
    assert path.is_dir() and not store.log_path(store.entries[2].key).exists()

    path.rmdir()
    good.rename(path)
    assert work(Store(tmp_path / "store"), metrics, (1, 2, 3)).aside == 0
    reader = DatasetReader(root)
    assert [reader.meta(n)["extra"]["key"][2] for n in range(3)] == [1, 3, 2]


def test_each_log_has_its_own_attempts(tmp_path: Path, monkeypatch) -> None:
    """One that is read at last, and then can't be held by a data set, leaves the next one all of its."""
    monkeypatch.setattr(worker, "DISK_AGAIN_S", 0.01)
    store, metrics = Store(tmp_path / "store"), Metrics(tmp_path / "metrics.jsonl")
    for seq in (1, 2):
        store_one(store, seq)
    write, stopping = store.write_dataset, threading.Event()
    fails: list[Exception] = [UnreadableLog("a sector"), UnreadableLog("a sector")]
    fails += [IndexError("of a kind that nobody thought of"), UnreadableLog("a sector")]

    def failing(entry, *, keep_log: bool) -> bool:
        if fails:
            raise fails.pop(0)
        try:
            return write(entry, keep_log=keep_log)
        finally:
            stopping.set()

    monkeypatch.setattr(store, "write_dataset", failing)
    working = Worker(TrainerConfig(), store, metrics, IDLE, LiveFrames(False), stopping)
    for entry in store.entries:
        working.put(entry)
    working.start()
    working.join(60)
    stopping.set()
    assert not working.is_alive() and working.aside == 0
    assert DatasetReader(store.root / "dataset" / "bench-0").num_episodes == 1


def test_where_the_trainer_is_stopping_it_is_not_waited_for(tmp_path: Path) -> None:
    store, metrics = Store(tmp_path / "store"), Metrics(tmp_path / "metrics.jsonl")
    for seq in (1, 2):
        store_one(store, seq)
    path = store.log_path(store.entries[0].key)
    path.unlink()
    path.mkdir()
    assert work(store, metrics, (1, 2)).aside == 1
    assert DatasetReader(store.root / "dataset" / "bench-0").num_episodes == 1


def test_a_log_that_was_not_entered_and_can_not_be_read_keeps_no_trainer_from_its_start(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    store_one(store, 1)
    path = store.log_path(EpisodeKey("bench-0", "s1", 0))
    path.mkdir()
    store_one(store, 2)
    (store.root / "index.jsonl").unlink()
    again = Store(tmp_path / "store")
    assert [entry.episode_seq for entry in again.entries] == [1, 2]
    assert list(again.unread) == [path] and "directory" in again.unread[path]


def test_what_is_called_otherwise_among_the_logs_keeps_no_trainer_from_its_start(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path / "store")
    store_one(store, 1)
    log = store.log_path(store.entries[0].key)
    others = [log.with_name(name) for name in ("bench-0__s1__00000001 (copy).elog", "mine.elog")]
    for other in others:
        other.write_bytes(log.read_bytes())
    again = Store(tmp_path / "store")
    assert [entry.episode_seq for entry in again.entries] == [1]
    assert set(again.unread) == set(others) and all(other.exists() for other in others)
