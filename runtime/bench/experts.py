"""Scripted experts, and the natural ways to fail: wrong thing, drop, miss, near miss, undo, idling.

An expert reads the true state and returns one joint target for each 0.1 s. A failure is an expert
whose goal, grasp or ending was spoilt; it does not know that it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from runtime.bench import arm, fixture_scripts, motion, scripts
from runtime.bench.scene import Goal, Scene
from runtime.bench.skills import Fault, Motion, Skills

if TYPE_CHECKING:
    from runtime.bench.world import World

EXPERT = "expert"
FAILURES = (
    "wrong_object",
    "wrong_target",
    "drop",
    "miss_grasp",
    "near_miss",
    "knock",
    "stop_early",
    "undo",
    "idle",
    "random",
)

_UNDO = {
    "open": "close",
    "close": "open",
    "turn_left": "turn_right",
    "turn_right": "turn_left",
    "press": "press",
    "on": "off",
    "in": "off",
    "off": "on",
    "stack": "off",
    "push": "off",
    "lift": "off",
}


class Expert:
    """act() at 10 Hz until done. gave_up: a place it wanted to go to was out of reach."""

    def __init__(self, world: World, script: Motion) -> None:
        self._script = script
        self._limiter = motion.SlewLimiter(world.positions())
        self._target = world.positions().astype(float)
        self.done = False
        self.gave_up = False

    def act(self) -> np.ndarray:
        """float32[6], deg and %: the goal positions for the next 0.1 s; the last ones when done."""
        if not self.done:
            try:
                self._target = next(self._script)
            except StopIteration:
                self.done = True
            except arm.Unreachable:
                self.done = self.gave_up = True
        return self._limiter.limit(self._target).astype(np.float32)


def styles_for(world: World) -> tuple[str, ...]:
    """The failures that make sense in the world's present scene."""
    scene = world.scene
    out = []
    for style in world.task.failures:
        if style in ("wrong_object", "wrong_target") and not wrong_goals(scene, style):
            continue
        out.append(style)
    return tuple(out)


def make_expert(world: World, seed: int, style: str = EXPERT, noise: float = 1.0) -> Expert:
    """A script for the world's present scene.

    style: "expert" or one of FAILURES (see styles_for). noise: 0 for always the same clean motion,
    1 for the natural spread of heights, speeds, pauses and corrected errors.

    Raises:
        ValueError: an unknown style, or one that the present scene has no room for.
    """
    if style not in (EXPERT, *FAILURES):
        raise ValueError(f"style is {style!r}; expected {EXPERT!r} or one of {FAILURES}")
    rng = np.random.default_rng([seed & 0xFFFFFFFF, sum(map(ord, style))])
    fault = Fault(style) if style in ("drop", "miss_grasp", "near_miss") else Fault()
    skills = Skills(world, rng, noise, fault)
    return Expert(world, _script(skills, style))


def _script(skills: Skills, style: str) -> Motion:
    world, rng = skills.world, skills.rng
    goal, task = world.scene.goal, world.task
    if style in ("wrong_object", "wrong_target"):
        options = wrong_goals(world.scene, style)
        if not options:
            raise ValueError(f"the scene has no other thing for style {style!r}")
        other = options[int(rng.integers(len(options)))]
        return scripts.SCRIPTS[other.kind](skills, other)
    if style == "undo":
        return chain(task.script(skills, goal), _undo(skills, goal))
    scripted: dict[str, Callable[[], Motion]] = {
        "stop_early": lambda: _stop_early(world, rng, task.script(skills, goal)),
        "knock": lambda: _knock(skills, goal),
        "idle": lambda: _idle(skills),
        "random": lambda: _random(skills),
    }
    return scripted.get(style, lambda: task.script(skills, goal))()


def wrong_goals(scene: Scene, style: str) -> list[Goal]:
    """What a hand does that takes the wrong thing, or takes it to the wrong place."""
    goal = scene.goal
    if style == "wrong_target":
        if goal.target in scene.container_names:
            names = [p.name for p in scene.containers if p.name != goal.target]
            relation = {p.name: p.type.relation for p in scene.containers}  # type: ignore[union-attr]
            keep = goal.kind if goal.kind == "push" else ""
            return [Goal(keep or relation[name], goal.thing, name) for name in names]
        if goal.target in scene.object_names:
            rest = [p for p in scene.objects if p.name not in (goal.thing, goal.target)]
            flat = [p.name for p in rest if p.type.shape != "ball"]  # type: ignore[union-attr]
            return [Goal(goal.kind, goal.thing, name) for name in flat]
        return []
    others = [name for name in scene.object_names if name not in (goal.thing, goal.target)]
    if goal.kind in ("on", "in", "push", "stack", "store"):
        return [Goal(goal.kind, name, goal.target) for name in others]
    return [Goal("lift", name) for name in others]


def _stop_early(world: World, rng: np.random.Generator, script: Motion) -> Motion:
    """Freeze once progress passes a random mark, then stay there for a while."""
    mark = float(rng.uniform(0.12, 0.62))
    for target in script:
        if world.truth().progress >= mark:
            break
        yield target
    last = world.positions().astype(float)
    for _ in range(int(rng.integers(8, 20))):
        yield last


def _undo(skills: Skills, goal: Goal) -> Motion:
    """Having succeeded, take it back: the usual end of an episode that went on for too long."""
    yield from skills.wait(0.5)
    if goal.kind == "store":
        yield from fixture_scripts.lead_handle(skills, 0.95)
        yield from skills.home()
        return
    kind = _UNDO[goal.kind]
    if goal.kind == "lift":
        yield from skills.retreat(-0.05)
        yield from skills.release()
        return
    yield from scripts.SCRIPTS[kind](skills, Goal(kind, goal.thing, goal.target))


def _knock(skills: Skills, goal: Goal) -> Motion:
    """Sweep the closed jaw through the thing, across its direction from the base."""
    thing = skills.object(goal.thing)
    x, y = float(thing.position_m[0]), float(thing.position_m[1])
    side = float(skills.rng.choice([-1.0, 1.0]))
    reach = float(np.hypot(x, y))
    across = side * np.array([-y, x]) / reach
    scene = skills.world.scene
    if goal.target in scene.container_names:
        # Away from where it belongs: a lucky knock would be a success.
        place = scene.container(goal.target)
        if float(across @ np.array([place.x_m - x, place.y_m - y])) > 0.0:
            across = -across
    z = max(0.018, thing.bottom_m + 0.016)
    yaw = float(np.degrees(np.arctan2(y, x))) + 90.0
    begin = np.array([x, y]) - across * 0.06
    end = np.array([x, y]) + across * float(skills.rng.uniform(0.03, 0.06))
    pitch = skills.stance([(*begin, z), (*end, z), (*begin, z + 0.05)], yaw)
    yield from skills.move(arm.TipPose(begin[0], begin[1], z + 0.05, pitch, yaw), 20.0)
    yield from skills.straight(arm.TipPose(begin[0], begin[1], z, pitch, yaw))
    yield from skills.straight(arm.TipPose(end[0], end[1], z, pitch, yaw), 0.7)
    yield from skills.retreat(0.05)
    yield from skills.home()


def _idle(skills: Skills) -> Motion:
    """Stand about, with a small sway."""
    rest = skills.q.copy()
    sway = skills.rng.uniform(-3.0, 3.0, 6)
    ticks = int(skills.rng.integers(25, 60))
    for k in range(ticks):
        yield rest + sway * np.sin(2.0 * np.pi * k / ticks)


def _random(skills: Skills) -> Motion:
    """Move to random poses over the table, opening and closing the jaw; never on purpose."""
    for _ in range(int(skills.rng.integers(3, 6))):
        for pose in _random_poses(skills.rng):
            try:
                yield from skills.move(pose, float(skills.rng.uniform(0.0, 95.0)))
            except arm.Unreachable:
                continue
            break
    yield from skills.home()


def _random_poses(rng: np.random.Generator) -> Iterator[arm.TipPose]:
    for _ in range(20):
        radius, angle = rng.uniform(0.15, 0.26), rng.uniform(-1.0, 1.0)
        yield arm.TipPose(
            radius * float(np.cos(angle)),
            radius * float(np.sin(angle)),
            float(rng.uniform(0.05, 0.14)),
            float(rng.uniform(55.0, 88.0)),
            float(np.degrees(angle)) + 90.0 + float(rng.uniform(-50.0, 50.0)),
        )
