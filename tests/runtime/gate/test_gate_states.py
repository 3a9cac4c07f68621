"""The gate's states, as docs/safety.md tabulates them, with the real gate, board and lease; and where an
action must come from to be followed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import HOME, RecordingArm
from contracts.errors import DeviceError, GateFault
from contracts.messages import GateBit
from runtime.arms import ArmState
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, LoopState, Owner
from runtime.config import GateSection
from runtime.gate.gate import Gate, Origin, limits_of

SAFETY = Path(__file__).resolve().parents[3] / "docs" / "safety.md"
INIT, ARMED, RUNNING = LoopState.INIT, LoopState.ARMED, LoopState.RUNNING
HOLD, FAULT, ESTOP = LoopState.HOLD, LoopState.FAULT, LoopState.ESTOP
AHEAD = (HOME[0] + 1.0, *HOME[1:])
FAR = tuple(value + 60.0 for value in HOME)


@dataclass
class Rig:
    """A gate over a recording arm, and the ways in which things happen to it."""

    gate: Gate
    arm: RecordingArm
    board: Board

    def ask(self, wanted: tuple[float, ...] | None = AHEAD, **more: float) -> int:
        verdict = self.gate.command(wanted, more.get("state_s", 0.0), more.get("frame_s", 0.0))
        return verdict.bits

    def start_moving(self) -> None:
        for _ in range(3):
            self.ask(FAR)
        assert any(self.gate.state.velocity)


class LostArm(RecordingArm):
    def write(self, targets: np.ndarray) -> bool:
        raise DeviceError("the bus is gone")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    boards: list[Board] = []

    def rig(state: LoopState = ARMED, section: GateSection | None = None) -> Rig:
        limits = limits_of(SO101_ACTION, section or GateSection(stale_fault_s=0.15), 30.0)
        board = Board.create(tmp_path / f"board{len(boards)}")
        boards.append(board)
        arm = RecordingArm(limits)
        arm.start(HOME)
        made = Rig(Gate(arm, limits, board, Owner.CONTROL, 60.0), arm, board)
        if state is not INIT:
            made.gate.prepare(arm.read())
            made.gate.take_arm()
        if state is RUNNING:
            made.ask()
        elif state is HOLD:
            made.gate.hold("the episode is over")
        elif state is FAULT:
            made.gate.fault("broken")
        elif state is ESTOP:
            made.gate.estop("asked for")
        assert made.gate.state.mode is state
        return made

    yield rig
    for board in boards:
        board.close()


def prepare(rig: Rig) -> None:
    try:
        rig.gate.prepare(rig.arm.read())
    except GateFault:
        assert rig.gate.faulted  # a latched gate says so and stays


def lose_lease(rig: Rig) -> None:
    rig.board.lease_expiry_s = 0.0
    rig.board.take_lease(Owner.WATCHDOG, 1.0, 60.0)
    rig.ask()


def lose_bus(rig: Rig) -> None:
    rig.gate.arm = LostArm(rig.gate.limits)
    rig.gate.arm.start(HOME)
    rig.ask()


def press(rig: Rig) -> None:
    rig.board.estop_requested = 1
    rig.ask()


EVENTS: dict[str, Callable[[Rig], object]] = {
    "pose read": prepare,
    "request": lambda rig: rig.ask(),
    "nothing asked": lambda rig: rig.ask(None),
    "old readings": lambda rig: rig.ask(state_s=9.0),
    "old readings too long": lambda rig: [rig.ask(frame_s=9.0) for _ in range(8)],
    "not finite": lambda rig: rig.ask((math.nan, *HOME[1:])),
    "wrong arity": lambda rig: rig.ask(HOME[:5]),
    "bus lost": lose_bus,
    "lease lost": lose_lease,
    "fault elsewhere": lambda rig: rig.gate.fault("a camera is gone"),
    "end of episode": lambda rig: rig.gate.hold("over"),
    "emergency stop": press,
}
TABLE: dict[str, tuple[LoopState, ...]] = {
    # from:            INIT   ARMED    RUNNING  HOLD   FAULT  ESTOP
    "pose read": (ARMED, ARMED, ARMED, ARMED, FAULT, ESTOP),
    "request": (FAULT, RUNNING, RUNNING, FAULT, FAULT, ESTOP),
    "nothing asked": (FAULT, HOLD, HOLD, HOLD, FAULT, ESTOP),
    "old readings": (FAULT, HOLD, HOLD, FAULT, FAULT, ESTOP),
    "old readings too long": (FAULT, FAULT, FAULT, FAULT, FAULT, ESTOP),
    "not finite": (FAULT, FAULT, FAULT, FAULT, FAULT, ESTOP),
    "wrong arity": (FAULT, FAULT, FAULT, FAULT, FAULT, ESTOP),
    "bus lost": (FAULT, FAULT, FAULT, FAULT, FAULT, ESTOP),
    "lease lost": (FAULT, FAULT, FAULT, FAULT, FAULT, ESTOP),
    "fault elsewhere": (FAULT, FAULT, FAULT, FAULT, FAULT, ESTOP),
    "end of episode": (HOLD, HOLD, HOLD, HOLD, FAULT, ESTOP),
    "emergency stop": (ESTOP, ESTOP, ESTOP, ESTOP, ESTOP, ESTOP),
}
FROM = (INIT, ARMED, RUNNING, HOLD, FAULT, ESTOP)


@pytest.mark.parametrize("event", TABLE)
def test_every_event_leads_where_the_table_says(event: str, make: Callable[..., Rig]) -> None:
    for state, expected in zip(FROM, TABLE[event], strict=True):
        rig = make(state)
        EVENTS[event](rig)
        assert rig.gate.state.mode is expected, (state.name, event)
        if expected in (FAULT, ESTOP):
            assert rig.gate.state.reason


def test_the_table_is_the_documents() -> None:
    rows = dict(
        re.findall(r"^\| ([a-z ]+) \| ((?:[A-Z]+ \| ){5}[A-Z]+) \|$", SAFETY.read_text(), re.M)
    )
    assert tuple(rows.pop("event").split(" | ")) == tuple(state.name for state in FROM)
    assert {event: tuple(cells.split(" | ")) for event, cells in rows.items()} == {
        event: tuple(state.name for state in states) for event, states in TABLE.items()
    }


def test_a_fault_in_motion_brakes_within_limits_and_then_holds(make: Callable[..., Rig]) -> None:
    for section in (GateSection(), GateSection(jerk_time_s=0.1, soft_margin=5.0)):
        rig = make(ARMED, section)
        rig.start_moving()
        bits = rig.ask((math.nan, *HOME[1:]))
        assert bits & GateBit.NON_FINITE
        ticks = 0
        while rig.gate.moving:
            rig.gate.brake()
            ticks += 1
        rig.gate.brake()
        assert 1 <= ticks < 30
        assert rig.arm.breaches == []
        assert rig.board.stopped_at_s <= rig.board.held_at_s
        standing, written = rig.arm.poses[-1], rig.arm.written
        rig.ask(FAR)
        assert (rig.arm.poses[-1], rig.arm.written) == (standing, written)


def test_an_emergency_stop_commands_nothing_more(make: Callable[..., Rig]) -> None:
    rig = make()
    rig.start_moving()
    written = rig.arm.written
    rig.board.estop_requested = 1
    assert not rig.gate.rest()
    rig.board.estop_requested = 0  # taking the request back changes nothing
    rig.ask(FAR)
    assert rig.gate.state.mode is ESTOP
    assert rig.arm.written == written
    assert rig.board.held_at_s >= rig.board.stopped_at_s > 0


def test_only_actions_of_this_episode_and_these_weights_in_order_are_followed(
    make: Callable[..., Rig],
) -> None:
    rig = make(ARMED, GateSection(stale_fault_s=0.2, max_action_age_s=1.0))
    rig.gate.begin_episode(4, 17)

    def asked(episode: int, version: int, chunk: int, observed_s: float = 9.5) -> int:
        origin = Origin(episode, version, chunk, observed_s)
        return rig.gate.command(AHEAD, 0.0, 0.0, origin, at_s=10.0).bits

    assert asked(4, 17, 2) == 0
    for foreign in ((3, 17, 2), (4, 16, 2), (4, 17, 1), (4, 17, 2, 8.0)):
        assert asked(*foreign) & GateBit.FOREIGN
        assert rig.gate.state.mode is HOLD
        assert asked(4, 17, 2) == 0
    assert rig.gate.refusals == 4
    for _ in range(8):
        asked(3, 17, 5)
    assert rig.gate.state.mode is FAULT
    assert "episode 3" in rig.gate.state.reason


class Pushed(RecordingArm):
    """Somebody else moves its elbow."""

    def read(self) -> ArmState:
        pose = list(self.poses[-1])
        pose[2] += 0.5
        self.start(tuple(pose))
        return super().read()


def test_an_arm_that_moves_by_itself_is_refused_by_the_joints_name(
    make: Callable[..., Rig],
) -> None:
    now = iter(np.arange(0.0, 10.0, 0.02))

    def watch(rig: Rig) -> None:
        rig.gate.require_quiet(0.3, 1.0, now=lambda: float(next(now)), sleep=lambda _: None)

    rig = make(INIT)
    watch(rig)
    rig.gate.arm = Pushed(rig.gate.limits)
    rig.gate.arm.start(HOME)
    with pytest.raises(GateFault, match=r"elbow_flex\.pos"):
        watch(rig)
