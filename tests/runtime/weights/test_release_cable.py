"""Releases over a bad disk and a slow wire: each comes once, lies in one slot, and comes to its end."""

from __future__ import annotations

import errno
import heapq
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from test_release_encodings import Robot, package, publish, robot, trainer
from tiny_package import make_package

from contracts import wire
from contracts.errors import ReleaseRejected
from contracts.files import atomic
from contracts.files.packages import Package
from contracts.messages import ReleaseChunk, ReleaseNone, ReleaseOffer, ReleaseQuery, ReleaseWant
from contracts.release import ReleaseManifest
from runtime.link.releases import BACK_OFF_S, MAX_SILENCE_S
from runtime.weights.probation import Probation
from runtime.weights.slots import SlotStore
from trainer.encoder import EncodingOptions
from trainer.interfaces import Update
from trainer.publisher import Publisher

__all__ = ["package", "robot", "trainer"]
KEPT = ("verified", "staged", "shadow", "probation", "committed")


def kept(slots: SlotStore) -> list[tuple[str, int]]:
    found = (slot for slot in slots.state().slots.values() if slot.state in KEPT)
    return [(slot.state, slot.publish_seq) for slot in found]


@pytest.mark.parametrize("step", range(6))
def test_a_disk_that_fails_while_it_is_staged_leaves_it_in_one_slot(
    robot: Robot,
    trainer: Publisher,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """At each sync from the name of its file on. It is fetched once, and judged when it acts."""
    mark_verified, sync = robot.slots.mark_verified, atomic.sync
    syncs = 0

    def failing(path: Path) -> None:
        nonlocal syncs
        syncs += 1
        if syncs == step + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    def staging(*what: object) -> None:
        monkeypatch.setattr(atomic, "sync", failing)
        mark_verified(*what)

    monkeypatch.setattr(robot.slots, "mark_verified", staging)
    robot.talk(trainer)
    seq = publish(trainer, package, 0.01)
    for _ in range(3):
        robot.talk(trainer)
    assert syncs > step and robot.fetcher.reasons == {"disk": 1} and robot.outcomes == []
    assert kept(robot.slots) == [("staged", seq)]
    assert trainer.bytes_sent == robot.fetcher.bytes_fetched < 2 * len(robot.staged())
    name, _ = robot.slots.find("staged")
    robot.slots.begin_shadow(name)
    robot.slots.begin_probation(name)
    robot.slots.settle(seq, None, Probation(), "fault: it hit the table")
    state = robot.slots.state()
    assert state.in_force is None and state.by_seq(seq)[1].state == "rolled_back"


def test_a_link_that_remembers_too_little_does_not_fetch_what_a_slot_holds(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    """Something else has staged what waited, say; what was seen is what the disk says."""
    seq = publish(trainer, package, 0.01)
    robot.talk(trainer)
    robot.fetcher._newest_seq = 0
    sent = trainer.bytes_sent
    robot.talk(trainer)
    assert trainer.bytes_sent == sent and robot.outcomes == []
    assert kept(robot.slots) == [("staged", seq)]
    held: ReleaseManifest = robot.slots.find("staged")[1].manifest
    with pytest.raises(ReleaseRejected, match="does not increase"):
        robot.slots.begin_fetch(held, 0.0)


STEP_S = 0.002


@dataclass
class Wire:
    """Trainer and robot, and between them a wire that carries answers one after another at `mbit_s`."""

    robot: Robot
    trainer: Publisher
    mbit_s: float
    lose: int = -1
    """The how many-eth chunk is lost; -1: none."""
    queries: int = 0
    _free_s: float = 0.0
    _under_way: list[tuple[float, int, list[bytes]]] = field(default_factory=list)
    _sent: int = 0

    def until_staged(self, within_s: float) -> float:
        """Seconds until a release is staged; fails where it takes longer than `within_s`."""
        robot, begin_s = self.robot, self.robot.now_s
        while not (self.turn() and robot.slots.find("staged")):
            assert robot.now_s - begin_s < within_s, (
                f"{robot.fetcher.bytes_fetched} bytes after {within_s:.0f} s, {self.queries} queries"
            )
        return robot.now_s - begin_s

    def turn(self) -> bool:
        """Whether anything arrived."""
        robot = self.robot
        robot.now_s += STEP_S
        arrived = bool(self._under_way) and self._under_way[0][0] <= robot.now_s
        while self._under_way and self._under_way[0][0] <= robot.now_s:
            packet = wire.unpack(heapq.heappop(self._under_way)[2])
            if isinstance(packet.message, ReleaseOffer):
                robot.fetcher.on_offer(packet.message)
            elif isinstance(packet.message, ReleaseNone):
                robot.fetcher.on_none(packet.message)
            elif isinstance(packet.message, ReleaseChunk):
                robot.fetcher.on_chunk(packet.message, packet)
        robot.fetcher.tick(robot.now_s)
        while robot.sent:
            message = robot.sent.pop(0)
            if isinstance(message, ReleaseQuery):
                self.queries += 1
                self._answer(wire.pack(self.trainer.answer_query(message, 0)))
            elif isinstance(message, ReleaseWant):
                self.lose -= 1
                if self.lose != -1:
                    self._answer(self.trainer.answer_want(message))
        return arrived

    def _answer(self, parts: list[bytes | memoryview]) -> None:
        self._free_s = max(self._free_s, self.robot.now_s)
        self._free_s += sum(len(part) for part in parts) * 8 / (self.mbit_s * 1e6)
        self._sent += 1
        heapq.heappush(self._under_way, (self._free_s, self._sent, [bytes(p) for p in parts]))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Its refinable weights are some pieces long."""
    return make_package(tmp_path_factory.mktemp("large") / "policy", width=30_000)


def over(folder: Path, package: Package, mbit_s: float) -> Wire:
    releases = folder / "trainer" / "releases"
    plain = EncodingOptions(enabled=False)
    trainer = Publisher(releases, package.manifest, encodings=plain)
    (folder / "robot").mkdir()
    return Wire(Robot(folder / "robot", package), trainer, mbit_s)


def release(line: Wire) -> int:
    own = line.robot.package.refinable_weights()
    tensors = {name: tensor + np.float32(line.trainer.newest_seq) for name, tensor in own.items()}
    seq = line.trainer.prepare(Update(tensors, 1, {}), 1).publish_seq
    line.trainer.commit(seq)
    return seq


@pytest.mark.parametrize("mbit_s", [0.05, 0.3, 1.0, 4.0, 20.0, 1000.0])
def test_a_slow_wire_takes_the_time_that_its_bytes_take_and_each_byte_once(
    tmp_path: Path, large: Package, mbit_s: float
) -> None:
    line = over(tmp_path, large, mbit_s)
    release(line)
    nbytes = line.trainer.newest.nbytes
    took_s = line.until_staged(1.2 * nbytes * 8 / (mbit_s * 1e6) + 1.0)
    assert line.trainer.bytes_sent == line.robot.fetcher.bytes_fetched == nbytes
    assert line.queries <= 3 + took_s / MAX_SILENCE_S
    assert line.robot.outcomes == []


def test_what_comes_after_a_long_silence_is_taken_and_not_asked_for_again(
    tmp_path: Path, large: Package
) -> None:
    line = over(tmp_path, large, 4.0)
    release(line)
    while line.robot.fetcher.bytes_fetched == 0:
        line.turn()
    line._under_way = [(at_s + 9.0, number, parts) for at_s, number, parts in line._under_way]
    line._free_s += 9.0
    line.until_staged(30.0)
    assert line.trainer.bytes_sent == line.trainer.newest.nbytes
    assert 3 <= line.queries <= 6, "asked what is offered, less often each time"


@pytest.mark.parametrize("lose", [0, 1, 5])
def test_a_lost_chunk_is_asked_for_again(tmp_path: Path, large: Package, lose: int) -> None:
    line = over(tmp_path, large, 4.0)
    line.lose = lose
    release(line)
    line.until_staged(30.0)
    assert line.robot.fetcher.bytes_fetched == line.trainer.newest.nbytes


def test_one_that_is_served_no_more_gives_way_to_the_newest(tmp_path: Path, large: Package) -> None:
    line = over(tmp_path, large, 1.0)
    release(line)
    while line.robot.fetcher.bytes_fetched == 0:
        line.turn()
    line._under_way.clear()  # the connection broke
    release(line)
    seq = release(line)
    line.until_staged(30.0)
    assert kept(line.robot.slots) == [("staged", seq)]


def test_one_that_is_offered_no_more_is_not_waited_for(tmp_path: Path, large: Package) -> None:
    line = over(tmp_path, large, 4.0)
    release(line)
    while line.robot.fetcher.bytes_fetched == 0:
        line.turn()
    line._under_way.clear()
    offered, line.trainer._newest = line.trainer._newest, None
    begin_s, before = line.robot.now_s, line.queries
    while line.robot.now_s < begin_s + 2.0:
        line.turn()
    assert line.queries > before + 5, "it asks as often as one that fetches nothing"
    fetched = line.robot.fetcher.bytes_fetched
    line.trainer._newest = offered
    line.until_staged(30.0)
    assert line.robot.fetcher.bytes_fetched == line.trainer.newest.nbytes > fetched


def test_a_disk_that_takes_half_a_chunk_spoils_nothing(
    tmp_path: Path, large: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = over(tmp_path, large, 20.0)
    seq = release(line)
    while line.robot.fetcher.bytes_fetched == 0:
        line.turn()
    path = line.robot.fetcher._fetch.way.path
    data = (line.trainer.load_weights(seq))[: path.stat().st_size + 1000]

    def half(self: Path, *how: str) -> IO[bytes]:
        if self != path:
            return open(self, *how)
        with open(path, "wb") as file:
            file.write(data)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "open", half)
        with pytest.raises(OSError, match="No space"):
            while True:
                line.turn()
    line.until_staged(BACK_OFF_S + 10.0)
    assert line.robot.outcomes == [] and line.robot.staged() == line.trainer.load_weights(seq)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_release_whose_key_is_given_up_while_it_comes_is_not_staged(
    robot: Robot, trainer: Publisher, package: Package, spoilt: bool
) -> None:
    robot.fetcher._features = lambda: ()
    staged: list[int] = []
    robot.fetcher._on_staged = staged.append
    publish(trainer, package, 0.01)

    def given_up(want: ReleaseWant, data: bytes) -> bytes:
        robot.slots.quarantine_waiting("its key is given up")
        return bytes(len(data)) if spoilt else data

    robot.talk(trainer, given_up)
    assert staged == [] and kept(robot.slots) == [] and robot.outcomes == []
    seq = publish(trainer, package, 0.02)
    robot.talk(trainer)
    assert staged == [seq] and kept(robot.slots) == [("staged", seq)]
