"""Arranged scenes: one scene in many states, without playing the way there. For reward-model clips.

An episode shows few states of few scenes; an arranged scene costs milliseconds and shows things on, beside
and above what they may be put on, fixtures open by any amount, the hand anywhere. States are settled by
physics before they are read, so that labels come from the same evaluators as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from runtime.bench import arm
from runtime.bench.catalog import ContainerType, ObjectType
from runtime.bench.compose import compose, scene_rng, scene_xml
from runtime.bench.physics import Physics
from runtime.bench.render import Intrinsics
from runtime.bench.scene import RandomisationConfig, Scene
from runtime.bench.tasks import find_task

# A button's lamp has a history and can't be arranged.
ARRANGEABLE = (
    "open_drawer",
    "close_drawer",
    "put_on",
    "put_in",
    "take_off",
    "lift",
    "stack",
    "push_to",
    "open_tray",
    "close_tray",
    "open_lid",
    "close_lid",
    "turn_lever_left",
    "turn_lever_right",
    "store_in_drawer",
)
_SETTLE_S = 0.30
_DT_S = 0.004


def make_scene(task: str, seed: int, split: str, randomise: RandomisationConfig) -> Scene:
    """The scene that World.reset would make of the same arguments."""
    spec = find_task(task)
    rng = scene_rng(task, seed, split)
    draft = spec.draft(rng, split)
    return compose(
        task, seed, split, draft, spec.phrases(draft.goal), spec.time_limit_s, randomise, rng
    )


def arrangements(
    scene: Scene, view: Intrinsics, rng: np.random.Generator, count: int
) -> Iterator[Physics]:
    """The scene as it starts, then up to `count - 1` other states of it. The same Physics each time: read it
    before asking for the next."""
    import mujoco

    physics = Physics(scene, scene_xml(scene, view, _DT_S), scene.arm_start_deg, _DT_S)
    start = physics.data.qpos.copy()
    control = physics.data.ctrl.copy()
    yield physics
    for _ in range(count - 1):
        # Two things in one place can blow up; MuJoCo then resets the state and counts it.
        physics.data.warning.number[:] = 0
        physics.data.qpos[:], physics.data.qvel[:] = start, 0.0
        physics.data.ctrl[:] = control
        _move_fixture(physics, scene, rng)
        moved = _move_objects(physics, scene, rng)
        mujoco.mj_forward(physics.model, physics.data)
        _move_arm(physics, scene, rng, moved)
        physics.advance(_SETTLE_S)
        if not physics.data.warning.number.any():
            yield physics


def _move_fixture(physics: Physics, scene: Scene, rng: np.random.Generator) -> None:
    if scene.fixture is None or rng.random() < 0.15:
        return
    low, high = physics.model.joint("fixture").range
    kind = rng.random()
    if kind < 0.25:
        share = rng.uniform(0.0, 0.1)
    elif kind < 0.5:
        share = rng.uniform(0.85, 1.0)
    else:
        share = rng.uniform(0.0, 1.0)
    physics.data.qpos[physics.model.joint("fixture").qposadr[0]] = low + share * (high - low)


def _move_objects(physics: Physics, scene: Scene, rng: np.random.Generator) -> int:
    """Put one or two things elsewhere; returns the index of one that is to be held, or -1."""
    held = -1
    if not scene.objects:
        return held
    for _ in range(1 + int(rng.random() < 0.3)):
        index = int(rng.integers(len(scene.objects)))
        # The goal's own thing as often as all others together.
        if rng.random() < 0.7 and scene.goal.thing in scene.object_names:
            index = scene.object_index(scene.goal.thing)
        choice = rng.random()
        if choice < 0.08:
            continue
        if choice < 0.22 and held < 0:
            held = index
            continue
        spot = _spot(physics, scene, rng, index)
        if spot is not None:
            _put(physics, scene, index, spot, rng.uniform(-math.pi, math.pi))
    return held


def _spot(
    physics: Physics, scene: Scene, rng: np.random.Generator, index: int
) -> tuple[float, float, float] | None:
    """Where to: on a container (or its rim), on or beside another object, or on the free table."""
    thing = scene.objects[index].type
    assert isinstance(thing, ObjectType)
    choice, angle = rng.random(), rng.uniform(-math.pi, math.pi)
    ways = (math.cos(angle), math.sin(angle))
    if choice < 0.70 and scene.containers:
        place = scene.containers[int(rng.integers(len(scene.containers)))]
        if rng.random() < 0.7 and scene.goal.target in scene.container_names:
            place = scene.container(scene.goal.target)
        kind = place.type
        assert isinstance(kind, ContainerType)
        if rng.random() < 0.6:
            away = kind.half_m * math.sqrt(rng.uniform(0.0, 0.9))
            if kind.wall_m:
                away = min(away, max(kind.half_m - thing.footprint_m - 0.004, 0.0))
            height = kind.floor_m + thing.half_m[2] + 0.001
        else:
            away = kind.footprint_m + thing.footprint_m + rng.uniform(-0.006, 0.03)
            height = thing.half_m[2] + 0.001
        return place.x_m + away * ways[0], place.y_m + away * ways[1], height
    others = [k for k in range(len(scene.objects)) if k != index]
    if choice < 0.90 and others:
        body = physics.model.body(f"object_{others[int(rng.integers(len(others)))]}").id
        other = scene.objects[others[0]].type
        at = physics.data.xpos[body]
        if rng.random() < 0.6:
            top = 2.0 * float(at[2])
            return (
                float(at[0]) + 0.006 * ways[0],
                float(at[1]) + 0.006 * ways[1],
                top + thing.half_m[2] + 0.001,
            )
        assert isinstance(other, ObjectType)
        away = other.footprint_m + thing.footprint_m + rng.uniform(-0.004, 0.02)
        return (
            float(at[0]) + away * ways[0],
            float(at[1]) + away * ways[1],
            thing.half_m[2] + 0.001,
        )
    if scene.fixture is not None and scene.fixture.type.kind == "drawer" and rng.random() < 0.6:  # type: ignore[union-attr]
        handle = physics.data.site_xpos[physics.model.site("handle").id]
        return float(handle[0]) + 0.07, float(handle[1]), 0.03 + thing.half_m[2]
    radius, turn = rng.uniform(0.155, 0.262), rng.uniform(-1.0, 1.0)
    return radius * math.cos(turn), radius * math.sin(turn), thing.half_m[2] + 0.001


def _put(
    physics: Physics, scene: Scene, index: int, spot: tuple[float, float, float], yaw: float
) -> None:
    address = physics.model.jnt_qposadr[
        physics.model.body_jntadr[physics.model.body(f"object_{index}").id]
    ]
    physics.data.qpos[address : address + 3] = spot
    physics.data.qpos[address + 3 : address + 7] = (math.cos(yaw / 2), 0, 0, math.sin(yaw / 2))


def _move_arm(physics: Physics, scene: Scene, rng: np.random.Generator, held: int) -> None:
    """The hand over something or anywhere; with `held` in it, if that is an object's index."""
    choice = rng.random()
    if held < 0 and choice < 0.15:
        return
    for _ in range(20):
        x, y, z = _hand_spot(physics, scene, rng, held)
        pitch = rng.uniform(50.0, 92.0)
        grip = 0.0 if held >= 0 else float(rng.choice([rng.uniform(0, 100), 60.0, 90.0]))
        try:
            joints = arm.inverse(arm.TipPose(x, y, z, pitch, float(rng.uniform(-90.0, 90.0))), grip)
        except arm.Unreachable:
            continue
        physics.command(joints)
        sim = arm.to_sim(joints)
        width = 0.0
        if held >= 0:
            thing = scene.objects[held].type
            assert isinstance(thing, ObjectType)
            width = thing.half_m[1] if thing.shape != "cube" else thing.half_m[0]
            pose = arm.forward(joints)
            sim[5] = width + 0.0015
            _put(physics, scene, held, (x, y, z), math.radians(pose.closing_yaw_deg) - math.pi / 2)
        for name, value in zip((*arm.JOINT_NAMES[:5], "finger_left"), sim, strict=True):
            physics.data.qpos[physics.model.joint(name).qposadr[0]] = value
        physics.data.qpos[physics.model.joint("finger_right").qposadr[0]] = sim[5]
        return


def _hand_spot(
    physics: Physics, scene: Scene, rng: np.random.Generator, held: int
) -> tuple[float, float, float]:
    """Over an object, a container, the handle, or anywhere in reach; metres."""
    spots: list[np.ndarray] = []
    for k in range(len(scene.objects)):
        if k != held:
            spots.append(physics.data.xpos[physics.model.body(f"object_{k}").id])
    spots += [np.array([c.x_m, c.y_m, 0.02]) for c in scene.containers]
    if scene.fixture is not None:
        spots += [physics.data.site_xpos[physics.model.site("handle").id]] * 2
    choice = rng.random()
    if spots and choice < 0.75:
        at = spots[int(rng.integers(len(spots)))] + rng.normal(0.0, 0.008, 3)
        # Fingers are 1.5 cm wide and 5 cm long: from 4.5 cm up they touch nothing of what is below.
        up = rng.uniform(0.045, 0.10)
        return float(at[0]), float(at[1]), max(float(at[2]), 0.02) + up
    radius, turn = rng.uniform(0.15, 0.29), rng.uniform(-1.0, 1.0)
    return (
        radius * math.cos(turn),
        radius * math.sin(turn),
        float(rng.uniform(0.06, 0.16)),
    )
