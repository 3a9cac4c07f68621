"""A release made ready while the one before acts: taken at the boundary, and never felt before it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from swap_robot import Robot, nudged, package, release, robot, trainer
from tiny_package import head_inputs

from contracts.files.packages import Package
from runtime.weights.slots import SlotStore
from trainer.publisher import Publisher

__all__ = ["package", "robot", "trainer"]
PATIENCE_S = 30.0


def made_ready(robot: Robot) -> None:
    robot.swapper.look_ahead()
    assert robot.swapper._ahead is not None
    assert robot.swapper._ahead.done.wait(PATIENCE_S)


def state_of(slots: SlotStore, seq: int) -> str:
    return next(s.state for s in slots.state().slots.values() if s.publish_seq == seq)


def test_it_is_ready_before_the_boundary_and_acts_from_there(
    robot: Robot, trainer: Publisher
) -> None:
    before = robot.answer()
    robot.fetch(*release(trainer, nudged(robot.package)))
    made_ready(robot)
    assert robot.swapper.version == 0 and np.array_equal(robot.answer(), before)
    assert state_of(robot.swapper.slots, 1) == "shadow" and robot.swapper.tried == 0
    outcomes = robot.swapper.swap(episode_seq=4)
    assert [(o.outcome, o.publish_seq, o.episode_seq) for o in outcomes] == [("swapped", 1, 4)]
    assert np.allclose(robot.answer(), before + 0.5, atol=1e-5)
    assert state_of(robot.swapper.slots, 1) == "probation" and not robot.swapper.ready


def test_the_loops_own_inferences_are_right_all_the_while(robot: Robot, trainer: Publisher) -> None:
    inputs = [head_inputs(np.random.default_rng(seed)) for seed in range(20)]
    right = [robot.swapper.run(each)["chunks"].copy() for each in inputs]
    for each in inputs:
        robot.swapper.remember(each)
    robot.fetch(*release(trainer, nudged(robot.package)))
    wrong: list[int] = []
    stop = threading.Event()

    def infer() -> None:
        while not stop.is_set():
            for number, each in enumerate(inputs):
                if not np.array_equal(robot.swapper.run(each)["chunks"], right[number]):
                    wrong.append(number)

    thread = threading.Thread(target=infer)
    thread.start()
    made_ready(robot)
    stop.set()
    thread.join()
    assert wrong == [] and robot.swapper.swap(1)[0].outcome == "swapped"


def test_an_inference_starts_it_where_time_is_real(robot: Robot, trainer: Publisher) -> None:
    inputs = head_inputs(np.random.default_rng(0))
    robot.swapper.remember(inputs)
    robot.fetch(*release(trainer, nudged(robot.package)))
    robot.swapper.remember(inputs)
    assert robot.swapper._ahead is None, "nobody said that time is real"
    robot.swapper.newest_staged = lambda: max(robot.staged)
    robot.swapper.remember(inputs)
    assert robot.swapper._ahead is not None and robot.swapper._ahead.done.wait(PATIENCE_S)
    assert robot.swapper.ready and robot.swapper.swap(1)[0].outcome == "swapped"
    robot.swapper.remember(inputs)
    assert robot.swapper._ahead is None, "it is no news any more"


def test_what_does_not_pass_is_refused_at_the_boundary(robot: Robot, trainer: Publisher) -> None:
    before = robot.answer()
    robot.fetch(*release(trainer, nudged(robot.package, 1e4)))
    made_ready(robot)
    outcomes = robot.swapper.swap(1)
    assert [o.outcome for o in outcomes] == ["rejected"] and "too far" in outcomes[0].reason
    assert state_of(robot.swapper.slots, 1) == "quarantined"
    assert robot.swapper.version == 0 and np.array_equal(robot.answer(), before)
    assert robot.swapper.swap(2) == []


def test_after_a_roll_back_it_is_checked_anew(robot: Robot, trainer: Publisher) -> None:
    before = robot.answer()
    robot.fetch(*release(trainer, nudged(robot.package)))
    robot.swapper.swap(0)
    robot.fetch(*release(trainer, nudged(robot.package, 1.0)))
    made_ready(robot)
    outcome = robot.swapper.settle(fault="non-finite command")
    assert outcome is not None and outcome.outcome == "rolled_back" and robot.swapper.version == 0
    assert robot.swapper.swap(1)[0].publish_seq == 2
    assert np.allclose(robot.answer(), before + 1.0, atol=1e-5)


def test_a_newer_one_waits_for_the_next_boundary(robot: Robot, trainer: Publisher) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    made_ready(robot)
    robot.fetch(*release(trainer, nudged(robot.package, 1.0)))
    assert robot.swapper.swap(1)[0].publish_seq == 1
    assert robot.swapper.swap(2)[-1].publish_seq == 2


def test_an_orderly_end_leaves_it_staged_and_counts_nothing(
    robot: Robot, trainer: Publisher, package: Package, tmp_path: Path
) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    for _ in range(5):
        again = Robot(robot.folder, package)
        again.swapper.start()
        made_ready(again)
        assert state_of(again.swapper.slots, 1) == "shadow"
        again.swapper.slots.pause()
        again.swapper.close()
    last = Robot(robot.folder, package)
    last.swapper.start()
    assert last.swapper.swap(1)[0].outcome == "swapped"


def test_one_that_ends_the_process_is_not_tried_for_ever(
    robot: Robot, trainer: Publisher, package: Package
) -> None:
    robot.fetch(*release(trainer, nudged(robot.package)))
    for _ in range(3):
        dead = Robot(robot.folder, package)
        dead.swapper.start()
        made_ready(dead)  # and then the process is gone
    last = Robot(robot.folder, package)
    last.swapper.start()
    assert state_of(last.swapper.slots, 1) == "quarantined" and last.swapper.swap(1) == []
