"""How each kind of goal is done: one short script of skills for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from runtime.bench import arm, goals
from runtime.bench.arm import TipPose
from runtime.bench.catalog import ContainerType
from runtime.bench.fixture_scripts import AIM, fixture_of, lead_handle, press, work_joint
from runtime.bench.scene import Goal

if TYPE_CHECKING:
    from runtime.bench.skills import Motion, Skills


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
        best: np.ndarray | None = None
        least = math.inf
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
        yield from skills.retreat(
            float(0.085 + 0.01 * skills.noise * skills.rng.uniform(-1.0, 1.0))
        )
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
    return np.array(skills.object(goal.target).position_m[:2])


def store(skills: Skills, goal: Goal) -> Motion:
    """Open the drawer, put the thing in, close the drawer."""
    spot, kind = fixture_of(skills)
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
    yield from lead_handle(skills, AIM["close"])
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
