"""What a trainer releases that was released before: after its newest was removed, and once it has expired."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import msgspec
import pytest
from daemon_bench import PLUGIN, wait
from lied import Lied
from tiny_package import make_package

from contracts.messages import ReleaseNone, ReleaseQuery
from contracts.release import ReleaseManifest
from trainer import work as work_module
from trainer.config import load_config
from trainer.interfaces import Update
from trainer.live_frames import LiveFrames
from trainer.metrics import Metrics, read_metrics
from trainer.monitors.records import Pause
from trainer.store import Store
from trainer.work import Work
from trainer.work_state import WorkState
from trainer.worker import Worker


@pytest.fixture
def tiny(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))


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


@pytest.mark.usefixtures("tiny")
def test_an_update_that_fails_after_the_newest_release_was_removed_takes_none_back_to_the_base(
    tmp_path: Path,
) -> None:
    run = Lied(tmp_path, "monitors.enabled=false", "refiner.options={fail_at: 3}")
    run.stored(9)
    work = run.work()
    for entry in run.store.entries[:6]:
        work.take(entry)
    shutil.rmtree(run.root / "releases" / "policy" / "00000002")
    work = run.work()
    for entry in run.store.entries:
        work.take(entry)
    assert work.publisher is not None and work.publisher.newest_seq == 3
    assert "told to fail" in run.told("iteration")[-1]["refiner_failure"]
    assert work.publisher.load_weights(3) == work.publisher.load_weights(1), "what is still here"


class Late(Lied):
    """After one iteration of a trainer whose robots come `days` later."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *settings: str) -> None:
        super().__init__(folder, *settings)
        monkeypatch.setattr(work_module, "RENEW_S", 0.0)
        self.days = 0.0
        self.stored(3)
        self.trainer = self.started()
        for entry in self.store.entries:
            self.trainer.take(entry)

    def started(self) -> Work:
        work = self.work()
        assert work.publisher is not None
        work.publisher._unix_clock = lambda: time.time() + self.days * 86400
        return work

    def offered_to_one_that_comes(self) -> ReleaseManifest | None:
        publisher = self.trainer.publisher
        assert publisher is not None
        query = ReleaseQuery("spare", "policy", self.package.package_id, 0)
        answer = publisher.answer_query(query, self.trainer.iteration)
        if isinstance(answer, ReleaseNone):
            return None
        return msgspec.json.decode(answer.manifest, type=ReleaseManifest)


@pytest.mark.usefixtures("tiny")
def test_what_has_expired_is_released_anew_for_who_comes_late(tmp_path: Path, monkeypatch) -> None:
    run = Late(tmp_path, monkeypatch, "monitors.audit.share=0.001")
    work = run.trainer
    work.renew()
    first = run.offered_to_one_that_comes()
    assert first is not None and first.publish_seq == 1
    run.days = 8
    assert run.offered_to_one_that_comes() is None, "no robot takes it any more"
    run.records.pause(Pause("drift", "a lamp", 100, 0.0))
    work.look(now=True)
    work.renew()
    assert run.offered_to_one_that_comes() is None, "its reward is in doubt"
    run.records.resume("")
    work.look(now=True)
    for _ in range(2):
        work.renew()
    anew = run.offered_to_one_that_comes()
    assert anew is not None and (anew.publish_seq, anew.parent, anew.iteration) == (2, 1, 1)
    assert anew.expires_unix_s > time.time() + 14 * 86400
    # By its contents a robot that took it back knows it.
    assert (anew.weights_id, anew.answers) == (first.weights_id, first.answers)
    assert [(r["parent"], r["publish_seq"]) for r in run.told("renewed")] == [(1, 2)]

    run.trainer = work = run.started()
    assert run.offered_to_one_that_comes() == anew
    run.stored(3, begin=3)
    for entry in run.store.entries:
        work.take(entry)
    done = [(r["publish_seq"], r["metrics"]["seen"]) for r in run.told("iteration")]
    assert done == [(1, 3.0), (3, 6.0)], "the refiner knows of nothing"


@pytest.mark.usefixtures("tiny")
def test_a_worker_that_has_nothing_to_do_sees_to_it(tmp_path: Path, monkeypatch) -> None:
    run, stopping = Late(tmp_path, monkeypatch, "monitors.enabled=false"), threading.Event()
    metrics = Metrics(run.root / "metrics.jsonl")
    worker = Worker(
        *(load_config(None, []), run.store, metrics, run.trainer, LiveFrames(False), stopping)
    )
    run.days = 8
    worker.start()
    try:
        assert wait("a release", run.offered_to_one_that_comes).publish_seq == 2
    finally:
        stopping.set()
        worker.join(60)


@pytest.mark.usefixtures("tiny")
def test_a_release_that_is_damaged_is_not_signed_anew(tmp_path: Path, monkeypatch) -> None:
    run = Late(tmp_path, monkeypatch, "monitors.enabled=false")
    weights = run.root / "releases" / "policy" / "00000001" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    run.days = 8
    run.trainer.renew()
    assert run.offered_to_one_that_comes() is None and run.trainer.state.published_seq == 1
    (told,) = run.told("renewal_failed")
    assert "damaged" in told["problem"]
