"""What one episode starts from: randomisation settings, placements, the goal and the whole scene."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.bench.catalog import ContainerType, FixtureType, ObjectType, Rgb


@dataclass(frozen=True)
class RandomisationConfig:
    """How far scenes differ from one another; 1 is the bench's normal spread, 0 is none.

    camera: poses of both cameras. light: direction, strength and ambient part. colour: jitter of
    every surface. table: choose table and wall colours. distractors: add things that the
    instruction does not name. arm_start: the arm's pose at reset. physics: mass and friction.
    """

    camera: float = 1.0
    light: float = 1.0
    colour: float = 1.0
    table: bool = True
    distractors: bool = True
    arm_start: float = 1.0
    physics: float = 1.0

    @classmethod
    def off(cls) -> RandomisationConfig:
        """Only the task's own choices and the layout still vary with the seed."""
        return cls(0.0, 0.0, 0.0, False, False, 0.0, 0.0)


@dataclass(frozen=True)
class Goal:
    """What the instruction asks for. kind selects the evaluator and the expert.

    thing: what is handled, as named in the instruction ("red cube", "grey drawer").
    target: where it goes ("blue plate"), or "" where the kind needs none.
    """

    kind: str
    thing: str
    target: str = ""


@dataclass(frozen=True)
class Placed:
    """Something on the table: an object, a container or a fixture, metres and radians."""

    type: ObjectType | ContainerType | FixtureType
    x_m: float
    y_m: float
    yaw_rad: float

    @property
    def name(self) -> str:
        return self.type.name


@dataclass(frozen=True)
class Draft:
    """What a task wants in its scene, before anything has a place.

    The first object and container are the ones the goal names. fixture_start: where its joint
    begins, 0 closed .. 1 open. resting: object name -> container that it starts on or in.
    extra_objects / extra_containers may be left out where there is no room. spread_m: least free
    gap at the start between the goal's thing and its target.
    """

    goal: Goal
    objects: tuple[ObjectType, ...] = ()
    containers: tuple[ContainerType, ...] = ()
    extra_objects: tuple[ObjectType, ...] = ()
    extra_containers: tuple[ContainerType, ...] = ()
    fixture: FixtureType | None = None
    fixture_start: float = 0.0
    resting: tuple[tuple[str, str], ...] = ()
    spread_m: float = 0.0


@dataclass(frozen=True)
class CameraPose:
    """Position and axes of a camera in its parent's frame (world or gripper), metres.

    right and up are unit vectors of the image's axes; the camera looks along up x right.
    """

    position_m: tuple[float, float, float]
    right: tuple[float, float, float]
    up: tuple[float, float, float]


@dataclass(frozen=True)
class Appearance:
    """Colours and light of one scene."""

    table: Rgb
    wall: Rgb
    arm: Rgb
    tint: Rgb
    object_jitter: tuple[Rgb, ...]
    light_direction: tuple[float, float, float]
    light_strength: float
    ambient: float


@dataclass(frozen=True)
class Scene:
    """Everything that reset() fixed; equal for equal (task, seed, split, config)."""

    task: str
    seed: int
    split: str
    goal: Goal
    instruction: str
    paraphrases: tuple[str, ...]
    time_limit_s: float
    objects: tuple[Placed, ...]
    containers: tuple[Placed, ...]
    fixture: Placed | None
    fixture_start: float
    front_camera: CameraPose
    wrist_camera: CameraPose
    appearance: Appearance
    friction: float
    arm_start_deg: np.ndarray = field(compare=False)

    @property
    def object_names(self) -> tuple[str, ...]:
        return tuple(thing.name for thing in self.objects)

    @property
    def container_names(self) -> tuple[str, ...]:
        return tuple(thing.name for thing in self.containers)

    @property
    def fixture_id(self) -> str:
        """Catalogue id of the fixture, "" where there is none."""
        return "" if self.fixture is None else self.fixture.type.id  # type: ignore[union-attr]

    def object_index(self, name: str) -> int:
        return self.object_names.index(name)

    def container(self, name: str) -> Placed:
        return self.containers[self.container_names.index(name)]
