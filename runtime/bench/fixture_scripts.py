"""How fixtures are worked: grasp a handle and lead it along its joint, or press a button's cap."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from runtime.bench import arm, goals, motion
from runtime.bench.arm import TipPose
from runtime.bench.catalog import FixtureType
from runtime.bench.mjcf import HANDLE_REACH_M, TRAY_POST_M
from runtime.bench.scene import Goal, Placed

if TYPE_CHECKING:
    from runtime.bench.skills import Motion, Skills

# Bars are grasped with the wrist turned a quarter; always the same way round, so that a policy
# does not have to choose between two mirror images.
_QUARTER_ROLL_DEG = 60.0

# How far each goal leads the joint: a little past closed, so that it is shut.
AIM = {"open": 0.97, "close": -0.03, "turn_left": 0.04, "turn_right": 0.96}


def fixture_of(skills: Skills) -> tuple[Placed, FixtureType]:
    """The scene's fixture and its type."""
    spot = skills.world.scene.fixture
    assert spot is not None and isinstance(spot.type, FixtureType)
    return spot, spot.type


def handle_path(spot: Placed, opened: float, aside_m: np.ndarray) -> np.ndarray:
    """Where the handle is when the fixture is open by that share, float64[3] in the world.

    aside_m: the hand's own offset from the handle, float64[3].
    """
    kind = spot.type
    assert isinstance(kind, FixtureType)
    if kind.kind == "drawer":
        local = np.array(
            [-HANDLE_REACH_M[kind.handle] - opened * kind.travel, 0.0, kind.height_m * 0.55]
        )
    elif kind.kind == "tray":
        local = np.array([-TRAY_POST_M - opened * kind.travel, 0.0, 0.034])
    elif kind.kind == "lid":
        angle, arm_m = opened * kind.travel, kind.depth_m + 0.017
        local = np.array(
            [
                kind.depth_m - arm_m * math.cos(angle) + 0.003 * math.sin(angle),
                0.0,
                kind.height_m + arm_m * math.sin(angle) + 0.003 * math.cos(angle),
            ]
        )
    else:
        angle = (opened - 0.5) * kind.travel
        local = np.array([0.07 - 0.062 * math.cos(angle), -0.062 * math.sin(angle), 0.052])
    c, s = math.cos(spot.yaw_rad), math.sin(spot.yaw_rad)
    world = np.array(
        [spot.x_m + c * local[0] - s * local[1], spot.y_m + s * local[0] + c * local[1], local[2]]
    )
    return np.asarray(world + aside_m)


def _grasp_yaw_deg(spot: Placed, opened: float) -> float:
    """Heading of the jaw's closing line on the fixture's handle."""
    kind = spot.type
    assert isinstance(kind, FixtureType)
    along = math.degrees(spot.yaw_rad)
    if kind.kind == "tray" or (kind.kind == "drawer" and kind.handle == "bar"):
        return along
    if kind.kind == "lever":
        return along + 90.0 + math.degrees((opened - 0.5) * kind.travel)
    return along + 90.0


def work_joint(skills: Skills, goal: Goal) -> Motion:
    """Grasp the fixture's handle and lead it along its joint to where the goal wants it."""
    aim = AIM[goal.kind]
    if skills.fault.kind == "near_miss":
        start = skills.state.fixture_open
        aim = start + (aim - start) * float(skills.rng.uniform(0.3, 0.55))
    yield from lead_handle(skills, aim)
    yield from skills.home()


def _pose(point_m: np.ndarray, pitch_deg: float, yaw_deg: float) -> TipPose:
    x, y, z = (float(v) for v in point_m)
    return TipPose(x, y, z, pitch_deg, yaw_deg)


def lead_handle(skills: Skills, aim: float) -> Motion:
    """Grasp the handle, lead it until the joint is open by `aim`, let go and rise."""
    for _ in range(3):
        yield from _lead_once(skills, aim)
        if skills.fault.kind or _is_led(skills, aim):
            return


def _is_led(skills: Skills, aim: float) -> bool:
    opened, kind = skills.state.fixture_open, fixture_of(skills)[1].kind
    if kind == "lever":
        return abs(opened - aim) < 0.15
    if aim < 0.0:
        return opened <= goals.CLOSED_BELOW[kind]
    return opened >= min(goals.OPEN_FROM[kind] + 0.02, aim - 0.05)


def _lead_once(skills: Skills, aim: float) -> Motion:
    spot, kind = fixture_of(skills)
    start = skills.state.fixture_open
    if kind.kind == "lid" and aim < 0.0:
        aim = -0.12  # the arm gives way a little: press the tab down
    along = {"drawer": -0.004, "lid": -0.002}.get(kind.kind, -0.006)
    side = skills.jitter(0.004)
    aside = np.array([0.0, 0.0, along + 0.5 * side[0]])
    if kind.handle == "bar":
        across = np.array([-math.sin(spot.yaw_rad), math.cos(spot.yaw_rad), 0.0])
        aside = aside + across * 1.5 * side[1]
    if skills.fault.kind == "miss_grasp":
        aside[2] += float(skills.rng.uniform(0.040, 0.050))
    points = [handle_path(spot, start + t * (aim - start), aside) for t in np.linspace(0, 1, 6)]
    near = _QUARTER_ROLL_DEG if kind.handle == "bar" else 0.0
    yaw = _grasp_yaw_deg(spot, start)
    # Bars and trays leave little room behind the handle: a jaw opened wide would not fit in.
    jaw = 34.0 if kind.handle == "bar" else 38.0 if kind.kind == "tray" else 62.0
    first = points[0]
    if kind.kind == "lid":
        # Leaning, the hand can still draw back from the tab of an open lid.
        skills.pitch_deg = min(skills.pitch_deg, 62.0)
    back = 0.035 if kind.kind == "lid" else 0.0  # come at a lid's tab from the arm's side
    above, pitch, end_pitch = _lead_stance(skills, points, yaw, near, back)
    yield from skills.move(_pose(above, pitch, yaw), jaw, near)
    yield from skills.pause()
    yield from skills.straight(_pose(first, pitch, yaw), 0.8)
    yield from skills.grip(2.0, 0.1)

    def path(share: float) -> TipPose:
        opened = start + share * (aim - start)
        lean = pitch + share * (end_pitch - pitch)
        return _pose(handle_path(spot, opened, aside), lean, _grasp_yaw_deg(spot, opened))

    rows = motion.traced_move(skills.q, path, float(skills.q[5]), 0.8 * skills.speed)
    for row in rows:
        yield from skills.emit_one(row)
    yield from skills.wait(0.2)
    yield from skills.release(jaw - 10.0, backwards=kind.kind == "lid")


def _lead_stance(
    skills: Skills, points: list[np.ndarray], yaw_deg: float, roll_near: float, back_m: float
) -> tuple[np.ndarray, float, float]:
    """(hover point, pitch at the first point, pitch at the last) for leading a handle.

    One pitch for all points where there is one; else the hand turns as it goes.
    """
    first = points[0]
    for height in np.arange(skills.hover_m, 0.005, -0.01):
        share = 1.0 - back_m / float(np.hypot(first[0], first[1]))
        above = np.array([first[0] * share, first[1] * share, first[2] + height])
        try:
            pitch = skills.stance([above, *points], yaw_deg, roll_near)
            return above, pitch, pitch
        except arm.Unreachable:
            pass
        try:
            begin = skills.stance([above, *points[:3]], yaw_deg, roll_near)
            return above, begin, skills.stance(points[3:], yaw_deg, roll_near)
        except arm.Unreachable:
            continue
    raise arm.Unreachable(f"no stance for leading the handle from {np.round(first, 3)}")


def press(skills: Skills, goal: Goal) -> Motion:
    """Press the button's cap with the closed jaw."""
    spot, _ = fixture_of(skills)
    for _ in range(3):
        handle = skills.state.handle_m
        lit = skills.state.lit
        off = skills.jitter(0.006)
        if skills.fault.kind == "miss_grasp":
            side = float(skills.rng.choice([-1.0, 1.0])) * 0.045
            off = side * np.array([-math.sin(spot.yaw_rad), math.cos(spot.yaw_rad)])
        x, y, z = handle[0] + off[0], handle[1] + off[1], float(handle[2])
        yaw = math.degrees(math.atan2(y, x)) + 90.0
        depth = (
            -0.016 if skills.fault.kind != "near_miss" else float(skills.rng.uniform(0.004, 0.010))
        )
        pitch = skills.stance([(x, y, z + skills.hover_m), (x, y, z + depth)], yaw)
        yield from skills.move(TipPose(x, y, z + skills.hover_m, pitch, yaw), 4.0)
        yield from skills.pause()
        yield from skills.straight(TipPose(x, y, z + depth, pitch, yaw), 0.8)
        yield from skills.wait(0.2)
        yield from skills.retreat(skills.hover_m)
        if skills.fault.kind or skills.state.lit != lit:
            break
    yield from skills.home()
