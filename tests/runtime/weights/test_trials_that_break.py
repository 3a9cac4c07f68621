"""What breaks a trial from outside ends neither the places for releases nor the link."""

from __future__ import annotations

import errno
import time

import msgspec
import numpy as np
import pytest
from swap_robot import Robot, committed, nudged, package, release, robot, trainer

from contracts.messages import ReleaseOutcome, ReleaseQuery
from runtime.weights.slots import SLOTS
from runtime.weights.swap_replay import ActiveHead
from trainer.publisher import Publisher

__all__ = ["package", "robot", "trainer"]


def test_an_engine_that_raises_what_is_its_own_keeps_no_place(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def standby(_weights: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(robot.swapper.engine, "standby", standby)
    rounds = len(SLOTS) + 2
    for number in range(rounds):
        robot.fetch(*release(trainer, nudged(robot.package, 0.1 * (number + 1))))
        (outcome,) = robot.swapper.swap(number)
        assert outcome.outcome == "rejected" and outcome.publish_seq == number + 1
        assert outcome.reason == "RuntimeError: CUDA failure 2: out of memory"
    assert {slot.state for slot in robot.swapper.slots.state().slots.values()} == {"quarantined"}
    monkeypatch.undo()
    robot.fetch(*release(trainer, nudged(robot.package, 0.05)))
    assert [outcome.outcome for outcome in robot.swapper.swap(rounds)] == ["swapped"]


@pytest.mark.parametrize("state", ["committed", "probation"])
def test_an_engine_that_raises_what_is_its_own_while_it_loads_leaves_the_packages_weights(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    robot.swapper.swap(0)
    if state == "committed":
        committed(robot.swapper)
    again = Robot(robot.folder, robot.package)
    before = again.answer()

    def standby(_weights: object) -> None:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(again.swapper.engine, "standby", standby)
    why = "release 1 can't be loaded: RuntimeError: CUDA failure 2: out of memory"
    if state == "committed":
        assert f"policy: {why}" in again.swapper.start()
    else:  # as it is found between two episodes
        assert why in [one.reason for one in again.swapper.follow(1)]
    assert again.swapper.version == 0 and np.array_equal(again.answer(), before)


@pytest.mark.parametrize("ahead", [False, True])
def test_a_disk_that_is_full_as_a_trial_passes_keeps_no_place_and_no_engine(
    robot: Robot, trainer: Publisher, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    closed: list[int] = []
    checked = robot.swapper._checked

    def watched(*what: object, **how: object) -> ActiveHead:
        head = checked(*what, **how)  # type: ignore[arg-type]
        monkeypatch.setattr(head.engine, "close", lambda: closed.append(head.version))
        return head

    def full(*_what: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(robot.swapper, "_checked", watched)
    slots = robot.swapper.slots
    rounds = len(SLOTS) + 2
    with monkeypatch.context() as patch:
        patch.setattr(slots, "begin_probation", full)
        for number in range(1, rounds):
            robot.fetch(*release(trainer, nudged(robot.package, 0.1 * number)))
            for _ in range(2):
                if ahead:
                    robot.swapper.look_ahead()
                (told,) = robot.swapper.swap(number)
                assert (told.outcome, told.publish_seq) == ("rejected", number)
                assert "No space left" in told.reason and robot.swapper.tried == 0
            assert closed == [seq for seq in range(1, number + 1) for _ in range(2)]
    assert [told.outcome for told in robot.swapper.swap(rounds)] == ["swapped"]
    found = slots.state().by_seq(rounds - 1)
    assert found is not None and (found[1].state, found[1].attempts) == ("probation", 1)
    assert robot.swapper.version == rounds - 1
    assert not slots.find("shadow", "staged")


def test_a_release_without_a_place_is_refused_and_asked_for_again_later(
    robot: Robot, trainer: Publisher
) -> None:
    slots = robot.swapper.slots
    for number in range(len(SLOTS)):
        robot.fetch(*release(trainer, nudged(robot.package, 0.1 * (number + 1))))
        staged = slots.find("staged")
        assert staged is not None
        slots.begin_shadow(staged[0])
    offer, data = release(trainer, nudged(robot.package, 0.05))
    now_s, asked = time.monotonic(), len(robot.said(ReleaseQuery))
    for _ in range(3):
        robot.fetch(offer, data)
    robot.fetcher.tick(now_s)
    assert len(robot.said(ReleaseQuery)) == asked, "it backs off"
    (told,) = robot.said(ReleaseOutcome)
    assert told.outcome == "rejected" and "no free slot" in told.reason
    assert robot.fetcher.reasons == {"slots": 1}
    slots.recover()
    robot.fetch(offer, data)
    assert robot.staged[-1] == len(SLOTS) + 1


def test_a_refusal_that_the_disk_did_not_take_is_told_and_counted_when_it_does(
    robot: Robot, trainer: Publisher
) -> None:
    """It was taken for told, and counted with every try."""
    fetcher, report = robot.fetcher, robot.fetcher._report

    def full(_outcome: ReleaseOutcome) -> None:
        raise OSError("no room")

    offer, data = release(trainer, nudged(robot.package))
    wrong = msgspec.structs.replace(offer, signature=bytes(64))
    fetcher._report = full
    for _ in range(3):
        with pytest.raises(OSError, match="no room"):
            fetcher.on_offer(wrong)
    asked = len(robot.said(ReleaseQuery))
    fetcher.tick(time.monotonic())
    assert len(robot.said(ReleaseQuery)) == asked, "it backs off"
    assert (fetcher.rejected, fetcher.reasons) == (0, {})
    fetcher._report = report
    for _ in range(3):
        fetcher.on_offer(wrong)
    (told,) = robot.said(ReleaseOutcome)
    assert told.outcome == "rejected" and "signature" in told.reason
    assert (fetcher.rejected, fetcher.reasons) == (1, {"signature": 1})
    robot.fetch(offer, data)
    assert robot.staged == [1]
