"""A trainer whose store was lost or put back from a copy, and whose state was not."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest
from daemon_bench import PLUGIN, wait
from tiny_package import make_package
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.episode_log import EpisodeLogWriter
from trainer.config import load_config
from trainer.daemon import Daemon
from trainer.interfaces import EpisodeKey
from trainer.keeper import keep
from trainer.metrics import read_metrics
from trainer.store import Store
from trainer.work_state import WorkState


def store_some(store: Store, *seqs: int) -> None:
    for seq in seqs:
        log = EpisodeLogWriter(store.root / "inbox" / f"{seq}")
        log.append(wire.pack(session_start()))
        for parts in episode(seq, steps=4):
            log.append(parts)
        done = log.finish()
        assert keep(store, EpisodeKey("bench-0", "s1", seq), done.path, done.sha256)


class Trainer:
    """A run folder after three iterations, the last of which ended with the episode number 500."""

    def __init__(self, folder: Path) -> None:
        self.root, package = folder / "trainer", make_package(folder / "policy")
        (self.root / "state").mkdir(parents=True)
        state = WorkState(iteration=3, consumed_arrival=500)
        (self.root / "state" / "state.json").write_bytes(msgspec.json.encode(state))
        settings = ["refiner.kind=tiny", f"refiner.package={package.folder}"]
        settings += ["reward.model=success", "iteration.episodes=3", "monitors.enabled=false"]
        names = ("frames", "episodes", "weights", "health")
        settings += [f"listen.{name}=tcp://127.0.0.1:0" for name in names]
        self._config = load_config(None, settings)

    def serve(self, *seqs: int, until: int) -> None:
        """From its start until that iteration, with these episodes stored meanwhile."""
        daemon = Daemon(self.root, self._config)
        thread = threading.Thread(target=daemon.run)
        thread.start()
        try:
            store_some(daemon.store, *seqs)
            wait(f"iteration {until}", lambda: until in self.of("iteration", "iteration"), 60.0)
        finally:
            daemon.stop()
            thread.join()
            daemon._lock.release()  # as its process's end would

    def of(self, kind: str, *names: str) -> list:
        """These fields of all metrics of a kind, or the only one."""
        found = [r for r in read_metrics(self.root / "metrics.jsonl") if r["kind"] == kind]
        rows = [[record[name] for name in names] for record in found]
        return [row[0] for row in rows] if len(names) == 1 else rows


@pytest.mark.parametrize("left", [0, 2])
def test_what_comes_after_the_store_was_lost_is_learned_from(
    tmp_path: Path, monkeypatch, capsys, left: int
) -> None:
    """It was numbered from the store's end, and taken for what was used long ago until it had caught up."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    store_some(Store(trainer.root / "store"), *range(left))  # an old copy
    trainer.serve(10, 11, 12, until=4)
    assert trainer.of("episode", "arrival", "episode_seq") == [[501, 10], [502, 11], [503, 12]]
    assert trainer.of("store_behind", "last", "used") == [[left - 1, 500]]
    told = capsys.readouterr().err
    assert f"up to number 500, but {trainer.root / 'store'} ends at {left - 1}:" in told
    trainer.serve(13, 14, 15, until=5)
    assert trainer.of("episode", "arrival")[3:] == [504, 505, 506]
    assert len(trainer.of("store_behind", "used")) == 1 and not capsys.readouterr().err


@pytest.mark.parametrize("entered", [False, True])
def test_a_log_that_its_index_lacks_is_no_used_one(
    tmp_path: Path, monkeypatch, entered: bool
) -> None:
    """Of a store whose index alone was lost, or which ended between a log's name and its line."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    store = trainer.root / "store"
    store_some(Store(store), *range(10, 10 + entered))
    store_some(Store(tmp_path / "aside"), 11)
    (log,) = (tmp_path / "aside" / "logs").iterdir()
    log.rename(store / "logs" / log.name)
    trainer.serve(12, 13, until=4)
    assert trainer.of("episode", "arrival", "episode_seq") == [[501, 11], [502, 12], [503, 13]]


def test_what_was_stored_before_a_start_is_told_once(tmp_path: Path, monkeypatch) -> None:
    """It was told again at every start, all that there ever was, as of that moment; what a kill came before
    is told at the next."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer, path = Trainer(tmp_path), tmp_path / "trainer" / "metrics.jsonl"
    trainer.serve(1, 2, 3, until=4)
    trainer.serve(4, 5, 6, until=5)
    assert [key[-1] for key in trainer.of("stored", "key")] == list("123456")
    told = path.read_bytes().splitlines(keepends=True)
    lost = [line for line in told if b'"stored"' in line and b"s1__00000006" in line]
    path.write_bytes(b"".join(line for line in told if line not in lost))
    trainer.serve(7, 8, 9, until=6)
    assert len(lost) == 1 and [key[-1] for key in trainer.of("stored", "key")] == list("123456789")
