"""Outcomes that robots tell, and offers while the key or the release is being changed."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tiny_package import make_package

from contracts import wire
from contracts.errors import ConfigError, WireError
from contracts.files.packages import Package
from contracts.key_rotation import public_key
from contracts.messages import ReleaseNone, ReleaseOffer, ReleaseOutcome, ReleaseQuery, ReleaseWant
from trainer.encoder import EncodingOptions
from trainer.interfaces import Update
from trainer.keeper import caught
from trainer.metrics import Metrics, read_metrics
from trainer.publisher import KEY_FILE, Publisher
from trainer.release_desk import MAX_TEXT, OUTCOMES, ReleaseDesk
from trainer.signing import SigningKey


def outcome(number: int, robot_id: str = "r", reason: str = "worse") -> ReleaseOutcome:
    return ReleaseOutcome(
        robot_id, "policy", 1, "rolled_back", reason, -1, 9, 0.1, 0.2, 0.3, f"s1.{number}"
    )


class Desk:
    """A desk whose disk is asked when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.path, self.now_s = folder / "metrics.jsonl", 0.0
        self.tasks: list[tuple[Callable[[], None], Callable]] = []
        self.told: list[tuple[bytes, str]] = []
        self.open()

    def open(self) -> None:
        self.metrics = Metrics(self.path)
        self.desk = ReleaseDesk(
            self.path,
            self.metrics,
            lambda peer, parts: self.told.append((peer, wire.unpack(parts).message.report_id)),
            aside=lambda task, then: self.tasks.append((task, then)),
            clock=lambda: self.now_s,
        )

    def sync(self) -> None:
        task, then = self.tasks.pop(0)
        then(caught(task))

    @property
    def written(self) -> list[str]:
        found = read_metrics(self.path)
        return [record["report_id"] for record in found if record["kind"] == "release"]


@pytest.mark.parametrize("away_s", [0.0, 40.0])
def test_the_time_that_a_robot_was_away_is_part_of_what_its_release_took(
    tmp_path: Path, away_s: float
) -> None:
    """The first offer goes to a connection that nobody hears any more."""
    now = [100.0]
    path = tmp_path / "metrics.jsonl"
    desk = ReleaseDesk(path, Metrics(path), lambda peer, parts: None, clock=lambda: now[0])
    offer, newest = ReleaseOffer("policy", b"{}", b""), [0]
    publisher = SimpleNamespace(
        is_asked=lambda query: True,
        outrun_by=lambda query: None,
        answer_query=lambda query, *_: offer if newest[0] else ReleaseNone("policy", 1),
        answer_want=lambda want: [],
    )
    work = SimpleNamespace(iteration=1, note="", publisher_of=lambda target: publisher)
    query = ReleaseQuery("r", "policy", "p", 0)
    publisher.newest_seq = 1
    desk.on_query(b"first", query, work)
    newest[0] = 1
    desk.published(1, offer)
    desk.send_offers()
    now[0] += away_s
    desk.on_query(b"second", query, work)
    desk.on_want(b"second", ReleaseWant("r", "policy", 1, 0, 10), work)
    now[0] += 3.0
    desk.on_query(b"third", query, work)  # it fell silent meanwhile, and goes on
    desk.on_outcome(b"third", outcome(1))
    (told,) = [record for record in read_metrics(path) if record["kind"] == "release"]
    assert told["publish_to_offer_s"] == pytest.approx(away_s)
    assert told["publish_to_staged_s"] == pytest.approx(away_s + 0.2)


def test_outcomes_are_synced_beside_the_thread_that_hears_them_and_then_acknowledged(
    tmp_path: Path,
) -> None:
    bench = Desk(tmp_path)
    for number in range(4):
        bench.desk.on_outcome(b"p", outcome(number))
    assert bench.told == [] and len(bench.tasks) == 1, "the disk is asked once at a time"
    bench.sync()
    assert bench.told == [(b"p", "s1.0")] and len(bench.tasks) == 1
    bench.desk.on_outcome(b"again", outcome(2))  # connected anew meanwhile
    bench.sync()
    assert bench.told[1:] == [(b"p", "s1.1"), (b"again", "s1.2"), (b"p", "s1.3")]
    bench.desk.on_outcome(b"p", outcome(1))
    assert bench.told[-1] == (b"p", "s1.1") and bench.tasks == [], "known: told at once"
    assert bench.written == [f"s1.{number}" for number in range(4)]
    bench.open()
    bench.desk.on_outcome(b"p", outcome(3))
    assert bench.told[-1] == (b"p", "s1.3") and len(bench.written) == 4


def test_a_start_holds_of_what_was_written_before_no_more_than_it_needs(tmp_path: Path) -> None:
    """After months the file is large; it was held whole, and as records, at every start."""
    bench = Desk(tmp_path)
    bench.metrics.add("iteration", iteration=3)
    bench.desk.on_outcome(b"p", outcome(1))
    with bench.path.open("ab") as file:
        for _ in range(4000):
            file.write(b'{"kind": "episode", "unix_s": 1.0, "failure": "%s"}\n' % (b"x" * 1000))
        file.write(b'{"kind": "iterat')
    tracemalloc.start()
    try:
        bench.open()
        bench.metrics.add_missing_iteration(3, {"iteration": 3})
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 400_000 < bench.path.stat().st_size / 10
    bench.metrics.add_missing_iteration(4, {"iteration": 4})
    bench.desk.on_outcome(b"p", outcome(1))
    assert bench.told == [(b"p", "s1.1")] and bench.written == ["s1.1"]
    rows = [row["iteration"] for row in read_metrics(bench.path) if row["kind"] == "iteration"]
    assert rows == [3, 4], "what was cut off is passed over, and what follows it is not"


def test_an_outcome_that_the_disk_did_not_take_is_written_anew(tmp_path: Path, monkeypatch) -> None:
    bench = Desk(tmp_path)
    bench.desk.on_outcome(b"p", outcome(1))

    def fails() -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(bench.metrics, "sync", fails)
    bench.tasks[0] = (fails, bench.tasks[0][1])
    with pytest.raises(OSError, match="disk is full"):
        bench.sync()
    monkeypatch.undo()
    assert bench.told == []
    bench.desk.on_outcome(b"p", outcome(1))
    bench.sync()
    assert bench.told == [(b"p", "s1.1")] and bench.written == ["s1.1"] * 2


def test_a_robot_can_fill_neither_the_disk_nor_the_others_time(tmp_path: Path) -> None:
    bench = Desk(tmp_path)
    taken = 0
    for number in range(1000):
        try:
            bench.desk.on_outcome(b"p", outcome(number, "bad", "x" * 200_000))
            taken += 1
        except WireError as error:
            assert "too fast" in str(error)
    assert 0 < taken < 10 * OUTCOMES.messages_per_s
    assert bench.path.stat().st_size < taken * (MAX_TEXT + 1000)
    bench.desk.on_outcome(b"q", outcome(1, "good"))
    bench.now_s = 10.0
    bench.desk.on_outcome(b"p", outcome(999, "bad"))
    assert bench.written[-2:] == ["s1.1", "s1.999"], "later it is heard again"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


def test_a_key_changed_while_the_next_release_is_offered_takes_none_back(
    tmp_path: Path, package: Package, monkeypatch
) -> None:
    """The thread that answers signs the newest anew, and is held up there while the other publishes."""
    releases = tmp_path / "releases"
    publisher = Publisher(releases, package.manifest, encodings=EncodingOptions(enabled=False))
    update = Update(package.refinable_weights(), 1, {})
    publisher.commit(publisher.prepare(update, 1).publish_seq)
    second = publisher.prepare(update, 2).publish_seq
    keys = SigningKey(releases)
    keys.rotate("t", 1.0)
    private, inside, go_on = publisher._key.private, threading.Event(), threading.Event()

    def held_up() -> Ed25519PrivateKey:
        if threading.current_thread().name == "answers":
            inside.set()
            assert go_on.wait(60)
        return private()

    monkeypatch.setattr(publisher._key, "private", held_up)
    query = ReleaseQuery("r", "policy", package.package_id, 0)
    answers = threading.Thread(target=publisher.answer_query, args=(query, 1), name="answers")
    publishes = threading.Thread(target=publisher.commit, args=(second,))
    answers.start()
    assert inside.wait(60)
    publishes.start()
    publishes.join(0.5)  # done by then, or waiting for its turn
    go_on.set()
    answers.join()
    publishes.join()
    offer = publisher.answer_query(query, 2)
    assert isinstance(offer, ReleaseOffer) and publisher.newest_seq == second
    assert publisher.newest is not None and publisher.newest.publish_seq == second
    public_key(keys.public).verify(offer.signature, offer.manifest)


def test_a_key_that_cannot_be_read_leaves_a_query_unanswered_and_nothing_else(
    tmp_path: Path, package: Package
) -> None:
    """What the daemon makes of it is `malformed`; the next query is answered."""
    releases = tmp_path / "releases"
    publisher = Publisher(releases, package.manifest, encodings=EncodingOptions(enabled=False))
    publisher.commit(publisher.prepare(Update(package.refinable_weights(), 1, {}), 1).publish_seq)
    query = ReleaseQuery("r", "policy", package.package_id, 0)
    key = tmp_path / KEY_FILE
    whole = key.read_bytes()
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match="not a signing key"):
        publisher.answer_query(query, 1)
    key.write_bytes(whole)
    assert isinstance(publisher.answer_query(query, 1), ReleaseOffer)


def test_a_new_release_goes_to_who_asked_for_that_target_of_that_package(
    tmp_path: Path, package: Package
) -> None:
    """Others refuse it: a report on their disk and a rejected release in our metrics, with every one."""
    publisher = Publisher(
        tmp_path / "releases", package.manifest, encodings=EncodingOptions(enabled=False)
    )
    work: Any = SimpleNamespace(
        publisher_of=lambda target: publisher if target == "policy" else None, iteration=0, note=""
    )
    sent: list[tuple[bytes, object]] = []
    desk = ReleaseDesk(
        tmp_path / "metrics.jsonl",
        Metrics(tmp_path / "metrics.jsonl"),
        lambda peer, parts: sent.append((peer, wire.unpack(parts).message)),
    )
    asked = [
        (b"both", "policy", package.package_id),
        (b"both", "reward", "0" * 16),
        (b"another", "policy", "0" * 16),
        (b"reward", "reward", package.package_id),
    ]
    for peer, target, package_id in asked:
        desk.on_query(peer, ReleaseQuery(peer.decode(), target, package_id, 0), work)
    sent.clear()
    seq = publisher.prepare(Update(package.refinable_weights(), 1, {}), 1).publish_seq
    desk.published(seq, publisher.commit(seq))
    desk.send_offers()
    assert [(peer, type(message)) for peer, message in sent] == [(b"both", ReleaseOffer)]
