"""The nearest lawful command when jerk is limited too, or speeds fall towards the ends of joints. Pure.

`_brake` is one fixed way of coming to rest. A command is lawful if braking from it keeps every limit to
standstill; since braking's own first step then leads to its second, the next tick has a lawful answer
whatever is asked (Blanchini 1999, Set invariance in control). Towards a request that can't be met at once it
follows a chain of square-root laws from distance to speed to acceleration (Zanasi, Lo Bianco, Tonielli 2000,
Nonlinear filters for the generation of smooth trajectories); these make it smooth, and nothing lawful.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from contracts.messages import GateBit
from runtime.gate.limits import (
    SLOWEST_SHARE,
    TOLERANCE,
    GateLimits,
    GateState,
    Numbers,
    asked_before,
    clamp,
    stoppable,
)
from runtime.gate.motion import SCALES

_STILL = 1e-9
"""Units per second below which a joint stands."""
_SAME = 1e-9
"""Units that two positions may differ and be the same: rounding."""
_PAST = 0.5
"""A joint that catches up with a request may shoot past it by this share of what it lacks."""
_PAST_STEPS = 0.05
"""Or by so many times what the least change of acceleration moves it in a tick."""
_LONGEST = 4000
"""Ticks of braking after which something is wrong with the limits themselves."""


class _Joint(NamedTuple):
    """One joint's limits, and where it is. `step`: how much its acceleration may change in a tick. A tuple:
    six are made in every tick."""

    low: float
    high: float
    cap: float
    most: float
    step: float
    margin: float
    dt: float
    position: float
    velocity: float
    acceleration: float


def shape(
    limits: GateLimits, state: GateState, wanted: Sequence[float] | None
) -> tuple[Numbers, Numbers, Numbers, int]:
    """The nearest lawful command to `wanted` (None: to standing still), its velocity and acceleration, and
    what was done."""
    joints = _joints(limits, state)
    brakes = [_brake(j.velocity, j.acceleration, j.most, j.step, j.dt) for j in joints]
    if wanted is None:
        return _moved(joints, [_next(j, a) for j, a in zip(joints, brakes, strict=True)], 0)
    bits = 0
    chosen: list[float] = []
    paths: list[list[float]] = []
    before = asked_before(limits, state)
    for joint, target, last, brake in zip(joints, wanted, before, brakes, strict=True):
        path, bit = _pursue(joint, float(target), last, brake)
        bits |= bit
        chosen.append(path[0])
        paths.append(path)
    if not limits.box or limits.points is None or _stays_inside(limits, state, paths):
        return _moved(joints, chosen, bits)
    bits |= GateBit.WORKSPACE
    asked = [_acceleration(j, p) for j, p in zip(joints, chosen, strict=True)]
    for scale in SCALES[1:]:
        paths = [
            _path(j, _next(j, b + scale * (a - b)))
            for j, a, b in zip(joints, asked, brakes, strict=True)
        ]
        if all(map(_lawful, joints, paths)) and _stays_inside(limits, state, paths):
            return _moved(joints, [path[0] for path in paths], bits)
    # Braking was proved lawful when the last command was given. Those joints move on, one after the other,
    # that keep it so: what meets a wall stops neither the gripper nor the base.
    kept = [_path(j, _next(j, a)) for j, a in zip(joints, brakes, strict=True)]
    for at, position in reversed(list(enumerate(chosen))):
        trial = [*kept[:at], _path(joints[at], position), *kept[at + 1 :]]
        if _stays_inside(limits, state, trial):
            kept = trial
    return _moved(joints, [path[0] for path in kept], bits)


def _joints(limits: GateLimits, state: GateState) -> list[_Joint]:
    dt, none = limits.period_s, (0.0,) * len(limits.low)
    # Without a limit an acceleration may turn round in one tick.
    jerks = limits.jerk or tuple(2.0 * a / dt for a in limits.acceleration)
    return [
        _Joint(low, high, cap, most, min(jerk * dt, 2.0 * most), margin, dt, p, v, a)
        for low, high, cap, most, jerk, margin, p, v, a in zip(
            limits.low, limits.high, limits.velocity, limits.acceleration, jerks,
            limits.margin or none, state.position, state.velocity, state.acceleration or none,
            strict=True,
        )
    ]  # fmt: skip


def _next(joint: _Joint, acceleration: float) -> float:
    """The position that this acceleration leads to."""
    velocity = joint.velocity + acceleration * joint.dt
    return joint.position if abs(velocity) < _STILL else joint.position + velocity * joint.dt


def _acceleration(joint: _Joint, position: float) -> float:
    return ((position - joint.position) / joint.dt - joint.velocity) / joint.dt


def _moved(
    joints: Sequence[_Joint], positions: Sequence[float], bits: int
) -> tuple[Numbers, Numbers, Numbers, int]:
    velocities = tuple((p - j.position) / j.dt for j, p in zip(joints, positions, strict=True))
    changes = tuple((v - j.velocity) / j.dt for j, v in zip(joints, velocities, strict=True))
    return tuple(positions), velocities, changes, bits


def _pursue(joint: _Joint, wanted: float, before: float, brake: float) -> tuple[list[float], int]:
    """The positions from the next one on, were this joint to brake right after it; and what was done. The
    request itself if that is lawful and the joint can stay with it, else as near to it as the limits let the
    joint come."""
    bits = 0
    target = clamp(wanted, joint.low, joint.high)
    if target != wanted:
        bits |= GateBit.POSITION
    least, most = _span(joint)
    asked = _acceleration(joint, target)
    slack = _SAME / joint.dt**2
    if least - slack <= asked <= most + slack:
        path = _path(joint, target)
        if not _lawful(joint, path):
            bits |= GateBit.MARGIN
        elif _arrives(joint, target, before):
            return path, bits
        else:
            bits |= GateBit.JERK
    elif abs(target - joint.position) > (joint.cap + TOLERANCE) * joint.dt:
        bits |= GateBit.VELOCITY
    elif abs(asked) > joint.most + slack:
        bits |= GateBit.ACCELERATION
    else:
        bits |= GateBit.JERK
    shaped = clamp(_towards(joint, target, before), least, most)
    speed = _speed(joint, target, before)
    beyond = _beyond(joint, target, speed, _next(joint, brake))
    for share in (1.0, 0.75, 0.5, 0.25):
        position = _next(joint, brake + share * (shaped - brake))
        path = _path(joint, position)
        if not _lawful(joint, path):
            bits |= GateBit.MARGIN
        elif _beyond(joint, target, speed, position) <= max(beyond, 0.0) + _SAME:
            return path, bits
    return _path(joint, _next(joint, brake)), bits


def _span(joint: _Joint) -> tuple[float, float]:
    """Accelerations that the joint may have next: jerk and acceleration within their limits, and able to be
    taken back to none before the velocity reaches its own."""
    up = stoppable(joint.cap - joint.velocity, joint.step, joint.dt)
    down = stoppable(joint.cap + joint.velocity, joint.step, joint.dt)
    most = min(joint.acceleration + joint.step, joint.most, up)
    least = max(joint.acceleration - joint.step, -joint.most, -down)
    return min(least, most), max(least, most)


def _towards(joint: _Joint, target: float, before: float) -> float:
    """An acceleration that leads to the target, and on with it if it moves: without the target's own speed a
    request that moves on would be followed a braking distance behind."""
    speed = _speed(joint, target, before)
    distance = target - joint.position - speed * joint.dt  # beyond going along with it
    delay_s = joint.most / joint.step * joint.dt / 2 + joint.dt
    closing = joint.most * (math.sqrt(delay_s**2 + 2 * abs(distance) / joint.most) - delay_s)
    wish = speed + math.copysign(closing, distance)
    room = joint.high - joint.position if wish > 0 else joint.position - joint.low
    allowed = _allowed(joint, room)
    wish = clamp(wish, -allowed, allowed) - joint.velocity
    return math.copysign(stoppable(abs(wish), joint.step, joint.dt), wish)


def _speed(joint: _Joint, target: float, before: float) -> float:
    """Of the request itself, from the one before; 0 where it jumps, or is to stand where the joint is."""
    if target == joint.position:
        return 0.0
    speed = (target - before) / joint.dt  # NaN before the first
    return speed if abs(speed) <= joint.cap else 0.0


def _arrives(joint: _Joint, target: float, before: float) -> bool:
    """Whether a joint that can be at the target in the next tick is to be: it was at the one before and goes
    along, or it won't shoot far past. One that was there at any speed swung about it for ever."""
    speed = _speed(joint, target, before)
    behind = joint.position - (target - speed * joint.dt)
    if abs(joint.position - before) <= _SAME:
        return True
    aside = joint._replace(position=behind, velocity=joint.velocity - speed)
    past = abs(_path(aside, 0.0)[-1])
    return past <= max(_PAST * abs(behind), _PAST_STEPS * joint.step * joint.dt**2)


def _beyond(joint: _Joint, target: float, speed: float, position: float) -> float:
    """How far beyond the request braking from that position to its speed ends; negative: short of it."""
    behind = joint.position - (target - speed * joint.dt)
    aside = joint._replace(position=behind, velocity=joint.velocity - speed)
    end = _path(aside, position - target)[-1]
    return end if behind <= 0.0 else -end


def _allowed(joint: _Joint, room: float) -> float:
    """The speed allowed towards an end of the range that is `room` away."""
    if room >= joint.margin:
        return joint.cap
    return joint.cap * max(SLOWEST_SHARE, room / joint.margin)


def _brake(velocity: float, acceleration: float, most: float, step: float, dt: float) -> float:
    """The next acceleration of braking. Depends on velocity and acceleration alone, so that braking twice is
    braking on."""
    if velocity < 0.0 or (velocity == 0.0 and acceleration < 0.0):
        return -_slow(-velocity, -acceleration, most, step, dt)
    return _slow(velocity, acceleration, most, step, dt)


def _slow(velocity: float, acceleration: float, most: float, step: float, dt: float) -> float:
    """Braking from a velocity >= 0: as much deceleration as can be taken back before the joint stands."""
    if velocity < _STILL and abs(acceleration) <= step:
        return -velocity / dt
    harder = min(step - acceleration, most)
    if harder > 0.0:
        terms = math.ceil(harder / step)
        if (terms * harder - step * terms * (terms - 1) / 2) * dt > velocity:
            harder = max(stoppable(velocity, step, dt), -acceleration - step)
    return -harder


def _path(joint: _Joint, position: float) -> list[float]:
    """That position, and every further one of braking from it to standstill."""
    dt, most, step = joint.dt, joint.most, joint.step
    velocity = (position - joint.position) / dt
    acceleration = (velocity - joint.velocity) / dt
    path = [position]
    while not (abs(velocity) < _STILL and abs(acceleration) <= step) and len(path) < _LONGEST:
        if velocity > 0.0:
            acceleration = _slow(velocity, acceleration, most, step, dt)
        else:
            acceleration = _brake(velocity, acceleration, most, step, dt)
        velocity += acceleration * dt
        position += velocity * dt
        path.append(position)
    return path


def _lawful(joint: _Joint, path: Sequence[float]) -> bool:
    """Whether the whole path keeps the range, and the speeds allowed near its ends."""
    top, bottom = max(path), min(path)
    if top > joint.high + _SAME or bottom < joint.low - _SAME or len(path) >= _LONGEST:
        return False
    margin = joint.margin
    if not margin or (top <= joint.high - margin and bottom >= joint.low + margin):
        return True
    last = joint.position
    for position in path:
        moved = position - last
        room = joint.high - last if moved > 0 else last - joint.low
        if room < margin and abs(moved) > _allowed(joint, room) * joint.dt + _SAME:
            return False
        last = position
    return True


def _stays_inside(limits: GateLimits, state: GateState, paths: Sequence[list[float]]) -> bool:
    """Whether every pose of these joint paths keeps the workspace. Looks only where the arm may have come as
    far as the nearest wall since the last look, so that far from walls one look is enough."""
    levers, last = limits.levers, state.position
    room_m = _room_m(limits, last)  # of the last command
    if levers:
        reach_m = sum(
            lever * max(max(path) - at, at - min(path))
            for lever, path, at in zip(levers, paths, last, strict=True)
        )
        if reach_m <= room_m:
            return True
    longest = max(map(len, paths))
    whole = [path + path[-1:] * (longest - len(path)) for path in paths]
    moved_m = 0.0
    for pose in zip(*whole, strict=True):
        if levers:
            for lever, now, before in zip(levers, pose, last, strict=True):
                moved_m += lever * abs(now - before)
            last = pose
            if moved_m <= room_m:
                continue
        room_m, moved_m = _room_m(limits, pose), 0.0
        if room_m < 0.0:
            return False
    return True


def _room_m(limits: GateLimits, pose: Sequence[float]) -> float:
    """How far the nearest wall of the workspace is from the nearest point; negative outside."""
    assert limits.points is not None
    (x0, x1), (y0, y1), (z0, z1) = limits.box
    return min(
        min(x - x0, x1 - x, y - y0, y1 - y, z - z0, z1 - z) for x, y, z in limits.points(pose)
    )
