"""Episodes that no data set can hold: stored, said, and no reason for the trainer to stop."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.dataset_format import DatasetError
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


def store_one(
    store: Store, seq: int, *, steps: int = 4, session: SessionStart | None = None
) -> None:
    log = EpisodeLogWriter(store.root / "inbox" / f"{seq}")
    log.append(wire.pack(session or session_start()))
    for parts in episode(seq, steps=steps):
        log.append(parts)
    finished = log.finish()
    assert keep(store, EpisodeKey("bench-0", "s1", seq), finished.path, finished.sha256)


@pytest.mark.parametrize("rate_hz", [math.inf, 1e300, 1e5])
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
    idle = SimpleNamespace(take=lambda entry: None, look=lambda: None)
    config = TrainerConfig(store=StoreSection(keep_logs=False))
    working = Worker(config, store, metrics, idle, LiveFrames(False), stopping)
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
    idle = SimpleNamespace(take=lambda entry: None, look=lambda: None)
    working = Worker(TrainerConfig(), store, metrics, idle, LiveFrames(False), stopping)
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
