"""What the trainer is owed of a change of slots: written with it, told until the link has it, told once."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from faults.release_life import Releases, RobotLife

from runtime.weights.slot_state import MOST_OWED, MOST_REASON, empty, owing
from runtime.weights.slots import MAX_ATTEMPTS, PERSON


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases.make(tmp_path_factory.mktemp("package") / "policy")


@pytest.fixture
def robot(tmp_path: Path, releases: Releases) -> RobotLife:
    return RobotLife(tmp_path / "robot", releases)


def again(robot: RobotLife) -> RobotLife:
    """The power was cut: nothing that was in memory is left."""
    return RobotLife(robot.folder, robot.releases)


def owed(robot: RobotLife) -> list[tuple[int, str]]:
    return [(one.publish_seq, one.outcome) for one in robot.slots.state().owed]


def test_what_was_decided_and_never_told_is_told_at_the_next_start(robot: RobotLife) -> None:
    robot.fetch(1)
    (swapped,) = robot.swapper.swap(3)
    robot = again(robot)
    robot.swapper.swap(3)  # its trial goes on
    committed = None
    while committed is None:
        committed = robot.swapper.settle(success=True)
    assert owed(robot) == [(1, "swapped"), (1, "swapped"), (1, "committed")]

    robot = again(robot)
    first, _, last = told = robot.swapper.follow(9)
    assert first.report_id == swapped.report_id and first.episode_seq == 3
    assert last.report_id == committed.report_id and last.reason == committed.reason
    assert all(one.swapped_s != one.swapped_s for one in told), (
        "when that was is not known any more"
    )
    assert robot.swapper.follow(9) == [], "once a start is enough"
    robot.tell(told)
    assert owed(robot) == [] and len(robot.outcomes) == 3
    assert again(robot).swapper.follow(9) == []


def test_told_and_killed_before_it_was_struck_out_comes_under_the_same_name(robot, monkeypatch):
    robot.fetch(1)
    monkeypatch.setattr(robot.slots, "told", lambda report_id: None)
    robot.swap()
    assert owed(robot) == [(1, "swapped")] and len(robot.outcomes) == 1
    robot = again(robot)
    robot.tell(robot.swapper.follow(0))
    assert owed(robot) == [] and len(robot.outcomes) == 1


def test_what_a_person_said_is_owed_from_the_command_on(robot: RobotLife) -> None:
    for seq in (1, 2):
        robot.fetch(seq)
        robot.swap()
        robot.until_decided(True)
    robot.slots.take_back()
    assert owed(robot) == [(2, "rolled_back"), (1, "committed")]
    robot = again(robot)
    back, force = robot.swapper.follow(7)
    assert (back.publish_seq, back.outcome, back.episode_seq) == (2, "rolled_back", -1)
    assert (force.publish_seq, force.reason, force.episode_seq) == (1, PERSON, 7)


def test_what_a_person_wants_and_can_not_be_loaded_is_told_as_refused(robot: RobotLife) -> None:
    for seq in (1, 2):
        robot.fetch(seq)
        robot.swap()
        robot.until_decided(True)
    name, _ = robot.slots.state().by_seq(1)
    robot.slots.take_back()
    robot.slots.weights_path(name).write_bytes(b"not these")
    robot = again(robot)
    outcomes = {one.publish_seq: one for one in robot.swapper.follow(7)}
    assert outcomes[1].outcome == "rejected" and "can't be loaded" in outcomes[1].reason
    assert robot.swapper.version == 0


def test_a_release_that_brought_the_robot_down_is_told_too(robot: RobotLife) -> None:
    robot.fetch(1)
    for _ in range(MAX_ATTEMPTS):
        robot.swap()
        robot = again(robot)
    assert robot.slots.state().by_seq(1)[1].state == "quarantined"
    (told,) = robot.swapper.follow(0)
    assert (told.outcome, told.reason) == ("rejected", "interrupted in probation")


def test_reports_that_nobody_takes_are_bounded() -> None:
    state = empty("p", {})
    for seq in range(3 * MOST_OWED):
        state = owing(state, seq, "swapped", "x" * 10 * MOST_REASON)
    assert [one.publish_seq for one in state.owed] == list(range(2 * MOST_OWED, 3 * MOST_OWED))
    assert len(msgspec.json.encode(state)) < 1 << 16
    assert len({one.report_id for one in state.owed}) == MOST_OWED
