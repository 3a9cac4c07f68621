"""How each kind of goal is done: one short script of skills for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from runtime.bench import arm, goals, motion
from runtime.bench.arm import TipPose
from runtime.bench.catalog import ContainerType, FixtureType
from runtime.bench.mjcf import HANDLE_REACH_M, TRAY_POST_M
from runtime.bench.scene import Goal, Placed

if TYPE_CHECKING:
    from runtime.bench.skills import Motion, Skills

# Bars are grasped with the wrist turned a quarter; always the same way round, so that a policy
# does not have to choose between two mirror images.
_QUARTER_ROLL_DEG = 60.0


def put(skills: Skills, goal: Goal) -> Motion:
    """Pick the thing and put it on or in a container, or on another thing."""
    yield from skills.pick(goal.thing)
    scene = skills.world.scene
    if goal.target in scene.container_names:
        place = scene.container(goal.target)
        kind = place.type
        assert isinstance(kind, ContainerType)
        spread = 0.012 if kind.relation == "on" else 0.006
        target = np.array([place.x_m, place.y_m]) + skills.jitter(spread)
        bottom, half = max(kind.floor_m + 0.002, kind.wall_m + 0.006), kind.half_m
    else:
        base = skills.object(goal.target)
        target, half = base.position_m[:2], base.type.footprint_m
        bottom = float(base.position_m[2]) + base.half_height_m + 0.001
    if skills.fault.kind == "near_miss":
        target, bottom = _beside(skills, target, half, goal), 0.006
    yield from skills.retreat(skills.hover_m)
    yield from skills.carry(goal.thing, target, bottom)
    if skills.fault.kind != "drop":
        yield from skills.release()
    yield from skills.home()


def _beside(skills: Skills, target: np.ndarray, half_m: float, goal: Goal) -> np.ndarray:
    """A reachable spot on the table just past the rim of where the thing should have gone."""
    name, but = goal.thing, (goal.thing, goal.target)
    far = half_m + skills.object(name).type.footprint_m + float(skills.rng.uniform(0.008, 0.022))
    here = skills.object(name).position_m[:2]
    back = math.atan2(here[1] - target[1], here[0] - target[0])
    for turn in (*skills.rng.uniform(-1.0, 1.0, 8), 0.0):
        angle = back + 1.6 * turn
        spot = target + far * np.array([math.cos(angle), math.sin(angle)])
        if 0.15 < float(np.hypot(*spot)) < 0.27 and not _crowded(skills, spot, 0.04, but):
            return spot
    return target + far * np.array([math.cos(back), math.sin(back)])


def _crowded(skills: Skills, spot: np.ndarray, room_m: float, but: tuple[str, ...]) -> bool:
    """Whether something other than `but` stands within room_m of the spot's middle."""
    state, scene = skills.state, skills.world.scene
    for thing in state.objects:
        apart = float(np.hypot(*(thing.position_m[:2] - spot)))
        if thing.type.name not in but and apart < room_m + thing.type.footprint_m * 0.6:
            return True
    for place in scene.containers:
        apart = math.hypot(place.x_m - spot[0], place.y_m - spot[1])
        clear = place.type.footprint_m + 0.7 * room_m  # type: ignore[union-attr]
        if place.name not in but and apart < clear:
            return True
    return False


def free_spot(skills: Skills, name: str) -> np.ndarray:
    """World x, y of a free place on the table near the thing, within reach."""
    here = skills.object(name).position_m[:2]
    for room_m in (0.070, 0.055, 0.040):
        best, least = None, math.inf
        for radius in np.linspace(0.155, 0.255, 6):
            for angle in np.radians(np.linspace(-62.0, 62.0, 25)):
                spot = radius * np.array([math.cos(angle), math.sin(angle)])
                cost = float(np.hypot(*(spot - here))) + 0.03 * skills.noise * skills.rng.random()
                if cost < least and not _crowded(skills, spot, room_m, (name,)):
                    best, least = spot, cost
        if best is not None:
            return best
    raise arm.Unreachable(f"no free spot on the table for the {name}")


def take_off(skills: Skills, goal: Goal) -> Motion:
    """Pick the thing from its container and put it down on the table."""
    yield from skills.pick(goal.thing)
    target, bottom = free_spot(skills, goal.thing), 0.003
    if skills.fault.kind == "near_miss":
        target, bottom = skills.object(goal.thing).position_m[:2] + skills.jitter(0.008), 0.014
    yield from skills.retreat(skills.hover_m)
    yield from skills.carry(goal.thing, target, bottom)
    yield from skills.release()
    yield from skills.home()


def lift(skills: Skills, goal: Goal) -> Motion:
    """Pick the thing and hold it up."""
    yield from skills.pick(goal.thing)
    if skills.fault.kind == "near_miss":
        yield from skills.retreat(0.025)
        yield from skills.wait(0.3)
        yield from skills.release()
    elif skills.fault.kind == "drop":
        yield from skills.retreat(0.040)
        yield from skills.grip(90.0)
        yield from skills.home()
    else:
        yield from skills.retreat(float(0.085 + 0.01 * skills.noise * skills.rng.uniform(-1.0, 1.0)))
        yield from skills.wait(0.6)


def push(skills: Skills, goal: Goal) -> Motion:
    """Push the thing over the table with both fingertips, steering by where it goes."""
    thing = skills.object(goal.thing)
    aside = np.zeros(2)
    target = _push_target(skills, goal)
    ahead = target - thing.position_m[:2]
    ahead /= np.linalg.norm(ahead)
    if skills.fault.kind == "miss_grasp":
        aside = np.array([-ahead[1], ahead[0]]) * float(skills.rng.choice([-0.055, 0.055]))
    z = 0.016
    back = thing.type.footprint_m + 0.022
    behind = thing.position_m[:2] - back * ahead + aside
    yaw = math.degrees(math.atan2(ahead[1], ahead[0])) + 90.0
    pitch = skills.stance([(*behind, z), (*behind, z + 0.05)], yaw)
    jaw = 30.0
    yield from skills.move(TipPose(behind[0], behind[1], z + 0.05, pitch, yaw), jaw)
    yield from skills.straight(TipPose(behind[0], behind[1], z, pitch, yaw))
    yield from skills.grip(jaw, 0.0)
    start_gap = goals.push_gap_m(goal, skills.state, skills.world.scene)
    stop_at = 0.008
    if skills.fault.kind == "near_miss":
        stop_at = start_gap * float(skills.rng.uniform(0.4, 0.6))
    tip, way = behind.copy(), ahead
    for _ in range(45):
        here = skills.object(goal.thing).position_m[:2]
        left = target - here
        done = goals.push_gap_m(goal, skills.state, skills.world.scene) < stop_at
        if skills.fault.kind == "miss_grasp":
            done, left = float(np.hypot(*(tip - behind))) > start_gap, ahead
        if done:
            break
        # The two fingertips are a fork that the thing stays in: lead it, turning slowly.
        way = left / max(float(np.hypot(*left)), 1e-6)
        tip = tip + way * 0.011 * skills.speed
        turn = arm.wrap_half_turn(math.degrees(math.atan2(way[1], way[0])) + 90.0 - yaw)
        yaw += float(np.clip(turn, -2.5, 2.5))
        skills.pitch_deg = pitch
        pitch = skills.stance([(*tip, z)], yaw, float(skills.q[4]))
        pose = TipPose(tip[0], tip[1], z, pitch, yaw)
        yield from skills.emit_one(arm.inverse(pose, jaw, float(skills.q[4])))
    yield from skills.wait(0.2)
    back_m = min(0.025, float(np.hypot(*(tip - behind))))
    drawn = TipPose(tip[0] - back_m * way[0], tip[1] - back_m * way[1], z, pitch, yaw)
    yield from skills.straight(drawn)
    yield from skills.retreat(0.06)
    yield from skills.home()


def _push_target(skills: Skills, goal: Goal) -> np.ndarray:
    scene = skills.world.scene
    if goal.target in scene.container_names:
        place = scene.container(goal.target)
        return np.array([place.x_m, place.y_m])
    return skills.object(goal.target).position_m[:2].copy()


# -- fixtures --------------------------------------------------------------------------------


def _fixture(skills: Skills) -> tuple[Placed, FixtureType]:
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
    return world + aside_m


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


_AIM = {"open": 0.97, "close": -0.03, "turn_left": 0.04, "turn_right": 0.96}


def work_joint(skills: Skills, goal: Goal) -> Motion:
    """Grasp the fixture's handle and lead it along its joint to where the goal wants it."""
    aim = _AIM[goal.kind]
    if skills.fault.kind == "near_miss":
        start = skills.state.fixture_open
        aim = start + (aim - start) * float(skills.rng.uniform(0.3, 0.55))
    yield from lead_handle(skills, aim)
    yield from skills.home()


def lead_handle(skills: Skills, aim: float) -> Motion:
    """Grasp the handle, lead it until the joint is open by `aim`, let go and rise."""
    for _ in range(3):
        yield from _lead_once(skills, aim)
        if skills.fault.kind or _is_led(skills, aim):
            return


def _is_led(skills: Skills, aim: float) -> bool:
    opened, kind = skills.state.fixture_open, _fixture(skills)[1].kind
    if kind == "lever":
        return abs(opened - aim) < 0.15
    if aim < 0.0:
        return opened <= goals.CLOSED_BELOW[kind]
    return opened >= min(goals.OPEN_FROM[kind] + 0.02, aim - 0.05)


def _lead_once(skills: Skills, aim: float) -> Motion:
    spot, kind = _fixture(skills)
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
    yield from skills.move(TipPose(*above, pitch, yaw), jaw, near)
    yield from skills.pause()
    yield from skills.straight(TipPose(*first, pitch, yaw), 0.8)
    yield from skills.grip(2.0, 0.1)

    def path(share: float) -> TipPose:
        opened = start + share * (aim - start)
        lean = pitch + share * (end_pitch - pitch)
        return TipPose(*handle_path(spot, opened, aside), lean, _grasp_yaw_deg(spot, opened))

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
    spot, _ = _fixture(skills)
    for _ in range(3):
        handle = skills.state.handle_m
        lit = skills.state.lit
        off = skills.jitter(0.006)
        if skills.fault.kind == "miss_grasp":
            side = float(skills.rng.choice([-1.0, 1.0])) * 0.045
            off = side * np.array([-math.sin(spot.yaw_rad), math.cos(spot.yaw_rad)])
        x, y, z = handle[0] + off[0], handle[1] + off[1], float(handle[2])
        yaw = math.degrees(math.atan2(y, x)) + 90.0
        depth = -0.016 if skills.fault.kind != "near_miss" else float(skills.rng.uniform(0.004, 0.010))
        pitch = skills.stance([(x, y, z + skills.hover_m), (x, y, z + depth)], yaw)
        yield from skills.move(TipPose(x, y, z + skills.hover_m, pitch, yaw), 4.0)
        yield from skills.pause()
        yield from skills.straight(TipPose(x, y, z + depth, pitch, yaw), 0.8)
        yield from skills.wait(0.2)
        yield from skills.retreat(skills.hover_m)
        if skills.fault.kind or skills.state.lit != lit:
            break
    yield from skills.home()


def store(skills: Skills, goal: Goal) -> Motion:
    """Open the drawer, put the thing in, close the drawer."""
    spot, kind = _fixture(skills)
    if skills.state.fixture_open < goals.OPEN_FROM["drawer"]:
        yield from lead_handle(skills, 0.98)
    yield from skills.pick(goal.thing)
    yield from skills.retreat(skills.hover_m)
    opened = skills.state.fixture_open
    middle = goals.drawer_middle(spot, opened)
    if skills.fault.kind == "near_miss":
        middle = free_spot(skills, goal.thing)
    # A block goes in with its long side along the drawer's front: the other way it would not clear.
    turn = 0.0 if skills.object(goal.thing).type.shape == "block" else 90.0
    yaw = math.degrees(spot.yaw_rad) + turn
    yield from skills.carry(goal.thing, middle, 0.028, yaw, kind.height_m + 0.012)
    if skills.fault.kind != "drop":
        yield from skills.release(20.0)
    yield from lead_handle(skills, _AIM["close"])
    yield from skills.home()


SCRIPTS: dict[str, Callable[[Skills, Goal], Motion]] = {
    "on": put,
    "in": put,
    "off": take_off,
    "lift": lift,
    "stack": put,
    "push": push,
    "open": work_joint,
    "close": work_joint,
    "turn_left": work_joint,
    "turn_right": work_joint,
    "press": press,
    "store": store,
}
