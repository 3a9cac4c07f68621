"""From (task, seed, split) to a Scene, and from a Scene to MJCF. Deterministic, no simulator."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from runtime.bench import arm, mjcf, render
from runtime.bench.catalog import (
    COLOURS,
    TABLE_COLOURS,
    ContainerType,
    FixtureType,
    ObjectType,
    Rgb,
)
from runtime.bench.layout import place
from runtime.bench.scene import Appearance, Draft, RandomisationConfig, Scene
from runtime.bench.target import Target

_GREY_ARM: Rgb = (0.80, 0.78, 0.72)
_ARM_COLOURS: tuple[Rgb, ...] = (
    _GREY_ARM,
    (0.85, 0.85, 0.87),
    (0.66, 0.68, 0.72),
    (0.92, 0.78, 0.55),
)


def scene_rng(task: str, seed: int, split: str) -> np.random.Generator:
    """The generator that all of a scene's randomness comes from."""
    return np.random.default_rng(
        [zlib.crc32(task.encode()), zlib.crc32(split.encode()), seed & 0xFFFFFFFF]
    )


def compose(
    task: str,
    seed: int,
    split: str,
    draft: Draft,
    phrases: tuple[str, ...],
    time_limit_s: float,
    randomise: RandomisationConfig,
    rng: np.random.Generator,
) -> Scene:
    """Give a draft its places, cameras, light, colours and arm pose."""
    if not randomise.distractors:
        named = (draft.goal.thing, draft.goal.target)
        draft = replace(
            draft,
            objects=tuple(o for o in draft.objects if o.name in named),
            containers=tuple(c for c in draft.containers if c.name in named),
            extra_objects=(),
            extra_containers=(),
        )
    layout = place(draft, rng)
    start = arm.HOME_DEG + randomise.arm_start * rng.uniform(-1.0, 1.0, 6) * np.array(
        [12.0, 7.0, 7.0, 6.0, 10.0, 25.0]
    )
    return Scene(
        task=task,
        seed=seed,
        split=split,
        goal=draft.goal,
        instruction=phrases[0],
        paraphrases=tuple(phrases[1:]),
        time_limit_s=time_limit_s,
        objects=layout.objects,
        containers=layout.containers,
        fixture=layout.fixture,
        fixture_start=draft.fixture_start,
        front_camera=render.front_pose(rng, randomise.camera),
        wrist_camera=render.wrist_pose(rng, randomise.camera),
        appearance=_appearance(rng, randomise),
        friction=float(1.0 + randomise.physics * rng.uniform(-0.2, 0.3)),
        arm_start_deg=np.clip(start, arm.LOWER, arm.UPPER),
    )


def _jitter(rng: np.random.Generator, spread: float) -> Rgb:
    """Factors about 1: brightness together, hue a little."""
    bright = 1.0 + 0.12 * spread * rng.uniform(-1.0, 1.0)
    hue = 1.0 + 0.06 * spread * rng.uniform(-1.0, 1.0, 3)
    return tuple(float(v) for v in bright * hue)  # type: ignore[return-value]


def _appearance(rng: np.random.Generator, spread: RandomisationConfig) -> Appearance:
    table, wall = (int(k) for k in rng.integers(len(TABLE_COLOURS), size=2))
    chosen = int(rng.integers(len(_ARM_COLOURS)))
    if not spread.table:
        table, wall, chosen = 0, 5, 0
    tilt = rng.uniform(-0.55, 0.55, 2) * spread.light
    return Appearance(
        table=mjcf.tinted(TABLE_COLOURS[table], _jitter(rng, spread.colour)),
        wall=mjcf.tinted(TABLE_COLOURS[wall], _jitter(rng, spread.colour)),
        arm=mjcf.tinted(_ARM_COLOURS[chosen], _jitter(rng, spread.colour)),
        tint=_jitter(rng, spread.colour),
        object_jitter=tuple(_jitter(rng, spread.colour) for _ in range(12)),
        light_direction=(float(tilt[0]), float(tilt[1]) + 0.25, -1.0),
        light_strength=float(0.46 + 0.12 * spread.light * rng.uniform(-1.0, 1.0)),
        ambient=float(0.37 + 0.09 * spread.light * rng.uniform(-1.0, 1.0)),
    )


def scene_xml(
    scene: Scene, view: render.Intrinsics, physics_dt_s: float, target: Target | None = None
) -> str:
    """The scene as MJCF, with a board to calibrate with where there is one."""
    look = scene.appearance
    jitter = iter(look.object_jitter)
    parts: list[str] = []
    for index, spot in enumerate(scene.objects):
        kind = spot.type
        assert isinstance(kind, ObjectType)
        colour = mjcf.tinted(COLOURS[kind.colour], next(jitter))
        parts.append(mjcf.object_xml(index, kind, spot, colour, scene.friction))
    for spot in scene.containers:
        place_type = spot.type
        assert isinstance(place_type, ContainerType)
        colour = mjcf.tinted(COLOURS[place_type.colour], next(jitter))
        parts.append(mjcf.container_xml(place_type, spot.x_m, spot.y_m, spot.yaw_rad, colour))
    if scene.fixture is not None:
        spot, fixture_type = scene.fixture, scene.fixture.type
        assert isinstance(fixture_type, FixtureType)
        parts.append(mjcf.fixture_xml(fixture_type, spot.x_m, spot.y_m, spot.yaw_rad, look.tint))
    link = mjcf.rgba(look.arm)
    wrist = render.camera_xml("wrist", scene.wrist_camera, view)
    assets = ""
    if target is not None:
        assets = f"<asset>{target.assets_xml()}</asset>"
        if target.at == "hand":
            wrist += target.geoms_xml()
        else:
            parts.append(target.geoms_xml())
    direction = " ".join(f"{v:.4f}" for v in look.light_direction)
    strength = f"{look.light_strength:.4f} " * 3
    fill = f"{look.ambient:.4f} " * 3
    return f"""<mujoco model="bench">
<compiler angle="radian" autolimits="true"/>
<option timestep="{physics_dt_s}" integrator="implicitfast" cone="pyramidal" iterations="60"
        ls_iterations="40" impratio="2"><flag midphase="disable"/></option>
<size memory="2M"/>
<statistic extent="1" center="0.2 0 0.1"/>
<visual>
  <global offwidth="{view.width}" offheight="{view.height}"/>
  <quality shadowsize="0" offsamples="0" numslices="14" numstacks="8" numquads="2"/>
  <map znear="{render.NEAR_M}" zfar="{render.FAR_M}"/>
  <headlight ambient="{fill}" diffuse="0.16 0.16 0.16" specular="0 0 0"/>
</visual>
<default>
  <geom solref="0.010 1" solimp="0.95 0.99 0.001"/>
</default>
{assets}
<worldbody>
  <light directional="true" castshadow="false" dir="{direction}" diffuse="{strength}"
         ambient="0 0 0" specular="0.05 0.05 0.05"/>
  <geom name="table" type="plane" size="1.2 1.2 0.6" rgba="{mjcf.rgba(look.table)}"
        contype="0" conaffinity="3" friction="0.9 0.01 0.0005"/>
  <geom type="box" size="3 0.02 1.2" pos="0 1.3 0.6" rgba="{mjcf.rgba(look.wall)}"
        contype="0" conaffinity="0"/>
  <geom type="box" size="0.02 3 1.2" pos="1.3 0 0.6" rgba="{mjcf.rgba(mjcf.shade(look.wall, 0.9))}"
        contype="0" conaffinity="0"/>
  <geom type="box" size="0.02 3 1.2" pos="-1.3 0 0.6" rgba="{mjcf.rgba(mjcf.shade(look.wall, 0.9))}"
        contype="0" conaffinity="0"/>
  {render.camera_xml("front", scene.front_camera, view)}
  {arm.arm_xml(link, "0.16 0.16 0.18 1", wrist)}
  {"".join(parts)}
</worldbody>
<equality>{arm.EQUALITY_XML}</equality>
<actuator>{arm.actuator_xml()}</actuator>
</mujoco>"""
