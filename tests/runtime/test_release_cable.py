"""Releases over a bad disk and a slow wire: each comes once, lies in one slot, and comes to its end."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from test_release_encodings import Robot, package, publish, robot, trainer

from contracts.errors import ReleaseRejected
from contracts.files import atomic
from contracts.files.packages import Package
from contracts.release import ReleaseManifest
from runtime.probation import Probation
from runtime.slots import SlotStore
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
    verdict, _, slot = robot.slots.settle(seq, None, Probation(), "fault: it hit the table")
    assert verdict == "roll_back" and slot.state == "rolled_back"
    assert robot.slots.state().in_force is None


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
