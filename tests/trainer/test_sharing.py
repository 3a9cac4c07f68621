"""One trainer, many robots: credit in turn, bounded; and a disk without room, said and not worked around."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest

from contracts import wire
from contracts.messages import EpisodeChunk, EpisodeOffer, EpisodeStored, EpisodeWait, EpisodeWant
from contracts.pace import LEAST_BYTES
from tests.faults.ends import SmallDisk
from trainer import receiver as receiver_module
from trainer.config import StoreSection
from trainer.disk import DiskBudget
from trainer.interfaces import EpisodeKey
from trainer.keeper import keep
from trainer.metrics import Metrics, read_metrics
from trainer.receiver import Receiver
from trainer.store import Store

MIB = 1 << 20


class Hall:
    """A receiver, and robots that answer each want in the order in which they were sent. `pace`: seconds that
    a chunk of that robot takes, one after the other; `dead` ones never answer."""

    def __init__(self, tmp_path: Path, **given: object) -> None:
        self.now = 0.0
        self.sent: deque[tuple[str, object]] = deque()
        self.bytes: Counter[str] = Counter()
        self.most_in_flight = 0
        self.stored: dict[EpisodeKey, str] = {}
        self.dead: set[str] = set()
        self.pace: dict[str, float] = {}
        self._ready: dict[str, float] = {}
        self.receiver = Receiver(
            tmp_path / "inbox",
            self.stored.get,
            self._keep,
            lambda peer, answer: self.sent.append((peer.decode(), answer)),
            1 << 40,
            clock=lambda: self.now,
            **given,  # type: ignore[arg-type]
        )

    def _keep(self, key: EpisodeKey, partial: Path, sha256: str) -> None:
        partial.unlink()
        self.stored[key] = sha256
        self.receiver.kept(key, sha256)

    def offer(self, robot: str, seq: int, nbytes: int = 4 * MIB) -> None:
        self.receiver.on_offer(robot.encode(), EpisodeOffer(robot, "s", seq, nbytes, "0" * 64))

    def serve(self, turns: int) -> None:
        """Answer that many wants, the first that is due first."""
        for _ in range(turns):
            if not self.sent:
                return
            robot, want = self.sent.popleft()
            if not isinstance(want, EpisodeWant) or robot in self.dead:
                continue
            due = max(self.now, self._ready.get(robot, 0.0)) + self.pace.get(robot, 0.0)
            if due > self.now and any(self.pace.get(r, 0.0) == 0.0 for r, _ in self.sent):
                self.sent.append((robot, want))
                self.now += 0.001
                continue
            self.now = self._ready[robot] = due
            chunk = EpisodeChunk(robot, "s", want.episode_seq, want.offset)
            packet = wire.unpack(
                wire.pack(chunk, [wire.raw("data", np.zeros(want.length, np.uint8))])
            )
            self.bytes[robot] += want.length
            self.most_in_flight = max(self.most_in_flight, self.receiver.in_flight_bytes)
            self.receiver.on_chunk(chunk, packet)


def test_a_robot_that_offers_much_gets_no_more_than_one_that_offers_little(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(receiver_module, "IN_FLIGHT_BYTES", MIB)
    hall = Hall(tmp_path)
    for seq in range(50):
        hall.offer("greedy", seq, 40 * MIB)
    for robot in ("a", "b", "c"):
        hall.offer(robot, 0)
    hall.serve(10_000)
    modest = [hall.bytes[robot] for robot in ("a", "b", "c")]
    assert modest == [4 * MIB] * 3, "all they had, though the greedy one was first"
    assert {key.robot_id for key in list(hall.stored)[:3]} == {"a", "b", "c"}, "and before it"
    assert hall.most_in_flight <= MIB + receiver_module.CHUNK_BYTES
    assert sum(isinstance(answer, EpisodeWait) for _, answer in hall.sent) == 0


def test_of_one_robot_one_episode_is_under_way_and_the_next_is_told_to_wait(
    tmp_path: Path,
) -> None:
    hall = Hall(tmp_path)
    for seq in range(3):
        hall.offer("a", seq)
    waits = [answer for _, answer in hall.sent if isinstance(answer, EpisodeWait)]
    assert [wait.episode_seq for wait in waits] == [1, 2] and "episode 0 of" in waits[0].reason
    hall.sent.clear()
    hall.now += 10.0
    hall.offer("a", 1)
    assert [answer.episode_seq for _, answer in hall.sent] == [1] * 4, (
        "the first is offered no more"
    )


def test_credit_of_one_that_fell_silent_goes_to_the_others(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(receiver_module, "IN_FLIGHT_BYTES", 256 * 1024)
    hall = Hall(tmp_path)
    hall.dead.add("dead")
    hall.offer("dead", 0)
    hall.offer("a", 0)
    hall.serve(1000)
    assert not hall.stored, "all credit lies with the dead one"
    hall.now += 1.0
    hall.receiver.tick()
    hall.serve(1000)
    assert [key.robot_id for key in hall.stored] == ["a"]
    hall.dead.clear()
    hall.offer("dead", 0)
    hall.serve(1000)
    assert len(hall.stored) == 2, "it goes on where it was"


def test_a_slow_wire_is_asked_for_little_at_a_time_and_a_quick_one_for_much(tmp_path: Path) -> None:
    hall = Hall(tmp_path)
    hall.pace["slow"] = 0.6
    hall.offer("slow", 0, MIB)
    hall.offer("quick", 0, 32 * MIB)
    lengths: dict[str, list[int]] = {"slow": [], "quick": []}
    for _ in range(3000):
        for robot, want in list(hall.sent)[:1]:
            if isinstance(want, EpisodeWant):
                lengths[robot].append(want.length)
        hall.serve(1)
        hall.offer("slow", 0, MIB)  # as a link does every second
    assert max(lengths["quick"]) == receiver_module.CHUNK_BYTES
    assert min(lengths["slow"]) == LEAST_BYTES
    assert {key.robot_id for key in hall.stored} == {"slow", "quick"}


def test_without_room_nothing_is_asked_for_and_what_is_stored_is_still_acknowledged(
    tmp_path: Path,
) -> None:
    full = [""]
    hall = Hall(tmp_path, room=lambda nbytes: full[0])
    hall.offer("a", 0)
    hall.serve(1000)
    full[0] = "the disk is full"
    hall.offer("a", 1)
    hall.offer("a", 0)
    assert [answer for _, answer in hall.sent] == [
        EpisodeWait("s", 1, "the disk is full"),
        EpisodeStored("s", 0, "0" * 64),
    ]


def test_the_budget_counts_what_was_promised_and_says_so_once(tmp_path: Path, capsys) -> None:
    used, now = [0], [0.0]
    metrics = Metrics(tmp_path / "metrics.jsonl")
    section = StoreSection(max_mib=10, min_free_mib=0)
    budget = DiskBudget(tmp_path, section, lambda: used[0], metrics, clock=lambda: now[0])
    assert budget.room(10 * MIB) == ""
    used[0], now[0] = 8 * MIB, 2.0
    assert [bool(budget.room(n * MIB)) for n in (2, 3, 3, 2)] == [False, True, True, False]
    told = [r["full"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert told == [True, False] and "episodes wait on the robots" in capsys.readouterr().err


@pytest.fixture
def disk(tmp_path: Path):
    small = SmallDisk(tmp_path / "disk", 4)
    if not small.usable:
        pytest.skip(f"this user may not mount a small disk: {small.why}")
    yield small
    small.unmount()


def test_a_disk_that_fills_while_storing_costs_nothing_but_time(disk: SmallDisk) -> None:
    """Logs are linked in, so that the index is what grows: some line does not fit in whole."""
    store = Store(disk.folder / "store")
    log = disk.folder / "log"
    log.write_bytes(b"not a log, and stored all the same")
    sha256 = hashlib.sha256(log.read_bytes()).hexdigest()

    def take(seq: int) -> None:
        partial = disk.folder / "store" / "inbox" / str(seq)
        partial.parent.mkdir(exist_ok=True)
        partial.unlink(missing_ok=True)
        os.link(log, partial)
        assert keep(store, EpisodeKey("r", "s", seq), partial, sha256)

    take(0)
    disk.fill()
    with pytest.raises(OSError, match="did not take a line"):
        for failed in range(1, 100):
            take(failed)
    index = (store.root / "index.jsonl").read_bytes()
    assert index.endswith(b"\n") and index.count(b"\n") == failed > 1, "no half a line"
    assert not store.have(EpisodeKey("r", "s", failed))
    disk.free()
    take(failed)
    again = Store(store.root)
    assert [entry.episode_seq for entry in again.entries] == list(range(failed + 1))
    assert again.sha256_of(EpisodeKey("r", "s", failed)) == sha256
