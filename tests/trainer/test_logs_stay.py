"""Without `store.keep_logs` an episode's log stays until an update has learned from it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from daemon_bench import PLUGIN
from tiny_package import make_package
from tiny_robot import episode, session_start

from contracts import wire
from contracts.errors import EntracteError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import EpisodeLogWriter
from trainer.config import load_config
from trainer.interfaces import EpisodeKey, StoredEpisode
from trainer.keeper import keep
from trainer.live_frames import LiveFrames
from trainer.metrics import Metrics
from trainer.store import Store
from trainer.work import Work
from trainer.worker import Worker


class Trainer:
    """Store and worker of a trainer that keeps no logs; three episodes make an iteration."""

    def __init__(self, folder: Path, reward: str = "constant") -> None:
        self._root = folder / "trainer"
        package = make_package(folder / "policy")
        settings = ("refiner.kind=tiny", f"refiner.package={package.folder}")
        more = (f"reward.model={reward}", "iteration.episodes=3", "store.keep_logs=false")
        self._config = load_config(None, [*settings, *more])
        self._store = Store(self._root / "store")
        self._metrics = Metrics(self._root / "metrics.jsonl")

    def receive(self, seq: int, purpose: str = "refine") -> None:
        log = EpisodeLogWriter(self._store.root / "inbox" / f"{seq}")
        for parts in (wire.pack(session_start()), *episode(seq, purpose=purpose)):
            log.append(parts)
        done = log.finish()
        assert keep(self._store, EpisodeKey("bench-0", "s1", seq), done.path, done.sha256)

    def load(self, seq: int) -> StoredEpisode:
        return self._store.load(self._store.entry(EpisodeKey("bench-0", "s1", seq)))

    def run(self, full: str = "", live: LiveFrames | None = None) -> list[int]:
        """From a start until everything is in the data set, and a stop: the logs that are left."""
        stopping = threading.Event()
        work = Work(self._root, self._config, self._store, self._metrics, lambda *_: None)
        worker = Worker(
            self._config,
            self._store,
            self._metrics,
            work,
            live or LiveFrames(False),
            stopping,
            full=lambda: full,
        )
        entries = self._store.entries
        for entry in entries:
            worker.put(entry)
        worker.start()
        try:
            give_up_s = time.monotonic() + 60
            while self._in_data_set() < {entry.episode_seq for entry in entries}:
                assert worker.is_alive() and time.monotonic() < give_up_s, worker.failure
                time.sleep(0.01)
        finally:
            stopping.set()
            worker.join(60)
        return [e.episode_seq for e in entries if self._store.log_path(e.key).exists()]

    def _in_data_set(self) -> set[int]:
        root = self._store.root / "dataset" / "bench-0"
        if not (root / "meta" / "info.json").exists():
            return set()
        reader = DatasetReader(root)
        extras = (reader.meta(n)["extra"] for n in range(reader.num_episodes))
        return {extra["key"][2] for extra in extras}


def test_a_log_stays_until_an_update_has_learned_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer that starts again in the middle of an iteration reads the same pictures, to the bit: those of
    a data set are video."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    trainer.receive(0, purpose="evaluate")
    for seq in (1, 2, 3, 4):
        trainer.receive(seq)
    assert trainer.run() == [4], "three made an iteration, and an evaluation teaches nothing"
    trainer.receive(5)
    assert trainer.run() == [4, 5], "of the next iteration, after a restart too"
    trainer.receive(6)
    assert trainer.run() == []


def test_where_there_is_no_room_for_it_a_log_waits_for_no_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else nothing more would be taken in, the iteration never be full, and the logs never go."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    trainer.receive(1)
    trainer.receive(2)
    assert trainer.run() == [1, 2]
    assert trainer.run(full="the trainer's store has 1 MiB (store.max_mib 1)") == []


def test_one_episode_whose_log_is_gone_is_read_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the data set were read for it, and one that is damaged took the others with it."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    for seq in (1, 2, 3):
        trainer.receive(seq)
    before = [trainer.load(seq).columns["action"] for seq in (1, 2, 3)]
    assert trainer.run() == []
    first = sorted((tmp_path / "trainer/store/dataset/bench-0/data").rglob("*.parquet"))[0]
    first.write_bytes(first.read_bytes()[:100])
    for seq in (2, 3):
        assert np.array_equal(trainer.load(seq).columns["action"], before[seq - 1])
    with pytest.raises(EntracteError, match=first.name):
        trainer.load(1)


def test_live_pictures_without_end_hold_up_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two robots at 30 Hz bring more than are looked at."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer, live, over = Trainer(tmp_path, "brightness"), LiveFrames(True), threading.Event()
    trainer.receive(1, purpose="evaluate")
    start, step, *_ = (wire.unpack(parts) for parts in episode(9, steps=1))
    live.take(b"robot", start)

    def stream() -> None:
        while not over.is_set():
            live.take(b"robot", step)
            time.sleep(0.001)

    robots = threading.Thread(target=stream)
    robots.start()
    try:
        assert trainer.run(live=live) == []
    finally:
        over.set()
        robots.join()
    assert live.frames > live.skipped > 0
