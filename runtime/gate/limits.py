"""What the gate enforces and what it remembers: limits, its state, verdicts. Data and small pure checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from contracts.errors import ConfigError, GateFault
from contracts.specs import ActionSpec
from runtime.arms.guarded import require_limits
from runtime.board import LoopState
from runtime.config import GateSection
from runtime.gate.kinematics import Points, levers_for, points_for

Numbers = tuple[float, ...]
TOLERANCE = 1e-6
START_TOLERANCE = 3.0
"""How far outside its range (deg or percent) an arm may stand and still be armed: servos sag a little."""
SLOWEST_SHARE = 0.1
"""Of a joint's speed limit: what a soft margin leaves at the very end, so that the end can be reached."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Per joint, in the arm's units (and per second, per second squared, cubed). `jerk`: empty for no limit.
    `margin`: from so far before an end of the range on, the allowed speed towards it falls; empty for none.
    `box`: (low, high) metres for x, y and z of every point that `points` gives; `levers`: metres that a point
    moves at most when that joint moves by one unit. `period_s`: time between two commands."""

    low: Numbers
    high: Numbers
    velocity: Numbers
    acceleration: Numbers
    period_s: float
    box: tuple[tuple[float, float], ...] = ()
    points: Points | None = None
    max_state_age_s: float = math.inf
    max_frame_age_s: float = math.inf
    stale_fault_s: float = math.inf
    jerk: Numbers = ()
    margin: Numbers = ()
    levers: Numbers = ()
    max_action_age_s: float = math.inf


def limits_of(
    spec: ActionSpec,
    section: GateSection,
    rate_hz: float,
    degrees: Sequence[float] | None = (),
) -> GateLimits:
    """The arm's own limits, tightened by the configuration; `degrees` as in `Driver`. Raises `ConfigError`
    for a margin of a joint that the arm doesn't have, and for limits that limit nothing."""
    require_limits(spec)
    acceleration = tuple(a * section.acceleration_scale for a in spec.max_acceleration)
    rise_s = section.jerk_time_s
    margins = _margins(spec, section)
    return GateLimits(
        low=spec.low,
        high=spec.high,
        velocity=tuple(v * section.velocity_scale for v in spec.max_velocity),
        acceleration=acceleration,
        period_s=1.0 / rate_hz,
        box=(section.workspace_x_m, section.workspace_y_m, section.workspace_z_m),
        points=points_for(spec, degrees),
        max_state_age_s=section.max_state_age_s,
        max_frame_age_s=section.max_frame_age_s,
        stale_fault_s=section.stale_fault_s,
        jerk=tuple(a / rise_s for a in acceleration) if rise_s else (),
        margin=margins if any(margins) else (),
        levers=levers_for(spec, degrees),
        max_action_age_s=section.max_action_age_s,
    )


def _margins(spec: ActionSpec, section: GateSection) -> Numbers:
    unknown = sorted(set(section.soft_margins) - set(spec.names))
    if unknown:
        raise ConfigError(
            f"gate.soft_margins names no joint of this arm: '{unknown[0]}'",
            expected=f"some of {list(spec.names)}",
        )
    # Half the range and no more: beyond that the margins of both ends would overlap.
    return tuple(
        min(section.soft_margins.get(name, section.soft_margin), (high - low) / 2)
        for name, low, high in zip(spec.names, spec.low, spec.high, strict=True)
    )


@dataclass(frozen=True, slots=True)
class GateState:
    """`position`/`velocity`/`acceleration`: of the last command. `request`: the last one that was followed.
    `stale_s`: how long readings have been old, or actions refused. `reason`: why HOLD, FAULT or ESTOP.
    `resumable` False: held for good, until the arm's pose is read anew (`arm_at`)."""

    mode: LoopState = LoopState.INIT
    position: Numbers = ()
    velocity: Numbers = ()
    stale_s: float = 0.0
    reason: str = ""
    acceleration: Numbers = ()
    request: Numbers = ()
    resumable: bool = True


LATCHED = (LoopState.FAULT, LoopState.ESTOP)
"""States that nothing leaves but a new start."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`command`: what may be written (after a fault: the next pose of braking). `bits`: see `GateBit`.
    `fault`: why the gate is latched from now on, or empty."""

    command: Numbers
    bits: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an action comes from: the episode it was computed in, the weights that computed it
    (`policy_version`), the number of the inference within the episode, and when it looked."""

    episode: int
    policy_version: int
    chunk: int
    observed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class InForce:
    """What an action must come from now. `chunk`: the newest whose action was followed."""

    episode: int
    policy_version: int
    chunk: int = -1


def wrong_origin(force: InForce, origin: Origin, at_s: float, max_age_s: float) -> str:
    """Why an action of that origin must not be followed; empty if it may."""
    if origin.episode != force.episode:
        return f"an action computed in episode {origin.episode}, in episode {force.episode}"
    if origin.policy_version != force.policy_version:
        return f"an action of weights {origin.policy_version}, weights {force.policy_version} are active"
    if origin.chunk < force.chunk:
        return f"an action of chunk {origin.chunk} after chunk {force.chunk}"
    if not at_s - origin.observed_s <= max_age_s:
        return f"an action from an observation {at_s - origin.observed_s:.1f} s old"
    return ""


def arm_at(
    limits: GateLimits,
    measured: Sequence[float],
    targets: Sequence[float] = (),
    grippers: Sequence[bool] = (),
) -> GateState:
    """ARMED at the measured pose, or at the arm's own `targets` in the joints that stand at them (and in
    `grippers` always: one that holds something stands open). Raises `GateFault` if the arm stands outside
    what it may do."""
    position = tuple(float(value) for value in measured)
    if len(position) != len(limits.low) or not all(map(math.isfinite, position)):
        raise GateFault(
            "joint readings are unusable", expected=f"{len(limits.low)} numbers", found=position
        )
    clamped = tuple(map(clamp, position, limits.low, limits.high))
    off = max(abs(a - b) for a, b in zip(position, clamped, strict=True))
    if off > START_TOLERANCE:
        raise GateFault(
            "a joint stands outside its range",
            found=f"{off:.1f} beyond it",
            remedy="move the arm by hand and start again",
        )
    if len(targets) == len(clamped):
        aimed = tuple(
            clamp(float(aim), low, high)
            if math.isfinite(aim) and (gripper or abs(aim - at) <= START_TOLERANCE)
            else stands
            for aim, at, stands, gripper, low, high in zip(
                targets, position, clamped, grippers, limits.low, limits.high, strict=True
            )
        )
        if inside_box(limits, aimed):
            clamped = aimed
    if not inside_box(limits, clamped):
        raise GateFault(
            "the arm stands outside its workspace",
            expected=f"x, y, z in {limits.box} m",
            found=limits.points(clamped) if limits.points else None,
            remedy="move the arm by hand, or correct gate.workspace_*",
        )
    still = (0.0,) * len(clamped)
    return GateState(LoopState.ARMED, clamped, still, acceleration=still)


def inside_box(limits: GateLimits, position: Sequence[float]) -> bool:
    if limits.points is None or not limits.box:
        return True
    return all(
        low <= value <= high
        for point in limits.points(position)
        for value, (low, high) in zip(point, limits.box, strict=True)
    )


def asked_before(limits: GateLimits, state: GateState) -> Numbers:
    """The request before, NaN before the first. Of one beyond a joint's range its end was followed."""
    before = state.request or (math.nan,) * len(limits.low)
    return tuple(map(clamp, before, limits.low, limits.high))


def clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


def stoppable(room: float, step: float, dt: float) -> float:
    """The largest x such that x, x - step, x - 2 step, ... > 0 add up to at most `room`/dt: the velocity from
    which deceleration stops within `room`, or the acceleration that jerk takes back within a velocity."""
    quota = room / (step * dt)
    if quota <= 0.0:
        return 0.0
    whole = int((math.sqrt(1.0 + 8.0 * quota) - 1.0) / 2.0)
    part = (quota - whole * (whole + 1) / 2.0) / (whole + 1)
    return (whole + part) * step
