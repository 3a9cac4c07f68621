"""MJCF of what stands on the table: objects, containers and fixtures. Strings only, no simulator.

A fixture's frame: origin on the table at the middle of its front, -x towards the robot (its front),
+x into its housing. Its one joint is called "fixture", the site to grasp it by "handle".
"""

from __future__ import annotations

import math

from runtime.bench.catalog import COLOURS, ContainerType, FixtureType, ObjectType, Rgb
from runtime.bench.scene import Placed

# Contact bits: 1 hand, 2 objects. Static things answer to both and never to one another.
_OBJECT_BITS = 'contype="2" conaffinity="3"'
_STATIC_BITS = 'contype="0" conaffinity="3"'
# How far a drawer's handle stands before its front: the bar leaves room for a finger behind it.
HANDLE_REACH_M = {"bar": 0.036, "knob": 0.031, "post": 0.031}
TRAY_LIP_M = 0.046
TRAY_POST_M = 0.032
_GHOST_BITS = 'contype="0" conaffinity="0"'


def rgba(colour: Rgb) -> str:
    return " ".join(f"{min(max(c, 0.0), 1.0):.4f}" for c in colour) + " 1"


def shade(colour: Rgb, factor: float) -> Rgb:
    """The colour darker (factor < 1) or nearer to white (> 1)."""
    if factor <= 1.0:
        return tuple(c * factor for c in colour)  # type: ignore[return-value]
    return tuple(c + (1.0 - c) * (factor - 1.0) for c in colour)  # type: ignore[return-value]


def tinted(colour: Rgb, factor: Rgb) -> Rgb:
    """The colour with each channel multiplied."""
    return (colour[0] * factor[0], colour[1] * factor[1], colour[2] * factor[2])


def _geom(kind: str, size: tuple[float, ...], pos: tuple[float, float, float], extra: str) -> str:
    sizes = " ".join(f"{s:.5f}" for s in size)
    return (
        f'<geom type="{kind}" size="{sizes}" pos="{pos[0]:.5f} {pos[1]:.5f} {pos[2]:.5f}" {extra}/>'
    )


def object_xml(index: int, thing: ObjectType, spot: Placed, colour: Rgb, friction: float) -> str:
    """A free body `object_<index>`, standing on the table at its spot."""
    h = thing.half_m
    # Rolling friction and a little drag bring balls and fallen cylinders to rest.
    rolls = thing.shape in ("ball", "cylinder")
    condim, damping = (6, 0.0008) if thing.shape == "ball" else (4, 0.0004 if rolls else 0.0002)
    touch = f'condim="{condim}" friction="{friction:.3f} 0.01 0.0008" {_OBJECT_BITS}'
    shown = f'rgba="{rgba(colour)}" mass="0.045"'
    if thing.shape == "ball":
        geoms = _geom("sphere", (h[0],), (0, 0, 0), f"{shown} {touch}")
    elif thing.shape == "cylinder":
        # The hand meets the round shape; whatever it stands on meets an unseen box (group 3 is not
        # drawn): MuJoCo finds one contact between a cylinder and a box, too few to stand on.
        grasped = 'contype="0" conaffinity="1" condim="4"'
        geoms = _geom("cylinder", (h[0], h[2]), (0, 0, 0), f"{shown} {grasped}")
        stands = touch.replace(_OBJECT_BITS, 'contype="2" conaffinity="2"')
        geoms += _geom(
            "box", (0.82 * h[0], 0.82 * h[0], h[2]), (0, 0, 0), f'mass="0" group="3" {stands}'
        )
    else:
        geoms = _geom("box", h, (0, 0, 0), f"{shown} {touch}")
    return (
        f'<body name="object_{index}" pos="{spot.x_m:.5f} {spot.y_m:.5f} {h[2]:.5f}" '
        f'euler="0 0 {spot.yaw_rad:.5f}"><joint type="free" damping="{damping}"/>'
        f"{geoms}</body>"
    )


def _octagon(radius: float, half_height: float, z: float, extra: str) -> str:
    """Unseen crossed boxes that things on a disc collide with, for the same reason."""
    half = radius * 0.94
    across = half * math.tan(math.pi / 8)
    extra = f'{extra} group="3"'
    parts = []
    for turn in range(4):
        parts.append(
            f'<geom type="box" size="{half:.5f} {across:.5f} {half_height:.5f}" '
            f'pos="0 0 {z:.5f}" euler="0 0 {turn * math.pi / 4:.5f}" {extra}/>'
        )
    return "".join(parts)


def container_xml(thing: ContainerType, x: float, y: float, yaw: float, colour: Rgb) -> str:
    """A static body with the surfaces that hold things up and in."""
    half, floor, wall = thing.half_m, thing.floor_m, thing.wall_m
    main = f'rgba="{rgba(colour)}" {_STATIC_BITS}'
    inner = f'rgba="{rgba(shade(colour, 0.82))}" {_GHOST_BITS}'
    parts = []
    if thing.is_round:
        disc = f'rgba="{rgba(colour)}" {_GHOST_BITS}'
        parts.append(_geom("cylinder", (half, floor / 2), (0, 0, floor / 2), disc))
        parts.append(_octagon(half, floor / 2, floor / 2, _STATIC_BITS))
        parts.append(_geom("cylinder", (half * 0.72, 0.0004), (0, 0, floor), inner))
    else:
        parts.append(_geom("box", (half, half, floor / 2), (0, 0, floor / 2), main))
        parts.append(_geom("box", (half * 0.8, half * 0.8, 0.0004), (0, 0, floor), inner))
    if wall > 0:
        sides = 8 if thing.is_round else 4
        length = half * math.tan(math.pi / sides)
        for k in range(sides):
            a = 2 * math.pi * k / sides
            parts.append(
                f'<geom type="box" size="0.0035 {length:.5f} {wall / 2:.5f}" '
                f'pos="{half * math.cos(a):.5f} {half * math.sin(a):.5f} {wall / 2:.5f}" '
                f'euler="0 0 {a:.5f}" {main}/>'
            )
    return f'<body pos="{x:.5f} {y:.5f} 0" euler="0 0 {yaw:.5f}">{"".join(parts)}</body>'


def fixture_xml(thing: FixtureType, x: float, y: float, yaw: float, tint: Rgb) -> str:
    """The housing, and on it the moving body with joint "fixture" and site "handle".

    tint multiplies the catalogue's colours (the scene's colour jitter).
    """
    body = tinted(COLOURS[thing.body], tint)
    accent = tinted(COLOURS[thing.accent], tint)
    build = {
        "drawer": _drawer,
        "tray": _tray,
        "lid": _lid,
        "button": _button,
        "lever": _lever,
    }[thing.kind]
    inner = build(thing, body, accent)
    return f'<body name="fixture" pos="{x:.5f} {y:.5f} 0" euler="0 0 {yaw:.5f}">{inner}</body>'


def _moving(joint: str, handle: tuple[float, float, float], geoms: list[str]) -> str:
    site = f'<site name="handle" pos="{handle[0]:.5f} {handle[1]:.5f} {handle[2]:.5f}" rgba="0 0 0 0"/>'
    return f'<body name="mover">{joint}{site}{"".join(geoms)}</body>'


def _drawer(thing: FixtureType, body: Rgb, accent: Rgb) -> str:
    w, d, h, t = thing.width_m / 2, thing.depth_m, thing.height_m, 0.004
    shell = f'rgba="{rgba(body)}" {_STATIC_BITS}'
    front = f'rgba="{rgba(shade(body, 1.25))}" mass="0.04" {_STATIC_BITS}'
    inside = f'rgba="{rgba(shade(body, 1.55))}" mass="0.04" {_STATIC_BITS}'
    grip = f'rgba="{rgba(accent)}" mass="0.01" {_STATIC_BITS} friction="1.5 0.02 0.0005"'
    housing = [
        _geom("box", (d / 2, w, t / 2), (d / 2, 0, h - t / 2), shell),
        _geom("box", (d / 2, t / 2, h / 2), (d / 2, w - t / 2, h / 2), shell),
        _geom("box", (d / 2, t / 2, h / 2), (d / 2, t / 2 - w, h / 2), shell),
        _geom("box", (t / 2, w, h / 2), (d - t / 2, 0, h / 2), shell),
    ]
    iw, depth, wall_h = w - t - 0.001, d - 0.012, (h - t) * 0.30
    z0 = 0.004
    geoms = [
        _geom("box", (0.003, w, (h - 0.004) / 2), (-0.003, 0, h / 2), front),
        _geom("box", (depth / 2, iw, 0.002), (depth / 2, 0, z0), inside),
        _geom("box", (depth / 2, 0.0015, wall_h), (depth / 2, iw, z0 + wall_h), inside),
        _geom("box", (depth / 2, 0.0015, wall_h), (depth / 2, -iw, z0 + wall_h), inside),
        _geom("box", (0.002, iw, wall_h), (depth, 0, z0 + wall_h), inside),
    ]
    hz = h * 0.55
    if thing.handle == "bar":
        half = thing.width_m * 0.27
        geoms.append(_geom("box", (0.005, half, 0.006), (-0.036, 0, hz), grip))
        for side in (-1, 1):
            geoms.append(
                _geom("box", (0.014, 0.003, 0.004), (-0.020, side * (half - 0.003), hz), grip)
            )
    elif thing.handle == "knob":
        geoms.append(_geom("sphere", (0.012,), (-0.031, 0, hz), grip))
        geoms.append(_geom("box", (0.012, 0.004, 0.004), (-0.016, 0, hz), grip))
    else:
        geoms.append(_geom("box", (0.006, 0.007, h * 0.36), (-0.031, 0, hz), grip))
        geoms.append(_geom("box", (0.012, 0.004, 0.005), (-0.016, 0, hz), grip))
    joint = (
        f'<joint name="fixture" type="slide" axis="-1 0 0" range="0 {thing.travel}" '
        'damping="3" frictionloss="0.35" armature="0.05"/>'
    )
    reach = HANDLE_REACH_M[thing.handle]
    return "".join(housing) + _moving(joint, (-reach, 0, hz), geoms)


def _tray(thing: FixtureType, body: Rgb, accent: Rgb) -> str:
    w, d, h, t = thing.width_m / 2, thing.depth_m, thing.height_m, 0.004
    shell = f'rgba="{rgba(body)}" {_STATIC_BITS}'
    flat = f'rgba="{rgba(shade(accent, 1.3))}" mass="0.05" {_STATIC_BITS}'
    grip = f'rgba="{rgba(accent)}" mass="0.01" {_STATIC_BITS} friction="1.5 0.02 0.0005"'
    housing = [
        _geom("box", (d / 2, w, t / 2), (d / 2, 0, h - t / 2), shell),
        _geom("box", (d / 2, t / 2, h / 2), (d / 2, w - t / 2, h / 2), shell),
        _geom("box", (d / 2, t / 2, h / 2), (d / 2, t / 2 - w, h / 2), shell),
    ]
    lip = TRAY_LIP_M
    geoms = [
        _geom("box", ((d + lip) / 2 - 0.004, w - 0.008, 0.003), ((d - lip) / 2, 0, 0.005), flat),
        _geom("box", (0.007, 0.010, 0.020), (-TRAY_POST_M, 0, 0.026), grip),
    ]
    joint = (
        f'<joint name="fixture" type="slide" axis="-1 0 0" range="0 {thing.travel}" '
        'damping="3" frictionloss="0.35" armature="0.05"/>'
    )
    return "".join(housing) + _moving(joint, (-TRAY_POST_M, 0, 0.034), geoms)


def _lid(thing: FixtureType, body: Rgb, accent: Rgb) -> str:
    w, d, h, t = thing.width_m / 2, thing.depth_m, thing.height_m, 0.004
    shell = f'rgba="{rgba(body)}" {_STATIC_BITS}'
    inner = f'rgba="{rgba(shade(body, 0.45))}" {_GHOST_BITS}'
    cover = f'rgba="{rgba(shade(accent, 1.15))}" mass="0.02" {_STATIC_BITS}'
    grip = f'rgba="{rgba(accent)}" mass="0.01" {_STATIC_BITS} friction="1.5 0.02 0.0005"'
    housing = [
        _geom("box", (d / 2, w, 0.002), (d / 2, 0, 0.002), inner),
        _geom("box", (d / 2, t / 2, h / 2), (d / 2, w - t / 2, h / 2), shell),
        _geom("box", (d / 2, t / 2, h / 2), (d / 2, t / 2 - w, h / 2), shell),
        _geom("box", (t / 2, w, h / 2), (d - t / 2, 0, h / 2), shell),
        _geom("box", (t / 2, w, h / 2), (t / 2, 0, h / 2), shell),
    ]
    # The hinge runs along the far upper edge; the tab sticks out over the near one.
    geoms = [
        _geom("box", (d / 2, w, 0.003), (-d / 2, 0, 0.003), cover),
        _geom("box", (0.016, 0.006, 0.011), (-d - 0.014, 0, 0.003), grip),
    ]
    mover = _moving(
        f'<joint name="fixture" type="hinge" axis="0 1 0" range="0 {thing.travel}" '
        'damping="0.006" frictionloss="0.03" armature="0.0005"/>',
        (-d - 0.017, 0, 0.003),
        geoms,
    ).replace('<body name="mover">', f'<body name="mover" pos="{d:.5f} 0 {h:.5f}">')
    return "".join(housing) + mover


def _button(thing: FixtureType, body: Rgb, accent: Rgb) -> str:
    w, h = thing.width_m / 2, thing.height_m
    shell = f'rgba="{rgba(body)}" {_STATIC_BITS}'
    housing = [
        _geom("box", (w, w, h / 2), (w, 0, h / 2), shell),
        # The lamp and the cap are dark until the button is pressed: world.py lights them.
        f'<geom name="lamp" type="box" size="0.008 {w * 0.8:.4f} 0.010" '
        f'pos="{2 * w + 0.008:.4f} 0 0.035" rgba="{rgba(shade(accent, 0.25))}" {_GHOST_BITS}/>',
    ]
    cap = (
        f'<geom name="cap" type="cylinder" size="0.020 0.010" pos="{w:.4f} 0 {h + 0.010:.4f}" '
        f'rgba="{rgba(shade(accent, 0.55))}" mass="0.02" {_STATIC_BITS}/>'
    )
    joint = (
        f'<joint name="fixture" type="slide" axis="0 0 -1" range="0 {thing.travel}" '
        'damping="1.5" stiffness="120" armature="0.02"/>'
    )
    return "".join(housing) + _moving(joint, (w, 0, h + 0.020), [cap])


def _lever(thing: FixtureType, body: Rgb, accent: Rgb) -> str:
    base = f'rgba="{rgba(body)}" {_STATIC_BITS}'
    grip = f'rgba="{rgba(accent)}" mass="0.02" {_STATIC_BITS} friction="1.2 0.02 0.0005"'
    housing = [_geom("cylinder", (thing.width_m / 2, 0.010), (0.07, 0, 0.010), base)]
    geoms = [
        _geom("box", (0.040, 0.008, 0.005), (-0.030, 0, 0.005), grip),
        _geom("box", (0.008, 0.008, 0.018), (-0.062, 0, 0.023), grip),
        _geom("cylinder", (0.016, 0.008), (0, 0, 0.008), grip),
    ]
    half = thing.travel / 2
    joint = (
        f'<joint name="fixture" type="hinge" axis="0 0 1" range="{-half} {half}" '
        'damping="0.01" frictionloss="0.03" armature="0.0005"/>'
    )
    mover = _moving(joint, (-0.062, 0, 0.032), geoms)
    return "".join(housing) + mover.replace(
        '<body name="mover">', '<body name="mover" pos="0.07 0 0.02">'
    )
