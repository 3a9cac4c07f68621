"""Probation through the swapper: worse releases taken back, a person's word, and what a restart keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faults.release_life import AGAIN, NEXT, Releases, RobotLife
from typer.testing import CliRunner

from runtime.app import app
from runtime.weights.probation import Tally
from runtime.weights.slots import MAX_ATTEMPTS, SlotError
from runtime.weights.swap import LATE_EPISODES, LEAST_TIMED
from runtime.weights.swap_checks import SwapLimits
from runtime.weights.swap_replay import ActiveHead


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases.make(tmp_path_factory.mktemp("package") / "policy")


@pytest.fixture
def robot(tmp_path: Path, releases: Releases) -> RobotLife:
    """Release 1 is committed, with episodes behind it."""
    robot = RobotLife(tmp_path / "robot", releases)
    put_on_probation(robot, 1)
    assert robot.until_decided(True) == "committed"
    for number in range(20):
        assert robot.swapper.settle(success=number % 10 != 0) is None
    return robot


def put_on_probation(robot: RobotLife, seq: int) -> None:
    robot.fetch(seq)
    robot.swapper.swap(0)
    assert robot.swapper.version == seq


def acts(robot: RobotLife, seq: int) -> None:
    assert robot.swapper.version == seq
    assert np.array_equal(robot.answer(), robot.releases.answers[seq])


def test_a_worse_release_is_taken_back_by_itself(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    assert robot.swapper.settle(success=True) is None
    said = [robot.swapper.settle(success=False) for _ in range(4)]
    outcome = said[-1] or said[-2]
    assert outcome is not None and (outcome.outcome, outcome.publish_seq) == ("rolled_back", 2)
    assert "1 of " in outcome.reason and "of the committed one's" in outcome.reason
    acts(robot, 1)


def test_each_counts_for_itself_and_the_packages_own_weights_too(
    tmp_path: Path, releases: Releases
) -> None:
    robot = RobotLife(tmp_path / "robot", releases)
    for success in (True, False, None):
        robot.swapper.settle(success=success)
    assert robot.slots.state().own == Tally(1, 1, 1) == robot.slots.state().reference
    put_on_probation(robot, 1)
    robot.swapper.settle(success=True)
    state = robot.slots.state()
    assert state.own == Tally(1, 1, 1) and state.by_seq(1)[1].tally == Tally(1, 0)


def test_what_was_taken_back_does_not_come_again_under_another_number(
    robot: RobotLife, releases: Releases
) -> None:
    put_on_probation(robot, 2)
    robot.swapper.settle(fault="NaN")
    acts(robot, 1)
    weights = releases.manifest(2).weights_id
    assert robot.slots.state().barred == {weights: "NaN"}
    robot.fetch(AGAIN)
    (refused,) = robot.swapper.swap(1)
    assert refused.outcome == "rejected" and "taken back" in refused.reason
    acts(robot, 1)
    robot.slots.pin(2)
    assert robot.slots.state().barred == {}, "a person wants it"


def test_the_same_contents_under_a_new_number_go_on_with_their_trial(
    robot: RobotLife, releases: Releases
) -> None:
    """Published anew every few episodes, they were never judged."""
    episodes, outcome = 0, ""
    for seq in range(20, 30):
        releases.renew(seq, like=2)
        put_on_probation(robot, seq)
        for success in (True, True, False, True, False):
            outcome = outcome or robot.settle(success=success)
            episodes += not outcome
        if outcome:
            break
    assert outcome == "rolled_back" and 5 < episodes < 20
    acts(robot, 1)


def test_a_trial_goes_on_after_a_power_cut_with_what_it_had_shown(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    for success in (False, True, False):
        assert robot.swapper.settle(success=success) is None
    again = RobotLife(robot.folder, robot.releases)  # nothing was closed
    acts(again, 1)
    again.swapper.swap(9)
    acts(again, 2)
    assert again.slots.state().by_seq(2)[1].tally == Tally(1, 2)
    assert again.until_decided(False) == "rolled_back"


def test_a_release_that_brings_the_robot_down_every_time_is_quarantined(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    for attempt in range(1, MAX_ATTEMPTS):
        robot = RobotLife(robot.folder, robot.releases)
        acts(robot, 1)
        assert robot.swapper.swap(attempt) != []
    robot = RobotLife(robot.folder, robot.releases)
    assert robot.slots.state().by_seq(2)[1].state == "quarantined"
    assert robot.swapper.swap(9) == []


def test_an_orderly_stop_or_an_episode_to_its_end_is_no_attempt(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    for attempt in range(3 * MAX_ATTEMPTS):
        if attempt % 2:
            robot.slots.pause()
        else:
            robot.swapper.settle()
        robot = RobotLife(robot.folder, robot.releases)
        robot.swapper.swap(attempt)
        acts(robot, 2)


def test_a_head_that_is_slow_on_the_job_is_taken_back_where_time_is_real(robot: RobotLife) -> None:
    def episode() -> None:
        for _ in range(LEAST_TIMED):
            robot.answer_timed()

    put_on_probation(robot, 2)
    robot.swapper.limits = SwapLimits(latency_s=0.0, latency_ratio=0.0)
    for _ in range(LATE_EPISODES):
        episode()
        assert robot.swapper.settle() is None, "no time passes here"
    episode()
    assert robot.swapper.settle(timed=True) is None, "once is no verdict"
    episode()
    outcome = robot.swapper.settle(timed=True)
    assert outcome is not None and outcome.outcome == "rolled_back" and "latency" in outcome.reason
    acts(robot, 1)


def slots(robot: RobotLife, *words: str) -> str:
    found = CliRunner().invoke(app, ["slots", *words, "--run-dir", str(robot.folder)])
    assert found.exit_code == 0, (found.output, found.exception)
    return found.output


def test_a_person_lists_pins_and_rolls_back(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    robot.until_decided(True)
    put_on_probation(robot, 3)
    robot.swapper.settle(success=False)
    told = slots(robot, "list")
    assert "release 3 in force" in told and "evidence that it is worse +" in told
    assert "21 of 23 episodes succeeded" in told

    assert "release 2, at the next start" in slots(robot, "rollback")
    (outcome,) = [o for o in robot.swapper.follow(7) if o.outcome == "rolled_back"]
    assert (outcome.publish_seq, outcome.reason) == (3, "rolled back by a person")
    acts(robot, 2)
    assert "release 1," in slots(robot, "rollback")
    robot.swapper.follow(8)
    acts(robot, 1)

    slots(robot, "pin", "3")
    robot.swapper.follow(9)
    acts(robot, 3)
    robot.fetch(4)
    assert robot.swapper.swap(9) == [], "pinned"
    again = RobotLife(robot.folder, robot.releases)
    acts(again, 3)
    slots(again, "pin", "0")
    again.swapper.follow(10)
    acts(again, 0)
    slots(again, "unpin")
    again.swapper.swap(11)
    acts(again, 4)


@pytest.mark.parametrize("decided", [True, False])
def test_a_persons_rollback_leads_to_other_weights_than_those_taken_back(
    robot: RobotLife, releases: Releases, decided: bool
) -> None:
    """The same come again under new numbers: an update that failed, a release that had expired."""
    for seq in (2, AGAIN):
        put_on_probation(robot, seq)
        if seq == 2 or decided:
            robot.until_decided(True)
    robot.slots.take_back()
    robot.swapper.follow(5)
    acts(robot, 1)
    assert list(robot.slots.state().barred) == [releases.manifest(2).weights_id]
    robot.slots.take_back()
    robot.swapper.follow(6)
    acts(robot, 0)
    robot.slots.pin(2)  # what a person names, they get
    robot.swapper.follow(7)
    acts(robot, 2)


def test_what_never_acted_or_is_gone_can_not_be_put_in_force(robot: RobotLife) -> None:
    robot.fetch(2)
    robot.fetch(3)  # 2 is superseded and never acted
    for seq in (2, 3, NEXT):
        with pytest.raises(SlotError, match="never acted here"):
            robot.slots.pin(seq)
    state = robot.slots.state()
    robot.slots.weights_path(state.by_seq(1)[0]).unlink()
    robot.slots.pin(0)
    with pytest.raises(SlotError, match="not kept"):
        robot.slots.pin(1)


def test_a_rollback_in_the_middle_of_an_episode_wins_over_its_outcome(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    for _ in range(3):
        robot.swapper.settle(success=True)
    robot.slots.take_back()
    assert robot.swapper.settle(success=True) is None
    assert robot.slots.state().by_seq(2)[1].state == "rolled_back"
    robot.swapper.follow(3)
    acts(robot, 1)


def test_the_release_committed_before_is_kept_for_a_rollback(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    robot.until_decided(True)
    for seq in (3, 4, 7, 8, 9):
        put_on_probation(robot, seq)
    robot.fetch(NEXT)
    kept = {s.publish_seq: s.state for s in robot.slots.state().slots.values()}
    assert kept[1] == "superseded" and kept[2] == "committed" and kept[9] == "probation"
    robot.slots.take_back(1)
    robot.swapper.follow(0)
    acts(robot, 1)


def test_a_pin_in_the_middle_of_a_trial_wins_and_what_was_tried_waits(robot: RobotLife) -> None:
    checked = robot.swapper._checked

    def pinned_meanwhile(*what: object) -> ActiveHead:
        head = checked(*what)  # type: ignore[arg-type]
        robot.slots.pin(1)
        return head

    robot.fetch(2)
    robot.swapper._checked = pinned_meanwhile  # type: ignore[method-assign]
    assert robot.swapper.swap(5) == []
    robot.swapper._checked = checked  # type: ignore[method-assign]
    acts(robot, 1)
    waiting = robot.slots.state().by_seq(2)[1]
    assert (waiting.state, waiting.attempts, waiting.served) == ("staged", 0, False)
    assert robot.swapper.follow(6) == [] and robot.swapper.swap(6) == []
    robot.slots.unpin()
    assert robot.swapper.tried < 2, "it is news"
    assert [o.outcome for o in robot.swapper.swap(7)] == ["swapped"]
    acts(robot, 2)


def test_a_trial_that_a_pin_ended_gives_way_to_what_came_meanwhile(robot: RobotLife) -> None:
    robot.fetch(2)
    name, _ = robot.slots.find("staged")
    robot.slots.begin_shadow(name)
    robot.fetch(3)
    robot.slots.pin(1)
    assert robot.slots.begin_probation(name, 5) == ()
    state = robot.slots.state()
    assert state.by_seq(2)[1].state == "superseded" and state.by_seq(3)[1].state == "staged"


@pytest.mark.parametrize("ahead", [False, True])
def test_what_expired_while_it_waited_never_acts(robot: RobotLife, ahead: bool) -> None:
    robot.fetch(2)
    if ahead:
        robot.swapper.look_ahead()
    robot.swapper._unix_clock = lambda: 2e12
    (refused,) = robot.swapper.swap(1)
    assert refused.outcome == "rejected" and "has expired" in refused.reason
    assert robot.slots.state().by_seq(2)[1].state == "quarantined"
    assert robot.slots.state().barred == {}, "its weights may come again under another number"
    acts(robot, 1)


def test_a_trial_that_began_in_time_goes_on_after_it_expired(robot: RobotLife) -> None:
    put_on_probation(robot, 2)
    again = RobotLife(robot.folder, robot.releases)
    again.swapper._unix_clock = lambda: 2e12
    assert [o.outcome for o in again.swapper.swap(9)] == ["swapped"]
    acts(again, 2)
