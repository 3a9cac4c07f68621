"""What a refiner says beside its tensors: it is written, and must be read again."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from daemon_bench import PLUGIN
from tiny_package import make_package
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.episode_log import EpisodeLogWriter
from trainer.config import load_config
from trainer.interfaces import EpisodeKey, ScoredEpisode, Update
from trainer.keeper import keep
from trainer.metrics import Metrics, read_metrics
from trainer.store import Store
from trainer.work import Work


class Trainer:
    """Six episodes, three an iteration, and a refiner whose first update says `changes`."""

    def __init__(self, folder: Path) -> None:
        self.root, package = folder / "trainer", make_package(folder / "policy")
        chosen = ("refiner.kind=tiny", f"refiner.package={package.folder}", "iteration.episodes=3")
        more = ("reward.model=constant", "monitors.enabled=false")
        self._config = load_config(None, [*chosen, *more])
        self._store = Store(self.root / "store")
        for seq in range(6):
            log = EpisodeLogWriter(self._store.root / "inbox" / f"{seq}")
            for parts in (wire.pack(session_start()), *episode(seq)):
                log.append(parts)
            done = log.finish()
            assert keep(self._store, EpisodeKey("bench-0", "s1", seq), done.path, done.sha256)

    def start(self) -> Work:
        metrics = Metrics(self.root / "metrics.jsonl")
        return Work(self.root, self._config, self._store, metrics, lambda *_: None)

    def run(self, changes: dict[str, Any]) -> Work:
        work = self.start()
        refiner: Any = work.refiner
        honest = refiner.update

        def update(episodes: list[ScoredEpisode], iteration: int) -> Update:
            said: Update = honest(episodes, iteration)
            return dataclasses.replace(said, **changes) if iteration == 1 else said

        refiner.update = update
        for entry in self._store.entries:
            work.take(entry)
        return work

    @property
    def failures(self) -> list[str]:
        found = read_metrics(self.root / "metrics.jsonl")
        return [r["refiner_failure"] for r in found if r["kind"] == "iteration"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"threshold": math.nan}}, "'threshold' is nan"),
        ({"settings": {"threshold": np.float32(math.inf)}}, "'threshold' is inf"),
        ({"samples": -1}, "samples is -1"),
        ({"samples": 3.5}, "TypeError"),
        ({"metrics": {"loss": "low"}}, "ValueError"),
        ({"settings": None}, "AttributeError"),
    ],
)
def test_what_could_not_be_written_or_read_again_is_the_updates_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    """A setting that is no number was signed and published, and no start could read the release again; a
    number of another library ended the trainer at the same iteration for ever."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    assert trainer.run(changes).iteration == 2
    first, second = trainer.failures
    assert said in first and second == ""
    assert trainer.start().iteration == 2


def test_numbers_of_another_library_are_released_as_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    trainer = Trainer(tmp_path)
    settings = {"threshold": np.float32(0.5), "many": np.int64(7)}
    changes = {"settings": settings, "samples": np.int64(4), "metrics": {"loss": np.float64(0.25)}}
    work = trainer.run(changes)
    assert trainer.failures == ["", ""] and work.publisher is not None
    again = trainer.start().publisher
    assert again is not None and again.newest_seq == 2
    assert again.commit(1) and again.newest is not None
    assert (again.newest.samples, again.newest.settings) == (4, {"threshold": 0.5, "many": 7.0})
