"""The hand-over in both directions, on numbers alone: no step, no jump, no wish of the dead."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import EntracteError
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board
from runtime.config import GateSection
from runtime.control.scheduler import NOTHING, Choice
from runtime.gate.gate import arm_at, judge, limits_of
from runtime.operator.floor import Flag, Floor, Phase, read_phase
from runtime.operator.section import OperatorSection
from runtime.teleoperation.helm import Fade, Helm
from runtime.teleoperation.page import JOG, LEADER, HandPage

RATE_HZ = 30.0
POSE = (5.0, -50.0, 50.0, 50.0, 0.0, 40.0)


class Desk:
    """A helm whose clock and page the test holds."""

    def __init__(self, folder: Path, kind: str = "lerobot") -> None:
        self.board = Board.create(folder / "board")
        self.floor = Floor(self.board, can_take_over=True)
        self.floor.enter(Phase.RUNNING)
        self.now_s = 10.0
        self.page = HandPage.create(folder / "page", 6)
        pages = {"web": self.page, "device": self.page}
        section = OperatorSection(teleoperator=kind, blend_s=0.5, match_within=8.0)
        self.helm = Helm(self.floor, pages, section, SO101_ACTION, RATE_HZ, lambda: self.now_s)
        self.helm.begin_episode()
        self.commanded = POSE

    def tick(self) -> Choice | None:
        """One tick in which the gate passes everything."""
        self.now_s += 1.0 / RATE_HZ
        choice = self.helm.steer(self.commanded)
        if choice is not None and choice.action is not None:
            self.commanded = tuple(choice.action)
        return choice

    def lead(self, offset: float) -> None:
        self.page.write(LEADER, tuple(np.add(POSE, offset).tolist()), self.now_s, 0.0)


def test_a_leader_is_followed_only_when_it_is_near_and_then_faded_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    assert desk.tick() is None
    desk.floor.wants_helm = "web"
    assert desk.tick() == NOTHING, "no leader was read yet"
    desk.lead(9.0)
    assert desk.tick() == NOTHING
    assert read_phase(desk.board)[1] & Flag.MATCHING
    moves = [desk.commanded[0]]
    for _ in range(30):
        desk.lead(6.0)
        desk.tick()
        moves.append(desk.commanded[0])
    steps = np.diff(moves)
    assert moves[-1] == pytest.approx(POSE[0] + 6.0)
    assert steps.max() < 6.0 * 1.6 / (0.5 * RATE_HZ), "a smooth step is 1.5 times as fast at most"
    assert steps[0] < 0.15
    assert Flag.TAKEN_OVER in read_phase(desk.board)[1]


def test_a_leader_that_falls_silent_holds_and_must_be_near_again(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.floor.wants_helm = "web"
    for _ in range(30):
        desk.lead(4.0)
        desk.tick()
    stood = desk.commanded
    for _ in range(20):
        found = desk.tick()
    assert found == NOTHING
    assert desk.commanded == stood
    desk.lead(20.0)
    assert desk.tick() == NOTHING, "it moved while nobody looked"
    desk.page.write(LEADER, (math.nan,) * 6, desk.now_s, 0.0)
    assert desk.tick() == NOTHING
    desk.lead(5.0)
    found = desk.tick()
    assert found is not None and found.action is not None
    assert abs(found.action[0] - stood[0]) < 0.1


def test_a_leader_whose_page_is_being_written_is_followed_until_it_is_old(tmp_path: Path) -> None:
    """The loop runs before its process: now and then in the middle of writing."""
    desk = Desk(tmp_path)
    desk.floor.wants_helm = "web"
    for _ in range(30):
        desk.lead(4.0)
        desk.tick()
    desk.page._words[2] += 1
    found = desk.tick()
    assert found is not None and found.action is not None
    assert Flag.TAKEN_OVER in read_phase(desk.board)[1]
    for _ in range(20):
        found = desk.tick()
    assert found == NOTHING, "it died there"


def test_after_the_arm_was_held_a_leader_must_be_near_again_and_is_faded_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.floor.wants_helm = "web"
    for _ in range(30):
        desk.lead(4.0)
        desk.tick()
    stood = desk.commanded
    desk.helm.start_afresh()
    assert read_phase(desk.board)[1] & Flag.MATCHING
    desk.lead(30.0)
    assert desk.tick() == NOTHING, "it moved meanwhile"
    desk.lead(10.0)
    moves = [stood[0]]
    for _ in range(20):
        desk.lead(10.0)
        desk.tick()
        moves.append(desk.commanded[0])
    assert np.diff(moves).max() < 6.0 * 1.6 / (0.5 * RATE_HZ)
    assert moves[-1] == pytest.approx(POSE[0] + 10.0)


def test_after_the_arm_was_held_keys_go_on_from_where_it_stands(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "keyboard")
    desk.floor.wants_helm = "web"
    for _ in range(3):
        desk.page.write(JOG, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), desk.now_s, desk.now_s + 0.2)
        desk.tick()
    desk.commanded = POSE  # braked back inside its limits
    desk.helm.start_afresh()
    desk.now_s += 1.0
    choice = desk.tick()
    assert choice is not None and choice.action == POSE


def test_taken_over_by_keys_at_speed_the_arm_brakes_and_stays_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "keyboard")
    desk.floor.wants_helm = "web"
    for braking in (3.0, 2.0, 1.0, 0.0, 0.0):
        desk.commanded = stood = tuple(np.add(desk.commanded, braking).tolist())
        choice = desk.tick()
        assert choice is not None and choice.action == stood
    desk.page.write(JOG, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0), desk.now_s, desk.now_s + 0.2)
    choice = desk.tick()
    assert choice is not None and choice.action is not None
    assert choice.action[0] == pytest.approx(stood[0] + 15.0 / RATE_HZ)


def test_the_policy_gets_the_arm_back_gently_and_is_told_to_start_afresh(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "keyboard")
    desk.floor.wants_helm = "web"
    desk.tick()
    assert desk.helm.intervening
    desk.floor.wants_helm = ""
    assert desk.tick() is None
    assert desk.helm.returned and not desk.helm.intervening
    wanted = Choice(tuple(np.add(POSE, 10.0).tolist()), 3, 2)
    assert desk.helm.ease(NOTHING) == NOTHING, "while it thinks the arm holds"
    eased = [desk.helm.ease(wanted) for _ in range(16)]
    actions = [one.action[0] for one in eased if one.action is not None]
    assert actions[0] - POSE[0] < 0.2
    assert np.diff([POSE[0], *actions]).max() < 10.0 * 1.6 / 15
    assert eased[-1] == wanted, "chunk and index are kept"


def test_the_policy_takes_over_from_where_the_arm_came_to_rest(tmp_path: Path) -> None:
    """Handed back at speed the arm brakes on while the policy thinks, and must not be drawn back."""
    desk = Desk(tmp_path, "keyboard")
    desk.floor.wants_helm = "web"
    desk.tick()
    desk.floor.wants_helm = ""
    for braking in (0.0, 3.0, 2.0, 1.0, 0.0):
        desk.commanded = tuple(np.add(desk.commanded, braking).tolist())
        assert desk.tick() is None
        desk.helm.start_afresh()  # as after every tick that was held
    wanted = Choice(tuple(np.add(POSE, 10.0).tolist()))
    moves = [desk.commanded[0]]

    def go_on(ticks: int) -> None:
        for _ in range(ticks):
            assert desk.tick() is None
            eased = desk.helm.ease(wanted)
            assert eased.action is not None
            desk.commanded = eased.action
            moves.append(eased.action[0])

    go_on(6)
    desk.helm.start_afresh()  # a pause in the middle of it, in which the arm brakes on
    desk.commanded = tuple(np.add(desk.commanded, 1.0).tolist())
    moves.append(desk.commanded[0])
    assert desk.tick() is None
    go_on(16)
    assert np.diff(moves).min() > -1e-9, "it was drawn back"
    assert moves[-1] == pytest.approx(POSE[0] + 10.0)


LEADING, PRESENT = "leader", "policy"


@pytest.mark.parametrize("section", [GateSection(), GateSection(jerk_time_s=0.1)])
@pytest.mark.parametrize("who", [LEADING, PRESENT])
def test_who_gets_a_moving_arm_waits_until_it_stands(
    tmp_path: Path, who: str, section: GateSection
) -> None:
    """A leader that is near at once, or a policy that has an action at once: with the real gate."""
    desk, limits = Desk(tmp_path), limits_of(SO101_ACTION, section, RATE_HZ)
    state, wanted = arm_at(limits, POSE), POSE[0]

    def tick(asked: float) -> None:
        """Asked for by who has the arm."""
        nonlocal state
        desk.now_s += 1.0 / RATE_HZ
        desk.page.write(LEADER, (asked, *POSE[1:]), desk.now_s, 0.0)
        choice = desk.helm.steer(state.position)
        choice = desk.helm.ease(Choice((asked, *POSE[1:]))) if choice is None else choice
        state, _ = judge(limits, state, choice.action)
        if choice.action is None:
            desk.helm.start_afresh()

    if who is PRESENT:
        desk.floor.wants_helm = "web"
        for _ in range(25):
            tick(wanted)
    for _ in range(15):
        wanted += 0.9 * limits.velocity[0] / RATE_HZ
        tick(wanted)
    desk.floor.wants_helm = "" if who is PRESENT else "web"
    goal, pans = state.position[0] + 2.0, [state.position[0]]
    for _ in range(60):
        tick(goal if abs(pans[-1] - goal) < 8.0 else pans[-1])
        pans.append(state.position[0])
    turned = int(np.argmax(pans))
    assert pans[turned] > goal, "it braked beyond, and then only went to where it is wanted"
    assert np.diff(pans[: turned + 1]).min() >= 0.0, "it was drawn back, and on again"
    assert np.diff(pans[turned:]).max() <= 1e-9
    assert pans[-1] == pytest.approx(goal)


@pytest.mark.parametrize("section", [GateSection(), GateSection(acceleration_scale=0.25)])
def test_who_takes_a_moving_arm_with_a_key_held_draws_no_joint_back(
    tmp_path: Path, section: GateSection
) -> None:
    desk, limits = Desk(tmp_path, "keyboard"), limits_of(SO101_ACTION, section, RATE_HZ)
    state = arm_at(limits, POSE)
    for k in range(20):
        assert desk.helm.steer(state.position) is None
        state, _ = judge(limits, state, (POSE[0] + 90.0 * k / RATE_HZ, *POSE[1:]))
    desk.floor.wants_helm = "web"
    pans, roll = [state.position[0]], state.position[4]
    for _ in range(60):
        desk.now_s += 1.0 / RATE_HZ
        desk.page.write(JOG, (0.0, 0.0, 0.0, 0.0, 1.0, 0.0), desk.now_s, desk.now_s + 0.3)
        choice = desk.helm.steer(state.position)
        assert choice is not None
        state, _ = judge(limits, state, choice.action)
        pans.append(state.position[0])
    assert np.diff(pans).min() >= 0.0
    assert state.position[4] > roll + 15.0, "and the joint of the key moves"


def test_a_policy_that_is_held_now_and_then_is_faded_in_all_the_same(tmp_path: Path) -> None:
    """One that has carried out its actions waits for the next, and the arm is held meanwhile."""
    desk = Desk(tmp_path, "keyboard")
    desk.floor.wants_helm = "web"
    desk.tick()
    desk.floor.wants_helm = ""
    wanted = Choice(tuple(np.add(POSE, 10.0).tolist()))
    eased = NOTHING
    for _ in range(4):
        for _ in range(5):
            assert desk.tick() is None
            eased = desk.helm.ease(wanted)
            assert eased.action is not None
            desk.commanded = eased.action
        for _ in range(3):
            assert desk.tick() is None
            desk.helm.start_afresh()
    assert eased == wanted


@settings(max_examples=100, deadline=None)
@given(
    shares=st.lists(
        # Engines in this process may have switched subnormal numbers off, which Hypothesis will not have.
        st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=False, width=32),
        min_size=6,
        max_size=6,
    ),
    holds=st.integers(1, 60),
    blocked=st.booleans(),
)
def test_keys_never_ask_for_more_than_their_speed_or_leave_the_arms_range(
    tmp_path_factory: pytest.TempPathFactory, shares: list[float], holds: int, blocked: bool
) -> None:
    desk = Desk(tmp_path_factory.mktemp("helm"), "keyboard")
    desk.floor.wants_helm = "web"
    most = OperatorSection().jog_speed / RATE_HZ
    for _ in range(holds):
        desk.page.write(JOG, tuple(shares), desk.now_s, desk.now_s + 0.2)
        before = desk.commanded
        choice = desk.tick()
        assert choice is not None and choice.action is not None
        moved = np.abs(np.subtract(choice.action, before))
        assert np.isfinite(choice.action).all()
        if blocked:
            desk.commanded = before  # the gate lets nothing through: the wish must not run away
            assert moved.max() <= OperatorSection().jog_speed * 0.15 + 1e-6
        else:
            assert moved.max() <= most + 1e-6
        low, high = np.array(SO101_ACTION.low), np.array(SO101_ACTION.high)
        assert (np.array(choice.action) >= low).all() and (np.array(choice.action) <= high).all()
    desk.board.close()


def test_a_fade_begins_where_it_stands_and_ends_where_it_should() -> None:
    fade = Fade()
    assert fade.mix((1.0,)) == (1.0,), "none is under way"
    fade.begin((0.0,), 4)
    assert [fade.mix((8.0,))[0] for _ in range(5)] == [1.25, 4.0, 6.75, 8.0, 8.0]


def test_a_page_that_a_dead_writer_left_half_written_is_nobodys_wish(tmp_path: Path) -> None:
    page = HandPage.create(tmp_path / "page", 2)
    assert page.read() is None
    page.write(JOG, (1.0, 0.0), 1.0, 2.0)
    page._words[2] += 1
    assert page.read() is None
    with pytest.raises(EntracteError, match="joints of a hand"):
        page.write(JOG, (1.0,), 1.0, 2.0)
    (tmp_path / "other").write_bytes(b"x" * 100)
    with pytest.raises(EntracteError, match="no page for a hand of this layout"):
        HandPage.open(tmp_path / "other")
