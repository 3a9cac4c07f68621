"""The nearest lawful command when acceleration is limited and jerk is not. Pure.

Position, velocity, acceleration and workspace at once: each command is proved to leave room for braking as
hard as allowed, so that the next tick has a lawful answer whatever is asked then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from contracts.messages import GateBit
from runtime.gate.limits import (
    TOLERANCE,
    GateLimits,
    GateState,
    Numbers,
    asked_before,
    clamp,
    inside_box,
    stoppable,
)

SCALES = (1.0, 0.5, 0.25, 0.1)
"""Shares of the wanted motion that are tried at the workspace's boundary before braking."""


def shape(
    limits: GateLimits, state: GateState, wanted: Sequence[float] | None
) -> tuple[Numbers, Numbers, int]:
    """The nearest lawful command to `wanted` (None: to standing still), its velocity, what was done."""
    bits = 0
    dt = limits.period_s
    spans = [_span(limits, state, joint) for joint in range(len(limits.low))]
    position: list[float] = []
    before = asked_before(limits, state)
    for joint, (lowest, highest) in enumerate(spans):
        last = state.position[joint]
        if wanted is None:
            position.append(last + clamp(0.0, lowest, highest) * dt)
            continue
        target = clamp(float(wanted[joint]), limits.low[joint], limits.high[joint])
        if target != wanted[joint]:
            bits |= GateBit.POSITION
        speed = (target - last) / dt
        cap = limits.velocity[joint]
        if abs(speed) > cap + TOLERANCE:
            bits |= GateBit.VELOCITY
            speed = math.copysign(cap, speed)
        # No faster than it can stay with the request, at the request's own speed: else it swings about it.
        along = (target - before[joint]) / dt
        # A jump has no speed, nor has one that is to stand where it is.
        along = along if abs(along) <= cap and target != last else 0.0
        ahead = target - last - along * dt
        closing = stoppable(abs(ahead), limits.acceleration[joint] * dt, dt)
        if abs(speed - along) > closing + TOLERANCE:
            bits |= GateBit.ACCELERATION
            speed = along + math.copysign(closing, ahead)
        elif lowest - TOLERANCE <= speed <= highest + TOLERANCE and abs(speed) < cap:
            position.append(target)
            continue
        lawful = clamp(speed, lowest, highest)
        if abs(lawful - speed) > TOLERANCE:
            bits |= GateBit.ACCELERATION
        position.append(last + lawful * dt)
    if not limits.box or limits.points is None:
        return _moved(state, position, dt, bits)
    for scale in SCALES:
        trial = [
            last + clamp(scale * (p - last) / dt, *span) * dt if scale < 1.0 else p
            for last, p, span in zip(state.position, position, spans, strict=True)
        ]
        speeds = [(p - last) / dt for p, last in zip(trial, state.position, strict=True)]
        if all(inside_box(limits, pose) for pose in _braking(limits, trial, speeds)):
            return _moved(state, trial, dt, bits)
        bits |= GateBit.WORKSPACE
    # Braking as hard as allowed was proved to stay inside when the last command was given. Those joints move
    # on, one after the other, that keep it so: what meets a wall stops neither the gripper nor the base.
    kept = [last + clamp(0.0, *span) * dt for last, span in zip(state.position, spans, strict=True)]
    for joint, wished in reversed(list(enumerate(position))):
        trial = [*kept[:joint], wished, *kept[joint + 1 :]]
        speeds = [(p - last) / dt for p, last in zip(trial, state.position, strict=True)]
        if all(inside_box(limits, pose) for pose in _braking(limits, trial, speeds)):
            kept = trial
    return _moved(state, kept, dt, bits)


def _moved(
    state: GateState, position: Sequence[float], dt: float, bits: int
) -> tuple[Numbers, Numbers, int]:
    velocity = tuple((p - last) / dt for p, last in zip(position, state.position, strict=True))
    return tuple(position), velocity, bits


def _span(limits: GateLimits, state: GateState, joint: int) -> tuple[float, float]:
    """Velocities that a joint may have next: within its caps, and able to stop before its range ends."""
    step = limits.acceleration[joint] * limits.period_s
    speed, cap = state.velocity[joint], limits.velocity[joint]
    room_up = limits.high[joint] - state.position[joint]
    room_down = state.position[joint] - limits.low[joint]
    highest = min(cap, speed + step, stoppable(room_up, step, limits.period_s))
    lowest = max(-cap, speed - step, -stoppable(room_down, step, limits.period_s))
    # Rounding may put one a hair beyond the other when a limit is all but reached.
    return min(lowest, highest), max(lowest, highest)


def _braking(
    limits: GateLimits, position: Sequence[float], velocity: Sequence[float]
) -> Iterator[Sequence[float]]:
    """The pose itself and every further one of braking from it as hard as allowed."""
    yield position
    dt = limits.period_s
    pose, speed = list(position), list(velocity)
    steps = [a * dt for a in limits.acceleration]
    while any(abs(v) > step for v, step in zip(speed, steps, strict=True)):
        speed = [v - clamp(v, -step, step) for v, step in zip(speed, steps, strict=True)]
        pose = [p + v * dt for p, v in zip(pose, speed, strict=True)]
        yield pose
