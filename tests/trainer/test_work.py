"""What a trainer goes on from when a person has removed some of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from daemon_bench import PLUGIN
from tiny_package import make_package

from trainer.config import load_config
from trainer.interfaces import Update
from trainer.metrics import Metrics, read_metrics
from trainer.store import Store
from trainer.work import Work, WorkState


def test_a_release_that_a_person_removed_keeps_its_number(tmp_path: Path, monkeypatch) -> None:
    """As a person may whose trainer's key is another than the one that signed it."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    package, root, offers = make_package(tmp_path / "policy"), tmp_path / "trainer", []
    settings = ("refiner.kind=tiny", f"refiner.package={package.folder}", "reward.model=success")
    config = load_config(None, list(settings))
    (root / "state").mkdir(parents=True)
    state = WorkState(iteration=3, published_seq=3)
    (root / "state" / "state.json").write_bytes(msgspec.json.encode(state))
    metrics = Metrics(root / "metrics.jsonl")
    work = Work(root, config, Store(root / "store"), metrics, lambda *given: offers.append(given))
    assert offers == [] and work.publisher is not None
    assert [
        r["publish_seq"]
        for r in read_metrics(root / "metrics.jsonl")
        if r["kind"] == "release_gone"
    ] == [3]
    update = Update(package.refinable_weights(), 1, {})
    assert work.publisher.prepare(update, 4).publish_seq == 4
