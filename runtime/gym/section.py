"""`bench.gymnasium` of the configuration: which environment, and how its numbers are a robot's. Data only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from contracts.errors import ConfigError
from contracts.specs import ActionSpec


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A key that isn't declared here is an error."""


class ObservationSection(_Section, frozen=True):
    """Where a joint's position is: entry `index` of the observation `key` (names joined by dots; empty for an
    environment whose observation is one array). position = zero + scale x entry."""

    index: int
    key: str = ""
    scale: float = 1.0
    zero: float = 0.0


class ActionSection(_Section, frozen=True):
    """What moves a joint: entry `index` of the action. `command`: "position", the entry is a position,
    (target - zero) / scale; "step", it moves the environment's own target, (target - what was commanded
    before) / scale; "pull", it moves the joint from where it is, (target - position) / scale, again in every
    step of the environment. Entries are cut to the action space's range."""

    index: int
    command: Literal["position", "step", "pull"] = "position"
    scale: float = 1.0
    zero: float = 0.0


class JointSection(_Section, frozen=True):
    """One joint. `unit`: of its positions ("deg", "mm", "percent"); `low`, `high`: its range;
    `max_velocity`, `max_acceleration`: the most that the gate allows, per s and per s2."""

    unit: str
    low: float
    high: float
    max_velocity: float
    max_acceleration: float
    observation: ObservationSection
    action: ActionSection


class TaskSection(_Section, frozen=True):
    """One task by name. `instruction`: what the policy is told. `options`: keywords of `gymnasium.make`, on
    top of the environment's. `expert`: who shows it in `robot-run record --expert` ("module:name", see
    `runtime.gym.expert`)."""

    instruction: str = ""
    options: dict[str, Any] = {}
    expert: str = ""


class GymnasiumSection(_Section, frozen=True):
    """`id`: what `gymnasium.make` is given, with `options`. `modules`: imported first (they register the id);
    `install`: what pip installs them from. `rate_hz`: steps of the environment in a second of its time.
    `seed_option`: keyword of `make` that takes the scene's seed; the environment is then made anew for every
    episode. Empty: `reset(seed=...)` is enough. `success`: key of `info` (names joined by dots) that says
    whether the task is done; only the truth file sees it. `instruction`: key of `reset`'s `info` with the
    instruction, for tasks without one."""

    id: str
    rate_hz: float
    joints: dict[str, JointSection]
    tasks: dict[str, TaskSection]
    modules: tuple[str, ...] = ()
    install: str = ""
    options: dict[str, Any] = {}
    seed_option: str = ""
    success: str = "success"
    instruction: str = ""

    def spec(self, rate_hz: float) -> ActionSpec:
        """The arm's, for a loop at `rate_hz`."""
        joints = self.joints.values()
        return ActionSpec(
            names=tuple(self.joints),
            units=tuple(joint.unit for joint in joints),
            low=tuple(joint.low for joint in joints),
            high=tuple(joint.high for joint in joints),
            max_velocity=tuple(joint.max_velocity for joint in joints),
            max_acceleration=tuple(joint.max_acceleration for joint in joints),
            rate_hz=rate_hz,
        )


KIND = "gymnasium"
"""Of the arm and of cameras."""


def wrong(
    section: GymnasiumSection, rate_hz: float, task: str, instruction: str
) -> Iterator[ConfigError]:
    """What can be known to be wrong without the environment; keys as under bench.gymnasium."""
    where = "bench.gymnasium"
    if not section.joints:
        yield ConfigError(f"{where}.joints", expected="one joint or more", found="none")
    if not section.rate_hz > 0:
        yield ConfigError(f"{where}.rate_hz", expected="above 0", found=section.rate_hz)
    elif (ratio := section.rate_hz / rate_hz) < 1 or abs(ratio - round(ratio)) > 1e-6:
        yield ConfigError(
            "loop.rate_hz does not fit the environment",
            expected=f"{section.rate_hz:g} Hz (bench.gymnasium.rate_hz) divided by a whole number",
            found=f"{rate_hz:g} Hz",
        )
    used: dict[int, str] = {}
    for name, joint in section.joints.items():
        if not math.isfinite(joint.action.scale) or joint.action.scale == 0:
            yield ConfigError(f"{where}.joints.{name}.action.scale", expected="not 0")
        if joint.observation.scale == 0:
            yield ConfigError(f"{where}.joints.{name}.observation.scale", expected="not 0")
        if min(joint.action.index, joint.observation.index) < 0:
            yield ConfigError(f"{where}.joints.{name}: index", expected="0 or more")
        if other := used.get(joint.action.index):
            yield ConfigError(
                f"{where}.joints.{name}.action.index",
                expected="an entry of its own",
                found=f"{joint.action.index}, which moves '{other}'",
            )
        used[joint.action.index] = name
    if find_task(section, task) is None:
        yield ConfigError(
            f"no task is named '{task}' under {where}.tasks",
            expected=f"one of {sorted(section.tasks)}",
            remedy="set episode.task, or --task",
        )
    elif not (find_task(section, task) or TaskSection()).instruction and not (
        section.instruction or instruction
    ):
        yield ConfigError(
            f"the task '{task}' has no instruction",
            remedy=f"set {where}.tasks.<task>.instruction, or {where}.instruction to a key of info",
        )


def find_task(section: GymnasiumSection, name: str) -> TaskSection | None:
    """By name, written with - or _."""
    plain = name.replace("-", "_")
    return next((t for n, t in section.tasks.items() if n.replace("-", "_") == plain), None)
