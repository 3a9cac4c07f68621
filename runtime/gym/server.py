"""The process of a Gymnasium environment, in the bench's place: same socket, same pictures, same truth file.

`python -m runtime.gym.server --run-dir <dir>`. Owns the environment, its time and the fence against late
writers. Time passes only in `Advance`, in whole steps of the environment. What `info` says of success goes
into the truth file and nowhere else; an environment that is over stands still until the next episode.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys

import numpy as np

from contracts.errors import ConfigError, EntracteError
from contracts.files.stop_event import StopEvent
from runtime.bench import protocol as p
from runtime.bench.serving import Shutters, Simulation, serve
from runtime.bench.verdict import Verdict
from runtime.cameras.rotation import turn, upright
from runtime.frames import FrameSlots
from runtime.gym.environment import Environment
from runtime.gym.mapping import WHERE, JointMap, leaves, look_up, offers, picture, truth
from runtime.gym.section import KIND, TaskSection, find_task
from runtime.run import Run, run_of_process


class GymBench(Simulation):
    """Answers requests of `runtime.bench.protocol`. Made only if the whole mapping fits."""

    def __init__(self, run: Run) -> None:
        section = run.config.bench.gymnasium
        assert section is not None
        self._run, self._section = run, section
        self._cameras = {n: c for n, c in run.config.cameras.items() if c.kind == KIND}
        self._slots = {
            name: FrameSlots.create(run.frames_path(name), camera.height, camera.width, False)
            for name, camera in self._cameras.items()
        }
        self._shutters = Shutters({name: c.rate_hz for name, c in self._cameras.items()})
        self._joints, self._verdict = JointMap(section), Verdict(run, 0.0)
        self._environments: dict[str, Environment] = {}
        self._epoch, self._sim_s, self._began_s, self._steps = 0, 0.0, 0.0, 0
        self._success, self._instruction = False, ""
        self._positions = self._targets = np.zeros(len(section.joints))
        episode, split = run.config.episode, run.config.bench.split
        first = p.Reset(episode.task, episode.seed_base, split, -1, run.plan.purpose)
        self._env = self._environment(first.task)
        self._check(first.seed)
        self.reset(first)

    # -- the robot's side

    def read(self, _: p.Read) -> p.Joints:
        return p.Joints(
            tuple(self._positions.tolist()), self._sim_s, (), tuple(self._targets.tolist())
        )

    def write(self, request: p.Write) -> p.Done:
        if request.epoch < self._epoch:
            return p.Done(self._sim_s, accepted=False)
        self._epoch = request.epoch
        targets = np.array(request.targets, float)
        if targets.shape != self._targets.shape or not np.isfinite(targets).all():
            raise EntracteError(
                "targets", expected=f"{len(self._targets)} finite numbers", found=request.targets
            )
        self._targets = targets
        return p.Done(self._sim_s)

    def hold(self, request: p.Hold) -> p.Done:
        """Accepted under any epoch: to stop is never refused, and a newer epoch fences the others."""
        self._epoch = max(self._epoch, request.epoch)
        self._targets = self._positions.copy()
        return p.Done(self._sim_s)

    # -- the experimenter's side

    def welcome(self, _: p.Hello) -> p.Welcome:
        unknown = (0.0, 0.0, 0.0, 0.0)
        views = dict.fromkeys(self._cameras, unknown)
        return p.Welcome(self._sim_s, views, tuple(self._section.tasks))

    def reset(self, request: p.Reset) -> p.SceneReady:
        self._env = self._environment(request.task)
        self._env.reset(request.seed)
        self._sim_s = max(self._sim_s, request.at_s)
        self._began_s, self._steps, self._success = self._sim_s, 0, False
        self._instruction = self._told(self._task(request.task))
        self._look()
        self._targets = self._positions.copy()
        self._joints.begin(self._positions)
        self._verdict.begin(request, self._sim_s)
        self._shutters.begin(self._sim_s)
        self._take_pictures()
        max_s = self._run.config.episode.max_s
        return p.SceneReady(self._instruction, max_s, self._sim_s)

    def advance(self, request: p.Advance) -> p.Done:
        if request.to_s > self._sim_s:
            due = round((request.to_s - self._began_s) * self._section.rate_hz)
            for step in range(self._steps + 1, due + 1):
                self._env.step(self._joints.action(self._targets, self._positions))
                self._look()
                self._success = truth(self._env.info, self._section.success)
                at_s = self._began_s + step / self._section.rate_hz
                self._verdict.judge(self._success, float(self._success), at_s)
            self._steps, self._sim_s = max(self._steps, due), request.to_s
            self._take_pictures()
        return p.Done(self._sim_s, finished=self._verdict.finished(self._sim_s))

    def expert(self, _: p.Expert) -> p.ExpertMove:
        """What the task's expert goes to from here; the episode ends when its success has lasted."""
        targets = self._joints.targets(self._env.shown(), self._positions)
        labelled = self._run.plan.label_steps
        return p.ExpertMove(
            tuple(targets.tolist()),
            bool(self._env.over),
            float(self._success) if labelled else math.nan,
            self._success if labelled else None,
        )

    def finish(self, request: p.Finish) -> p.Finished:
        events = (self._env.over,) if self._env.over else ()
        said = self._instruction, self._success, float(self._success), events
        return p.Finished(self._verdict.write(request, *said))

    # -- inside

    def _task(self, name: str) -> TaskSection:
        task = find_task(self._section, name)
        if task is None:
            raise ConfigError(
                f"no task is named '{name}'", expected=f"one of {sorted(self._section.tasks)}"
            )
        return task

    def _environment(self, name: str) -> Environment:
        """Of that task; made once."""
        if name not in self._environments:
            renders = any(not c.options.get("observation") for c in self._cameras.values())
            task = self._task(name)
            self._environments[name] = Environment(self._section, task, renders=renders)
        return self._environments[name]

    def _check(self, seed: int) -> None:
        """The whole mapping, on a scene that no episode sees: a step is made, for what `info` has."""
        self._env.reset(seed)
        self._joints.check(self._env.observation, self._env.action_space)
        self._told(self._task(self._run.config.episode.task))
        self._look()
        self._joints.begin(self._positions)
        for name in self._cameras:
            self._picture(name)
        limit, section = self._env.most_steps(), self._section
        wanted = round(self._run.config.episode.max_s * section.rate_hz)
        if limit is not None and wanted > limit:
            raise ConfigError(
                "episode.max_s is more than the environment's own limit",
                expected=f"at most {limit / section.rate_hz:g} s ({limit} steps)",
                found=f"{self._run.config.episode.max_s:g} s ({wanted} steps)",
                remedy=f"set episode.max_s={limit / section.rate_hz:g}, or its option max_episode_steps",
            )
        if self._run.plan.driver == "expert":
            self._env.shown()
        self._env.step(self._joints.action(self._positions, self._positions))
        truth(self._env.info, section.success)

    def _told(self, task: TaskSection) -> str:
        """The task's instruction, or what `reset` says of it."""
        if task.instruction or not self._section.instruction:
            return task.instruction
        try:
            found = look_up(self._env.info, self._section.instruction)
        except KeyError:
            found = None
        if not isinstance(found, str) or not found.strip():
            raise ConfigError(
                f"{WHERE}.instruction: info of reset() has no text '{self._section.instruction}'",
                expected=f"one of {offers({str(name): name for name in self._env.info})}",
            )
        return found

    def _look(self) -> None:
        self._positions = self._joints.positions(self._env.observation)

    def _take_pictures(self) -> None:
        for name in self._shutters.release(self._sim_s):
            self._slots[name].write(self._picture(name), None, self._sim_s)

    def _picture(self, name: str) -> np.ndarray:
        camera = self._cameras[name]
        key = camera.options.get("observation", "")
        width, height = upright(camera.width, camera.height, camera.rotation)
        if not key:
            what = f"cameras.{name}: what render() of {self._section.id} gives"
            found = self._env.render()
        else:
            what = f"cameras.{name}: the observation '{key}'"
            try:
                found = look_up(self._env.observation, key)
            except KeyError:
                raise ConfigError(
                    f"cameras.{name}: the environment observes no '{key}'",
                    expected=f"one of what it observes: {offers(leaves(self._env.observation))}",
                    remedy="or leave options.observation out for what it renders",
                ) from None
        return turn(picture(found, what, width, height), camera.rotation)


def main() -> None:
    run = run_of_process("runtime.gym.server")
    stop = StopEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(GymBench(run), run.bench_address, stop)
    except (EntracteError, ImportError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # What an environment's renderer does in its teardown is nobody's business any more.
    os._exit(0)


if __name__ == "__main__":
    main()
