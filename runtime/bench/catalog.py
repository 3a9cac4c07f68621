"""What can stand on the bench: colours, objects, containers and fixtures, as frozen data.

Lengths in metres. Colours are linear RGB in [0, 1] before the scene's jitter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Rgb = tuple[float, float, float]

COLOURS: dict[str, Rgb] = {
    "red": (0.85, 0.08, 0.08),
    "green": (0.10, 0.60, 0.15),
    "blue": (0.08, 0.22, 0.85),
    "yellow": (0.95, 0.85, 0.08),
    "orange": (0.98, 0.45, 0.03),
    "purple": (0.48, 0.12, 0.62),
    "white": (0.93, 0.93, 0.93),
    "black": (0.06, 0.06, 0.06),
    "grey": (0.50, 0.50, 0.52),
    "brown": (0.42, 0.26, 0.13),
    "navy": (0.10, 0.15, 0.32),
    "pink": (0.95, 0.50, 0.65),
}

OBJECT_COLOURS = ("red", "green", "blue", "yellow", "orange", "purple")
OBJECT_SHAPES = ("cube", "cylinder", "block", "ball")
FLAT_SHAPES = ("cube", "cylinder", "block")  # shapes that stay where they are put
CONTAINER_COLOURS = ("blue", "white", "green", "orange", "red", "pink", "yellow")
ON_KINDS = ("plate", "board")
IN_KINDS = ("box", "bowl")

# Table tops: muted, so that no object disappears in them.
TABLE_COLOURS: tuple[Rgb, ...] = (
    (0.62, 0.50, 0.36),
    (0.48, 0.37, 0.26),
    (0.74, 0.67, 0.55),
    (0.55, 0.56, 0.57),
    (0.34, 0.35, 0.37),
    (0.72, 0.73, 0.74),
    (0.42, 0.48, 0.50),
)


@dataclass(frozen=True)
class ObjectType:
    """A graspable thing. half_m: half extents (cylinder: radius, radius, half height; ball: radius)."""

    colour: str
    shape: str
    half_m: tuple[float, float, float]

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def grasp_width_m(self) -> float:
        return 2.0 * min(self.half_m[0], self.half_m[1])

    @property
    def footprint_m(self) -> float:
        """Radius of the circle that it stands in."""
        if self.shape in ("cylinder", "ball"):
            return self.half_m[0]
        return math.hypot(self.half_m[0], self.half_m[1])


@dataclass(frozen=True)
class ContainerType:
    """Something to put things on ("plate", "board") or in ("box", "bowl"); fixed to the table.

    half_m: half width (plate and bowl: radius); floor_m: height of the surface that things rest on.
    """

    colour: str
    kind: str
    half_m: float
    floor_m: float
    wall_m: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def relation(self) -> str:
        return "on" if self.kind in ON_KINDS else "in"

    @property
    def is_round(self) -> bool:
        return self.kind in ("plate", "bowl")

    @property
    def footprint_m(self) -> float:
        return self.half_m if self.is_round else self.half_m * 1.35


@dataclass(frozen=True)
class FixtureType:
    """A drawer, sliding tray, lidded box, button or lever: one joint, fixed to the table.

    adjective names it in instructions ("grey" drawer); width/depth/height_m are the outside of
    its housing; travel is metres or radians of the joint from closed (0) to fully open (1).
    """

    id: str
    kind: str
    adjective: str
    body: str
    accent: str
    handle: str
    width_m: float
    depth_m: float
    height_m: float
    travel: float

    @property
    def name(self) -> str:
        return f"{self.adjective} {self.kind}"


def _drawer(
    adjective: str, body: str, accent: str, handle: str, size: tuple[float, float]
) -> FixtureType:
    id_ = f"drawer_{adjective}_{handle}"
    return FixtureType(
        id_, "drawer", adjective, body, accent, handle, size[0], 0.105, size[1], 0.075
    )


# The first is reserved for evaluation (see split.RESERVED_DRAWER).
DRAWERS = (
    _drawer("navy", "navy", "yellow", "bar", (0.115, 0.066)),
    _drawer("grey", "grey", "black", "bar", (0.110, 0.062)),
    _drawer("white", "white", "red", "bar", (0.125, 0.066)),
    _drawer("white", "white", "grey", "knob", (0.105, 0.064)),
    _drawer("brown", "brown", "yellow", "knob", (0.115, 0.068)),
    _drawer("black", "black", "white", "post", (0.105, 0.066)),
    _drawer("green", "green", "white", "post", (0.115, 0.062)),
    _drawer("tall", "grey", "orange", "bar", (0.105, 0.082)),
    _drawer("wide", "brown", "white", "bar", (0.145, 0.064)),
    _drawer("small", "blue", "yellow", "knob", (0.090, 0.058)),
    _drawer("blue", "blue", "white", "bar", (0.115, 0.070)),
)

TRAYS = tuple(
    FixtureType(f"tray_{body}", "tray", body, body, accent, "post", 0.10, 0.09, 0.045, 0.075)
    for body, accent in (
        ("white", "red"),
        ("black", "yellow"),
        ("green", "orange"),
        ("grey", "blue"),
    )
)
LIDS = tuple(
    FixtureType(f"lid_{body}", "lid", body, body, accent, "tab", 0.09, 0.08, 0.045, 1.65)
    for body, accent in (
        ("white", "blue"),
        ("brown", "white"),
        ("red", "black"),
        ("grey", "orange"),
    )
)
BUTTONS = tuple(
    FixtureType(f"button_{cap}", "button", cap, base, cap, "cap", 0.06, 0.06, 0.025, 0.010)
    for base, cap in (("grey", "red"), ("black", "green"), ("white", "blue"), ("black", "yellow"))
)
LEVERS = tuple(
    FixtureType(f"lever_{body}", "lever", body, base, body, "post", 0.05, 0.05, 0.02, 1.6)
    for base, body in (("grey", "red"), ("black", "white"), ("white", "black"), ("grey", "yellow"))
)


def make_object(colour: str, shape: str, scale: float) -> ObjectType:
    """An object of 3 to 5 cm; `scale` around 1 varies its size."""
    half = {
        "cube": (0.0185, 0.0185, 0.0185),
        "cylinder": (0.0185, 0.0185, 0.023),
        "block": (0.0310, 0.0160, 0.0160),
        "ball": (0.0200, 0.0200, 0.0200),
    }[shape]
    x, y, z = (round(h * scale, 5) for h in half)
    return ObjectType(colour, shape, (x, y, z))


def make_container(colour: str, kind: str, scale: float) -> ContainerType:
    """A container of 10 to 12 cm; `scale` around 1 varies its width."""
    half, floor, wall = {
        "plate": (0.056, 0.008, 0.0),
        "board": (0.050, 0.010, 0.0),
        "box": (0.048, 0.006, 0.030),
        "bowl": (0.054, 0.006, 0.024),
    }[kind]
    return ContainerType(colour, kind, round(half * scale, 5), floor, wall)
