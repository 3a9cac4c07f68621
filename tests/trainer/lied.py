"""A trainer without its sockets, whose reward says what it likes."""

from __future__ import annotations

from pathlib import Path

from tiny_package import make_package
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.episode_log import EpisodeLogWriter
from trainer.config import load_config
from trainer.interfaces import EpisodeKey
from trainer.keeper import keep
from trainer.metrics import Metrics, read_metrics
from trainer.monitors.records import Pause, Records
from trainer.store import Store
from trainer.work import Work


class Lied:
    """A run folder whose reward calls every episode a success, and episodes that people call failures."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.root, self.package = folder / "trainer", make_package(folder / "policy")
        self.store, self.records = Store(self.root / "store"), Records(self.root)
        self.settings = ("reward.model=constant", "iteration.episodes=3", *settings)
        self.pause_at = self.stop_at = 0
        self.stopping = False

    def work(self) -> Work:
        chosen = ("refiner.kind=tiny", f"refiner.package={self.package.folder}", *self.settings)
        metrics = Metrics(self.root / "metrics.jsonl")
        config = load_config(None, list(chosen))
        return Work(*(self.root, config, self.store, metrics, self.offered), lambda: self.stopping)

    def offered(self, publish_seq: int, *_) -> None:
        """Between two iterations, as another process might."""
        if publish_seq == self.pause_at:
            self.records.pause(Pause("drift", "while it went on", 100, 0.0))
        self.stopping = self.stopping or publish_seq == self.stop_at

    def stored(self, count: int, begin: int = 0, robot_id: str = "bench-0", **given) -> None:
        for seq in range(begin, begin + count):
            log = EpisodeLogWriter(self.store.root / "inbox" / f"{robot_id}-{seq}")
            log.append(wire.pack(session_start(robot_id=robot_id)))
            for parts in episode(seq, robot_id=robot_id, **given):
                log.append(parts)
            done = log.finish()
            assert keep(self.store, EpisodeKey(robot_id, "s1", seq), done.path, done.sha256)

    def told(self, kind: str) -> list[dict]:
        return [r for r in read_metrics(self.root / "metrics.jsonl") if r["kind"] == kind]
