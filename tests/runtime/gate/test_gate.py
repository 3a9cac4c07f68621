"""The gate's core: nothing outside any limit leaves it, and what is not a number is a latched fault."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import GateFault
from contracts.messages import GateBit
from runtime.arms.sim import SO101_ACTION
from runtime.bench import arm as bench_arm
from runtime.board import LoopState
from runtime.config import GateSection
from runtime.gate.gate import GateLimits, GateState, arm_at, judge, limits_of
from runtime.gate.kinematics import so101_points

HOME = tuple(bench_arm.HOME_DEG.tolist())
EPS = 1e-4


def limits(rate_hz: float = 30.0, **changes: object) -> GateLimits:
    return limits_of(SO101_ACTION, GateSection(**changes), rate_hz)  # type: ignore[arg-type]


def breaches(bounds: GateLimits, before: GateState, after: GateState) -> list[str]:
    """Every limit that the step from one command to the next does not keep."""
    found = []
    dt = bounds.period_s
    for joint, (old, new) in enumerate(zip(before.position, after.position, strict=True)):
        speed = (new - old) / dt
        change = (speed - before.velocity[joint]) / dt
        if not math.isfinite(new):
            found.append(f"{joint} not finite")
        if not bounds.low[joint] - EPS <= new <= bounds.high[joint] + EPS:
            found.append(f"{joint} position {new}")
        if abs(speed) > bounds.velocity[joint] * (1 + EPS):
            found.append(f"{joint} velocity {speed}")
        if abs(change) > bounds.acceleration[joint] * (1 + EPS) + EPS / dt**2 * 1e-2:
            found.append(f"{joint} acceleration {change}")
    if bounds.points and bounds.box:
        for point in bounds.points(after.position):
            for value, (low, high) in zip(point, bounds.box, strict=True):
                if not low - EPS <= value <= high + EPS:
                    found.append(f"workspace {point}")
    return found


# No subnormal numbers: an ONNX Runtime session, once opened in this process, flushes them.
wild = st.floats(min_value=-400.0, max_value=400.0, allow_nan=False, allow_subnormal=False)
requests = st.lists(
    st.one_of(st.none(), st.tuples(*[wild] * 6), st.just(HOME)), min_size=1, max_size=40
)


@settings(max_examples=150, deadline=None)
@given(requests, st.sampled_from([10.0, 30.0, 100.0]))
def test_nothing_outside_any_limit_passes(
    script: list[tuple[float, ...] | None], rate_hz: float
) -> None:
    bounds = limits(rate_hz)
    state = arm_at(bounds, HOME)
    for request in script:
        after, verdict = judge(bounds, state, request)
        assert not verdict.fault
        assert breaches(bounds, state, after) == []
        state = after


def test_a_long_random_walk_with_old_readings_keeps_every_limit() -> None:
    rng = random.Random(3)
    bounds = limits(30.0)
    state = arm_at(bounds, HOME)
    target = list(HOME)
    for _ in range(4000):
        if rng.random() < 0.2:
            target = [rng.uniform(-250, 250) for _ in range(6)]
        age_s = 0.4 if rng.random() < 0.05 else 0.0
        after, _ = judge(bounds, state, target if rng.random() < 0.9 else None, age_s)
        assert breaches(bounds, state, after) == []
        state = after


@given(
    st.lists(st.floats(width=32, allow_subnormal=False), min_size=0, max_size=9),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0, 5),
)
def test_non_finite_or_misshapen_requests_always_fault_and_stay_faulted(
    numbers: list[float], bad: float, where: int
) -> None:
    bounds = limits()
    state = arm_at(bounds, HOME)
    poisoned = list(HOME)
    poisoned[where] = bad
    for request in (poisoned, numbers):
        if len(request) == 6 and all(map(math.isfinite, request)):
            continue
        faulted, verdict = judge(bounds, state, request)
        assert verdict.fault
        assert verdict.bits & (GateBit.NON_FINITE | GateBit.ARITY)
        assert verdict.command == state.position
        again, verdict = judge(bounds, faulted, HOME)
        assert again.mode is LoopState.FAULT
        assert verdict.fault
        assert verdict.command == state.position


def test_a_lawful_request_passes_unchanged_to_the_last_bit() -> None:
    bounds = limits(10.0)
    state = arm_at(bounds, HOME)
    request = tuple(value + 1.2345678 for value in HOME)
    after, verdict = judge(bounds, state, request)
    assert verdict.command == request
    assert verdict.bits == 0
    assert after.mode is LoopState.RUNNING


def test_old_readings_hold_and_then_fault() -> None:
    bounds = limits(10.0, stale_fault_s=0.35)
    state = arm_at(bounds, HOME)
    for _ in range(3):
        state, verdict = judge(bounds, state, [v + 5 for v in HOME], 0.0, frame_age_s=9.0)
        assert verdict.bits & GateBit.STALE
        assert verdict.command == HOME
        assert not verdict.fault
    state, verdict = judge(bounds, state, HOME, 0.0, frame_age_s=9.0)
    assert "old" in verdict.fault


@pytest.mark.parametrize(
    ("state_s", "frame_s", "what"),
    [
        (9.0, 0.0, "joint readings"),
        (0.0, math.nan, "pictures"),
        (math.inf, 9.0, "joint readings and pictures"),
    ],
)
def test_what_was_old_is_named(state_s: float, frame_s: float, what: str) -> None:
    bounds = limits(10.0, stale_fault_s=0.15)
    held, _ = judge(bounds, arm_at(bounds, HOME), HOME, state_s, frame_s)
    assert held.reason == f"old {what}"
    _, verdict = judge(bounds, held, HOME, state_s, frame_s)
    assert verdict.fault == f"{what} were old for 0.2 s"


def test_holding_brakes_no_harder_than_allowed() -> None:
    bounds = limits(100.0)
    state = arm_at(bounds, HOME)
    for k in range(40):
        state, _ = judge(bounds, state, [HOME[0] + 2.0 * k, *HOME[1:]])
    assert abs(state.velocity[0]) > 50.0
    ticks = 0
    while any(state.velocity):
        after, _ = judge(bounds, state, None)
        assert breaches(bounds, state, after) == []
        state, ticks = after, ticks + 1
    assert 3 < ticks < 30


def test_pushing_into_the_table_stops_at_it_and_says_so() -> None:
    bounds = limits(10.0)
    state = arm_at(bounds, HOME)
    bits = 0
    for _ in range(60):
        down = [state.position[0], state.position[1] + 20.0, *state.position[2:]]
        state, verdict = judge(bounds, state, down)
        bits |= verdict.bits
    assert bits & GateBit.WORKSPACE
    assert so101_points(state.position)[2][2] >= -0.005 - 1e-9


def test_an_arm_that_stands_where_it_may_not_is_not_armed() -> None:
    bounds = limits()
    with pytest.raises(GateFault, match="range"):
        arm_at(bounds, (140.0, *HOME[1:]))
    with pytest.raises(GateFault, match="workspace"):
        arm_at(bounds, (0.0, 80.0, 40.0, 30.0, 0.0, 50.0))
    with pytest.raises(GateFault, match="unusable"):
        arm_at(bounds, (math.nan, *HOME[1:]))


def test_an_unarmed_gate_lets_nothing_through() -> None:
    _, verdict = judge(limits(), GateState(position=HOME, velocity=(0.0,) * 6), HOME)
    assert verdict.fault


@given(st.tuples(*[st.floats(-90.0, 90.0, allow_subnormal=False)] * 4))
def test_kinematics_are_the_benchs(joints: tuple[float, ...]) -> None:
    tip = so101_points((*joints, 0.0, 50.0))[2]
    pose = bench_arm.forward([*joints, 0.0, 50.0])  # type: ignore[arg-type]
    assert tip == pytest.approx((pose.x_m, pose.y_m, pose.z_m), abs=1e-9)
