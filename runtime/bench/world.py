"""The simulated bench: physics, arm, cameras and the truth about one scene at a time.

Owns the MuJoCo model and the renderer. Knows nothing of clocks, sockets or episodes; a server wraps
it. Not thread-safe. Equal (task, seed, split), config and commands give equal states and images.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.bench import arm, goals, language, render, target
from runtime.bench.compose import compose, scene_rng, scene_xml
from runtime.bench.physics import Physics
from runtime.bench.render import Intrinsics
from runtime.bench.scene import Goal, RandomisationConfig, Scene
from runtime.bench.split import EVAL, check_split
from runtime.bench.state import BenchState, Truth
from runtime.bench.tasks import Task, find_task
from runtime.bench.wander import Wander

# The state is looked at this often within a step(), whatever its length.
WATCH_S = 0.05
STABLE_S = 0.3


class NotReset(RuntimeError):
    """The world has no scene yet: call reset() first."""


class BadCommand(ValueError):
    """A command that is not six finite numbers. Clamping it could move the arm anywhere."""


@dataclass(frozen=True)
class WorldConfig:
    """Image size in pixels, physics step in seconds, and how far scenes vary. `unsteady_deg` above 0: the
    arm is pushed about by up to so much (std), so that a demonstrator is seen to correct it. `board`: a
    printed board is there and nothing else, for calibration (`runtime.bench.target.Target`)."""

    width: int = 128
    height: int = 96
    physics_dt_s: float = 0.004
    depth_noise: bool = True
    unsteady_deg: float = 0.0
    board: Mapping[str, Any] | None = None
    randomise: RandomisationConfig = field(default_factory=RandomisationConfig)


@dataclass(frozen=True)
class Sight:
    """All that a picture depends on, besides the scene: joint positions float64[nq], colours
    float32[ngeom, 4], and the key of the depth noise."""

    qpos: np.ndarray
    colours: np.ndarray
    key: tuple[int, int, int]


class World:
    """One bench. The robot's side: command, hold, positions, velocities, render, intrinsics.
    The experimenter's side: reset, step, state, truth, judge, counterfactuals."""

    def __init__(self, config: WorldConfig | None = None) -> None:
        self.config = config or WorldConfig()
        self._target = target.parse(self.config.board)
        self._view = render.intrinsics(self.config.width, self.config.height)
        self._renderer = render.Renderer(self._view, self.config.depth_noise)
        self._physics: Physics | None = None
        self._scene: Scene | None = None
        self._task: Task | None = None
        self._device_epoch_s = 0.0

    # -- experimenter's side ---------------------------------------------------------------

    def reset(
        self,
        task: str,
        seed: int,
        split: str = EVAL,
        arm_start_deg: np.ndarray | None = None,
    ) -> Scene:
        """Build the scene of (task, seed, split) and put the arm at its start.

        arm_start_deg: float[6] where the arm stands instead, when it must not jump.

        Raises:
            ValueError: unknown task or split.
        """
        spec = find_task(task) if self._target is None else target.TASK
        rng = scene_rng(task, seed, check_split(split))
        draft = spec.draft(rng, split)
        scene = compose(
            task,
            seed,
            split,
            draft,
            spec.phrases(draft.goal),
            spec.time_limit_s,
            self.config.randomise,
            rng,
        )
        if self._physics is not None:
            self._device_epoch_s += self._physics.time_s
        start = scene.arm_start_deg if arm_start_deg is None else _checked(arm_start_deg)
        dt = self.config.physics_dt_s
        xml = scene_xml(scene, self._view, dt, self._target)
        self._physics = Physics(scene, xml, start, dt)
        self._renderer.forget()
        self._scene, self._task = scene, spec
        push = np.random.default_rng([*f"{task}/{split}".encode(), seed & 0xFFFFFFFF, 43])
        self._wander = Wander(push, push.uniform(0.2, 1.0) * self.config.unsteady_deg)
        self._noise_key = (zlib.crc32(f"{task}/{split}".encode()), seed & 0xFFFFFFFF)
        self._start = self._now = self._physics.state()
        self._met_since_s: float | None = None
        self._succeeded = False
        self._events: list[str] = []
        self._reading = self._judge(scene.goal)
        return scene

    def step(self, dt_s: float) -> None:
        """Advance physics by dt_s seconds; what is less than a physics step is carried over."""
        physics = self._live()
        left = dt_s
        while left > 1e-9:
            physics.advance(min(left, WATCH_S))
            left -= WATCH_S
            self._watch()

    @property
    def scene(self) -> Scene:
        self._live()
        assert self._scene is not None
        return self._scene

    @property
    def task(self) -> Task:
        """The spec of the scene's task."""
        self._live()
        assert self._task is not None
        return self._task

    @property
    def time_s(self) -> float:
        """Simulated seconds since reset."""
        return self._live().time_s

    @property
    def device_time_us(self) -> int:
        """The cameras' clock: microseconds since the world was made; never goes back."""
        return round((self._device_epoch_s + self._live().time_s) * 1e6)

    def state(self) -> BenchState:
        """Privileged state, as experts and goals see it."""
        self._live()
        return self._now

    def truth(self) -> Truth:
        """What is true now of the scene's own goal."""
        self._live()
        reading = self._reading
        progress = reading.progress
        if reading.met and not self._succeeded:
            progress = min(progress, 0.98)  # met, but not yet for long enough
        return Truth(self._succeeded, progress, reading.stage, tuple(self._events))

    def judge(self, goal: Goal) -> goals.Reading:
        """Read any goal that the scene's things allow (see language.possible_goals) now."""
        self._live()
        return self._judge(goal)

    def alternatives(
        self, rng: np.random.Generator | None = None, n: int = 8
    ) -> list[language.Alternative]:
        """Wrong instructions for this scene and paraphrases of the right one, with their goals.

        Without an rng the scene's own seed is used: the same list at any time of the episode.
        """
        scene = self.scene
        return language.alternatives(scene, rng or np.random.default_rng(scene.seed), n)

    def counterfactuals(
        self, rng: np.random.Generator | None = None, n: int = 8
    ) -> list[tuple[str, bool, float]]:
        """(instruction, success now, progress now) for up to n wrong instructions, then for the
        paraphrases of the true one; see alternatives()."""
        out = []
        for other in self.alternatives(rng, n):
            if other.relation == "absent":
                out.append((other.instruction, False, 0.0))
            elif other.relation == "paraphrase":
                truth = self.truth()
                out.append((other.instruction, truth.success, truth.progress))
            else:
                reading = self._judge(other.goal)
                out.append((other.instruction, reading.met, reading.progress))
        return out

    def close(self) -> None:
        """Free the GL context."""
        self._renderer.close()

    # -- robot's side ----------------------------------------------------------------------

    def command(self, target_deg: np.ndarray) -> None:
        """Set the servos' goal positions, float[6] deg and %; they persist until the next call.

        Raises:
            BadCommand: wrong shape or not finite. Positions outside a joint's range are clamped
                by the servo, as on the real arm.
        """
        physics = self._live()
        target = _checked(target_deg)
        if self.config.unsteady_deg > 0.0:
            target = target + self._wander.at(physics.time_s)
        physics.command(target)

    def hold(self) -> None:
        """Goal position := present position."""
        physics = self._live()
        physics.command(physics.positions().astype(float))

    def positions(self) -> np.ndarray:
        """float32[6], deg and %."""
        return self._live().positions()

    def velocities(self) -> np.ndarray:
        """float32[6], deg/s and %/s."""
        return self._live().velocities()

    def targets(self) -> np.ndarray:
        """float32[6], deg and %: the servos' goal positions."""
        return self._live().targets()

    def render(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """uint8[H, W, 3] RGB and uint16[H, W] depth in mm aligned to it, 0 where there is none."""
        physics = self._live()
        if physics.pop_repainted():
            self._renderer.forget()
        key = (*self._noise_key, round(physics.time_s * 1e6))
        return self._renderer.render(physics.model, physics.data, camera, key)

    def model_xml(self) -> str:
        """The scene as a MuJoCo model: with a `sight`, another process can take its pictures."""
        return self._live().xml

    def sight(self) -> Sight:
        """The present state as the cameras see it."""
        physics = self._live()
        qpos, colours = physics.sight()
        return Sight(qpos, colours, (*self._noise_key, round(physics.time_s * 1e6)))

    def intrinsics(self, camera: str) -> Intrinsics:
        """Colour intrinsics; depth is aligned to colour, so they are the depth's as well."""
        if camera not in render.CAMERAS:
            raise ValueError(f"camera is {camera!r}; expected one of {render.CAMERAS}")
        return self._view

    def extrinsics(self, camera: str) -> np.ndarray:
        """float64[4, 4], camera (OpenCV axes: x right, y down, z forward) to world, now."""
        self.intrinsics(camera)
        return self._live().camera_to_world(camera)

    # -- inside ----------------------------------------------------------------------------

    def _live(self) -> Physics:
        if self._physics is None:
            raise NotReset("the bench has no scene: call reset(task, seed, split) first")
        return self._physics

    def _judge(self, goal: Goal) -> goals.Reading:
        assert self._task is not None and self._scene is not None
        if goal == self._scene.goal:
            return self._task.evaluate(goal, self._now, self._start, self._scene)
        return goals.evaluate(goal, self._now, self._start, self._scene)

    def _watch(self) -> None:
        """Look at the state after a bit of physics: success, and what happened."""
        assert self._physics is not None and self._scene is not None
        before, now = self._now, self._physics.state()
        self._now = now
        self._reading = self._judge(self._scene.goal)
        if not self._reading.met:
            self._met_since_s = None
        elif self._met_since_s is None:
            self._met_since_s = now.time_s
        stable = self._met_since_s is not None and now.time_s - self._met_since_s >= STABLE_S - 1e-6
        if stable != self._succeeded:
            self._events.append("success" if stable else "undone")
            self._succeeded = stable
        for old, new in zip(before.objects, now.objects, strict=True):
            if new.held and not old.held:
                self._events.append(f"grasped {new.type.name}")
            elif old.held and not new.held:
                word = "dropped" if new.bottom_m > 0.03 and new.speed_m_s > 0.15 else "released"
                self._events.append(f"{word} {new.type.name}")
        if now.lit != before.lit:
            self._events.append("lamp on" if now.lit else "lamp off")


def _checked(target_deg: np.ndarray) -> np.ndarray:
    target = np.asarray(target_deg, dtype=float)
    if target.shape != (6,) or not np.all(np.isfinite(target)):
        raise BadCommand(
            f"expected 6 finite joint targets {arm.JOINT_NAMES} in deg and %, got {target_deg!r}"
        )
    return target
