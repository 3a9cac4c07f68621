"""Jerk limits and soft margins: nothing outside any limit reaches the arm, what is lawful is not touched."""

from __future__ import annotations

import hashlib
import math
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from benchmarks import gate as bench
from benchmarks.gate import HOME, SETTINGS, RecordingArm, breaches, measure, walk
from contracts.errors import ConfigError
from contracts.messages import GateBit
from runtime.arms.sim import SO101_ACTION
from runtime.config import GateSection, load_config
from runtime.gate.gate import GateLimits, GateState, arm_at, judge, limits_of

SMOOTH = GateSection(jerk_time_s=0.05, soft_margin=5.0)


def _tracked(limits: GateLimits, script: list[tuple[float, ...] | None]) -> list[GateState]:
    state = arm_at(limits, HOME)
    states = [state] * 4
    for request in script:
        state, verdict = judge(limits, state, request)
        assert not verdict.fault
        states.append(state)
        assert breaches(limits, [one.position for one in states[-4:]]) == []
    return states[4:]


class AnyCommands(RuleBasedStateMachine):
    """Hypothesis looks for a history of requests after which something unlawful is commanded."""

    @initialize(
        setting=st.sampled_from([section for _, section in SETTINGS]),
        rate_hz=st.sampled_from([10.0, 30.0, 100.0]),
    )
    def begin(self, setting: GateSection, rate_hz: float) -> None:
        self.limits = limits_of(SO101_ACTION, setting, rate_hz)
        self.state = arm_at(self.limits, HOME)
        self.poses = [self.state.position] * 4

    def _ask(self, request: tuple[float, ...] | None, age_s: float = 0.0) -> None:
        self.state, _ = judge(self.limits, self.state, request, age_s)
        self.poses = [*self.poses[1:], self.state.position]

    @rule(request=st.tuples(*[st.floats(-400, 400, allow_nan=False, allow_subnormal=False)] * 6))
    def jump(self, request: tuple[float, ...]) -> None:
        self._ask(request)

    @rule(
        request=st.tuples(*[st.floats(-200, 200, allow_subnormal=False)] * 6),
        times=st.integers(2, 30),
    )
    def push(self, request: tuple[float, ...], times: int) -> None:
        for _ in range(times):
            self._ask(request)
            assert breaches(self.limits, self.poses) == []

    @rule(share=st.floats(-3.0, 3.0, allow_subnormal=False))
    def throw(self, share: float) -> None:
        """On along the present motion, or back."""
        pairs = zip(self.poses[-1], self.poses[-2], strict=True)
        self._ask(tuple(p + share * (p - q) for p, q in pairs))

    @rule()
    def stand(self) -> None:
        self._ask(None)

    @rule()
    def look_away(self) -> None:
        self._ask(HOME, 0.4)

    @invariant()
    def nothing_unlawful(self) -> None:
        if hasattr(self, "poses"):
            assert breaches(self.limits, self.poses) == []


TestAnyCommands = AnyCommands.TestCase
TestAnyCommands.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(("name", "section"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_adversaries_find_no_way_through(name: str, section: GateSection) -> None:
    tally = walk(section, 30.0, 3000, seed=len(name))
    assert tally.wrong == []
    assert tally.written > 2500
    assert tally.refused > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_commands_and_nothing_unlawful_reaches_the_arm() -> None:
    found = measure(1_000_000, seed=0)
    assert sum(row["commands"] for row in found["rows"]) >= 1_000_000
    assert [row["wrong"] for row in found["rows"] if row["wrong"]] == []
    assert sum(row["poisoned"] for row in found["rows"]) > 200


def test_the_check_itself_sees_every_kind_of_breach() -> None:
    limits = limits_of(SO101_ACTION, SMOOTH, 30.0)
    arm = RecordingArm(limits)
    for joint, moves, word in (
        (0, (0.0, 0.0, 60.0), "velocity"),
        (0, (0.0, 0.0, 3.0), "acceleration"),
        (0, (0.0, 0.0, 1.0), "jerk"),
        (4, (0.0, 0.0, 200.0), "at"),
        (1, (0.0, 0.0, 138.0), "workspace"),
    ):
        arm.start(HOME)
        for move in moves:
            arm.breaches.clear()
            arm.write([h + (move if k == joint else 0.0) for k, h in enumerate(HOME)])  # type: ignore[arg-type]
        assert any(word in said for said in arm.breaches), word


def test_without_jerk_limit_and_margins_it_is_the_gate_that_it_was_to_the_last_bit() -> None:
    """The digest was taken when its joints stopped going past requests that stand."""
    spec, digest, rng = SO101_ACTION, hashlib.sha256(), random.Random(11)
    for rate_hz in (10.0, 30.0, 100.0):
        limits = GateLimits(
            spec.low, spec.high, spec.max_velocity, spec.max_acceleration, 1 / rate_hz
        )
        state, target = arm_at(limits, HOME), list(HOME)
        for _ in range(3000):
            if rng.random() < 0.15:
                target = [rng.uniform(-200, 200) for _ in range(6)]
            state, verdict = judge(limits, state, target if rng.random() < 0.9 else None)
            digest.update(struct.pack("<6d6di", *state.position, *state.velocity, verdict.bits))
    assert digest.hexdigest() == "a2755886e20bf5acec2a5ee608cfd29d0ee3069c054ea12e23463f85083dee07"


@given(st.sampled_from([30.0, 100.0]), st.floats(0.5, 3.0), st.floats(2.0, 12.0))
@settings(max_examples=20, deadline=None)
def test_a_lawful_motion_passes_to_the_last_bit(
    rate_hz: float, omega: float, amplitude: float
) -> None:
    limits = limits_of(SO101_ACTION, SMOOTH, rate_hz)
    # From rest: sin to the fourth has no jump in its acceleration either.
    script = [
        tuple(h + amplitude * math.sin(omega * k / rate_hz) ** 4 for h in HOME)
        for k in range(int(2 * rate_hz))
    ]
    for wanted, state in zip(script, _tracked(limits, list(script)), strict=True):
        assert state.position == pytest.approx(wanted, abs=1e-9)
        assert state.position == wanted


def test_a_distant_target_is_reached_without_overshoot_and_a_moving_one_is_caught_up_with() -> None:
    limits = limits_of(SO101_ACTION, SMOOTH, 100.0)
    goal = (40.0, *HOME[1:])
    pan = [state.position[0] for state in _tracked(limits, [goal] * 150)]
    assert pan[-1] == 40.0
    assert max(pan) < 40.0 + 0.5
    script = [(10.0 + 40.0 * k / 100.0, *HOME[1:]) for k in range(150)]  # 40 deg/s, 10 deg ahead
    states = _tracked(limits, list(script))
    assert states[-1].position == script[-1]


@pytest.mark.parametrize(("rate_hz", "time_s"), [(20.0, 0.2), (30.0, 0.1), (50.0, 0.05)])
def test_a_request_that_stands_is_reached_and_kept(rate_hz: float, time_s: float) -> None:
    """Wherever it comes in the middle of a motion: no joint swings about it, and by degrees."""
    limits = limits_of(SO101_ACTION, GateSection(jerk_time_s=time_s), rate_hz)
    rng = random.Random(3)
    for _ in range(16):
        pans = [HOME[0]]
        for _ in range(10):
            pans += [pans[-1] + rng.uniform(-8.0, 8.0)] * round(0.1 * rate_hz)
        pans += pans[-1:] * round(4.0 * rate_hz)
        states = _tracked(limits, [(pan, *HOME[1:]) for pan in pans])
        assert {state.position[0] for state in states[-round(rate_hz) :]} == {pans[-1]}


@pytest.mark.parametrize("section", [GateSection(), GateSection(acceleration_scale=0.25), SMOOTH])
@pytest.mark.parametrize("rate_hz", [10.0, 30.0, 100.0])
@pytest.mark.parametrize("beyond", [0.5, 1.0, 2.0, 3.0, 8.0])
def test_a_request_beyond_the_range_is_followed_to_its_end(
    beyond: float, rate_hz: float, section: GateSection
) -> None:
    """A policy that asks for a little less than closed closes the hand: it stayed 25 % open."""
    limits = limits_of(SO101_ACTION, section, rate_hz)
    asked = (110.0 + beyond, *HOME[1:5], -beyond)
    last = _tracked(limits, [asked] * round(8.0 * rate_hz))[-1].position
    assert (last[0], last[5]) == pytest.approx((110.0, 0.0), abs=1e-6)


SCALES = [(1.0, 1.0), (1.0, 0.5), (1.0, 0.25), (0.5, 0.1), (1.0, 0.1)]


@pytest.mark.parametrize("rate_hz", [10.0, 30.0, 50.0, 100.0])
def test_without_jerk_limit_a_request_that_stands_is_reached_without_passing_it(
    rate_hz: float,
) -> None:
    """However little acceleration a careful user allows."""
    for velocity, acceleration in SCALES:
        section = GateSection(velocity_scale=velocity, acceleration_scale=acceleration)
        limits = limits_of(SO101_ACTION, section, rate_hz)
        for goal in (1.0, 2.0, 5.0, 7.3, 14.0, 33.3, 60.0, 90.0):
            states = _tracked(limits, [(goal, *HOME[1:])] * round(8.0 * rate_hz))
            pan = [state.position[0] for state in states]
            assert pan[-1] == pytest.approx(goal, abs=1e-6), (velocity, acceleration, goal)
            assert max(pan) <= goal + 1e-6, (velocity, acceleration, goal)


@pytest.mark.parametrize(("rate_hz", "most"), [(30.0, 1.0), (50.0, 0.5), (100.0, 0.1)])
def test_with_a_jerk_limit_it_is_hardly_passed(rate_hz: float, most: float) -> None:
    for scale, section in (
        ((1.0, 0.5), {"jerk_time_s": 0.2}),
        ((1.0, 1.0), {"jerk_time_s": 0.05, "soft_margin": 3.0}),
        ((0.5, 0.5), {"jerk_time_s": 0.05, "soft_margin": 3.0}),
    ):
        velocity, acceleration = scale
        chosen = GateSection(velocity_scale=velocity, acceleration_scale=acceleration, **section)
        limits = limits_of(SO101_ACTION, chosen, rate_hz)
        for goal in (1.0, 5.0, 10.0, 14.0, 33.3, 90.0):
            states = _tracked(limits, [(goal, *HOME[1:])] * round(3.0 * rate_hz))
            pan = [state.position[0] for state in states]
            assert pan[-1] == pytest.approx(goal, abs=1e-6), (scale, goal)
            assert max(pan) <= goal + most, (scale, goal)


@pytest.mark.parametrize("section", [GateSection(), SMOOTH])
@pytest.mark.parametrize("rate_hz", [10.0, 30.0, 100.0])
def test_what_meets_the_table_stops_neither_the_hand_nor_the_base(
    rate_hz: float, section: GateSection
) -> None:
    """A policy that aims a millimetre into it closes its hand all the same."""
    limits = limits_of(SO101_ACTION, section, rate_hz)
    assert limits.points is not None and limits.box

    def height(lift: float) -> float:
        pose = (HOME[0], lift, *HOME[2:])
        return min(point[2] for point in limits.points(pose)) - limits.box[2][0]  # type: ignore

    below, above = HOME[1], 100.0
    while above - below > 1e-6:  # the lift in which the lowest point is 1 mm inside the table
        middle = (above + below) / 2.0
        below, above = (middle, above) if height(middle) > -0.001 else (below, middle)
    assert height(above) == pytest.approx(-0.001, abs=1e-5)
    ticks = round(2.0 * rate_hz)
    down = [(HOME[0], HOME[1] + (above - HOME[1]) * k / ticks, *HOME[2:]) for k in range(ticks)]
    script = [*down, *[(HOME[0] + 15.0, above, *HOME[2:5], 10.0)] * (2 * ticks)]
    last = _tracked(limits, list(script))[-1].position
    assert last[5] == pytest.approx(10.0, abs=1e-6)
    assert last[0] == pytest.approx(HOME[0] + 15.0, abs=1e-6)
    assert 0.0 <= height(last[1]) < 0.01


@pytest.mark.parametrize(("rate_hz", "time_s"), [(30.0, 0.0), (30.0, 0.2), (100.0, 0.05)])
def test_asked_to_stand_where_it_is_a_moving_joint_brakes(rate_hz: float, time_s: float) -> None:
    """What a person asks for who took over by keys and holds none: no farther than a hold."""
    limits = limits_of(SO101_ACTION, GateSection(jerk_time_s=time_s), rate_hz)
    state = arm_at(limits, HOME)
    for k in range(round(0.8 * rate_hz)):
        state, _ = judge(limits, state, (HOME[0] + 100.0 * k / rate_hz, *HOME[1:]))
    held = asked = state
    for _ in range(round(2.0 * rate_hz)):
        held, _ = judge(limits, held, None)
        asked, _ = judge(limits, asked, asked.position)
    assert asked.position == pytest.approx(held.position, abs=1e-6)


def test_near_the_end_of_its_range_a_joint_is_slow_and_yet_arrives() -> None:
    limits = limits_of(SO101_ACTION, GateSection(jerk_time_s=0.05, soft_margin=10.0), 100.0)
    states = _tracked(limits, [(*HOME[:4], 400.0, HOME[5])] * 500)
    roll = [state.position[4] for state in states]
    speed = {round(163.0 - p): state.velocity[4] for p, state in zip(roll, states, strict=True)}
    assert speed[40] == pytest.approx(120.0)
    assert speed[5] <= 72.0
    assert speed[2] <= 36.0
    assert roll[-1] == pytest.approx(163.0, abs=1e-6)


def test_what_limited_a_command_is_said() -> None:
    limits = limits_of(SO101_ACTION, SMOOTH, 30.0)
    start = arm_at(limits, HOME)
    for request, bit in (
        ((500.0, *HOME[1:]), GateBit.POSITION | GateBit.VELOCITY),
        ((3.9, *HOME[1:]), GateBit.ACCELERATION),
        ((1.2, *HOME[1:]), GateBit.JERK),
    ):
        _, verdict = judge(limits, start, request)
        assert verdict.bits == bit, request


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("gate.jerk_time_s=-1", "jerk_time_s"),
        ("gate.soft_margins={elbow_flex.pos: -2}", "soft_margins.elbow_flex.pos"),
        ("gate.standstill_s=0", "standstill_s"),
    ],
)
def test_settings_that_would_loosen_the_gate_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(None, [setting])
    with pytest.raises(ConfigError, match="no joint"):
        limits_of(SO101_ACTION, GateSection(soft_margins={"knee": 1.0}), 30.0)
    assert bench.HOME == HOME
