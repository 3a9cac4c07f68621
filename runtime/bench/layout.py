"""Gives a draft its places: fixture first, then what the goal names, then distractors.

Rejection sampling in polar coordinates about the arm's pan axis, so that everything is in reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.bench.catalog import ContainerType, FixtureType, ObjectType
from runtime.bench.scene import Draft, Placed

# Radii (m) and half angles (deg) about the pan axis that the hand reaches from above with room
# to lift; measured on the inverse kinematics with pitch 55..90 degrees.
OBJECT_RADIUS_M = (0.155, 0.262)
CONTAINER_RADIUS_M = (0.160, 0.245)
HALF_ANGLE_DEG = 50.0

# Gaps between footprints, metres: the open jaw needs room beside what it grasps.
OBJECT_GAP_M = 0.034
CONTAINER_GAP_M = 0.020
STATIC_GAP_M = 0.004

# Where fixtures stand: front's radius, half angle of the heading, and their swept rectangle
# (nearest x, extra depth behind, extra half width) in the fixture's frame.
_FIXTURE_ROOM: dict[str, tuple[tuple[float, float], float, tuple[float, float, float]]] = {
    "drawer": ((0.258, 0.272), 22.0, (-0.130, 0.0, 0.008)),
    "tray": ((0.190, 0.212), 10.0, (-0.120, 0.005, 0.0)),
    "lid": ((0.160, 0.172), 25.0, (-0.050, 0.050, 0.005)),
    "button": ((0.160, 0.215), 45.0, (-0.010, 0.018, 0.005)),
    "lever": ((0.150, 0.180), 30.0, (-0.025, 0.035, 0.045)),
}


class LayoutImpossible(RuntimeError):
    """What the draft asks for does not fit on the table."""


@dataclass(frozen=True)
class Layout:
    """Where everything starts; lengths in metres."""

    objects: tuple[Placed, ...]
    containers: tuple[Placed, ...]
    fixture: Placed | None


def place(draft: Draft, rng: np.random.Generator) -> Layout:
    """Find a place for everything the goal names and for as many extras as fit.

    Raises:
        LayoutImpossible: after 200 layouts without room for what the goal names.
    """
    for _ in range(200):
        fixture = _place_fixture(draft.fixture, rng) if draft.fixture else None
        taken: list[Placed] = []
        ok = all(_add(c, fixture, taken, rng) for c in draft.containers)
        resting = dict(draft.resting)
        loose = [o for o in draft.objects if o.name not in resting]
        ok = ok and all(_add(o, fixture, taken, rng) for o in loose)
        if not ok or not _spread(draft, taken):
            continue
        extras: tuple[ObjectType | ContainerType, ...] = draft.extra_containers
        for extra in (*extras, *draft.extra_objects):
            if _add(extra, fixture, taken, rng) and not _clear_of_push(taken[-1], draft, taken):
                taken.pop()
        containers = tuple(p for p in taken if isinstance(p.type, ContainerType))
        lying = tuple(p for p in taken if isinstance(p.type, ObjectType))
        held_up = tuple(
            _resting_on(o, next(c for c in containers if c.name == resting[o.name]), rng)
            for o in draft.objects
            if o.name in resting
        )
        return Layout(held_up + lying, containers, fixture)
    raise LayoutImpossible(f"no room for {draft}")


def _spread(draft: Draft, taken: list[Placed]) -> bool:
    if draft.spread_m <= 0.0:
        return True
    a, b = (next(p for p in taken if p.name == n) for n in (draft.goal.thing, draft.goal.target))
    way = math.hypot(a.x_m - b.x_m, a.y_m - b.y_m)
    if way - _footprint(a) - _footprint(b) < draft.spread_m:
        return False
    return draft.goal.kind != "push" or _can_get_behind(a, b)


def _can_get_behind(thing: Placed, target: Placed) -> bool:
    """Whether the hand reaches the side of the thing from which it pushes it to the target."""
    way = math.hypot(thing.x_m - target.x_m, thing.y_m - target.y_m)
    share = (_footprint(thing) + 0.03) / way
    x = thing.x_m + share * (thing.x_m - target.x_m)
    y = thing.y_m + share * (thing.y_m - target.y_m)
    radius, angle = math.hypot(x, y), math.degrees(math.atan2(y, x))
    return 0.14 < radius < 0.275 and abs(angle) < 65.0


def _clear_of_push(spot: Placed, draft: Draft, taken: list[Placed]) -> bool:
    """Whether an extra stays out of the way along which a thing is to be pushed."""
    if draft.goal.kind != "push":
        return True
    a, b = (next(p for p in taken if p.name == n) for n in (draft.goal.thing, draft.goal.target))
    dx, dy = b.x_m - a.x_m, b.y_m - a.y_m
    share = ((spot.x_m - a.x_m) * dx + (spot.y_m - a.y_m) * dy) / (dx * dx + dy * dy)
    share = min(max(share, -0.8), 1.0)
    off = math.hypot(spot.x_m - a.x_m - share * dx, spot.y_m - a.y_m - share * dy)
    return off > _footprint(spot) + 0.045


def _place_fixture(kind: FixtureType, rng: np.random.Generator) -> Placed:
    (near, far), half_angle, _ = _FIXTURE_ROOM[kind.kind]
    radius = rng.uniform(near, far)
    heading = math.radians(rng.uniform(-half_angle, half_angle))
    yaw = heading + math.radians(rng.uniform(-7.0, 7.0))
    if kind.kind == "tray":
        # Slides across the arm's line of sight, to the left or to the right.
        yaw += math.copysign(math.pi / 2, rng.uniform(-1.0, 1.0))
    return Placed(kind, radius * math.cos(heading), radius * math.sin(heading), yaw)


def _add(
    kind: ObjectType | ContainerType,
    fixture: Placed | None,
    taken: list[Placed],
    rng: np.random.Generator,
) -> bool:
    is_object = isinstance(kind, ObjectType)
    near, far = OBJECT_RADIUS_M if is_object else CONTAINER_RADIUS_M
    for _ in range(40):
        radius = math.sqrt(rng.uniform(near**2, far**2))
        angle = math.radians(rng.uniform(-HALF_ANGLE_DEG, HALF_ANGLE_DEG))
        yaw = rng.uniform(-math.pi, math.pi) if is_object else angle + rng.uniform(-0.5, 0.5)
        spot = Placed(kind, radius * math.cos(angle), radius * math.sin(angle), yaw)
        if all(_apart(spot, other) for other in taken) and _clear_of_fixture(spot, fixture):
            taken.append(spot)
            return True
    return False


def _apart(a: Placed, b: Placed) -> bool:
    objects = isinstance(a.type, ObjectType) + isinstance(b.type, ObjectType)
    gap = (STATIC_GAP_M, CONTAINER_GAP_M, OBJECT_GAP_M)[objects]
    distance = math.hypot(a.x_m - b.x_m, a.y_m - b.y_m)
    return distance > _footprint(a) + _footprint(b) + gap


def _footprint(spot: Placed) -> float:
    assert not isinstance(spot.type, FixtureType)
    return spot.type.footprint_m


def _clear_of_fixture(spot: Placed, fixture: Placed | None) -> bool:
    if fixture is None:
        return True
    kind = fixture.type
    assert isinstance(kind, FixtureType)
    near, behind, beside = _FIXTURE_ROOM[kind.kind][2]
    dx, dy = spot.x_m - fixture.x_m, spot.y_m - fixture.y_m
    c, s = math.cos(fixture.yaw_rad), math.sin(fixture.yaw_rad)
    x, y = c * dx + s * dy, -s * dx + c * dy
    out_x = max(near - x, x - (kind.depth_m + behind), 0.0)
    out_y = max(abs(y) - (kind.width_m / 2 + beside), 0.0)
    gap = CONTAINER_GAP_M if isinstance(spot.type, ObjectType) else STATIC_GAP_M
    return math.hypot(out_x, out_y) > _footprint(spot) + gap


def _resting_on(thing: ObjectType, container: Placed, rng: np.random.Generator) -> Placed:
    return Placed(
        thing,
        container.x_m + rng.uniform(-0.008, 0.008),
        container.y_m + rng.uniform(-0.008, 0.008),
        rng.uniform(-math.pi, math.pi),
    )
