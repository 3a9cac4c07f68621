"""The bench process: one `World` behind a Unix socket and pictures in shared memory.

Owns the world, its time, the fence against late writers and the truth file. In `asap` pace one thread
serves, and time passes only in `Advance`; in `realtime` physics runs in a thread and the cameras in a
process of their own (`runtime.bench.pictures`), and go on, as last told, whatever becomes of control.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time

import msgspec
import numpy as np

from contracts.errors import EntracteError
from contracts.files.stop_event import StopEvent
from runtime.bench import CAMERAS, TASKS, World, WorldConfig, make_expert, styles_for
from runtime.bench import protocol as p
from runtime.bench.experts import EXPERT, Expert
from runtime.bench.pictures import CameraProcess
from runtime.bench.serving import Shutters, Simulation, serve, task_name
from runtime.bench.stage import Stage
from runtime.bench.verdict import Verdict
from runtime.bench.world import STABLE_S
from runtime.frames import FrameSlots
from runtime.run import Run, run_of_process
from runtime.system.priority import Rank, run_first

EXPERT_PERIOD_S = 0.1


class Bench(Simulation):
    """Answers requests. `now` is simulated time in asap and the monotonic clock in realtime."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.realtime = run.config.pace == "realtime"
        sizes = {(c.width, c.height) for c in run.config.cameras.values() if c.kind == "sim"}
        if len(sizes) > 1:
            sim = [f"cameras.{n}" for n, c in run.config.cameras.items() if c.kind == "sim"]
            raise EntracteError(
                "the bench renders all its cameras at one size",
                found=", ".join(f"{width}x{height}" for width, height in sorted(sizes)),
                remedy=f"set the same width and height for {' and '.join(sim)}",
            )
        missing = [n for n, c in run.config.cameras.items() if c.kind == "sim" and n not in CAMERAS]
        if missing:
            raise EntracteError(
                f"the bench has no camera '{missing[0]}'",
                expected=f"one of {list(CAMERAS)}",
                remedy="fix the name under cameras: in the hardware config",
            )
        width, height = sizes.pop() if sizes else (128, 96)
        self.world = World(WorldConfig(width=width, height=height, **run.config.bench.options))
        self.lock = threading.Lock()
        self.epoch = 0
        self.has_scene = False
        self._sim_s = 0.0
        self._pending: np.ndarray | None = None
        self._cameras = {
            name: FrameSlots.create(run.frames_path(name), height, width, camera.depth)
            for name, camera in run.config.cameras.items()
            if camera.kind == "sim"
        }
        rates = {name: run.config.cameras[name].rate_hz for name in self._cameras}
        self._shutters = Shutters(rates)
        self._stage = Stage.create(run.stage_path) if self.realtime else None
        self._scenes = 0
        self._joints = p.Joints((), 0.0)
        self._verdict = Verdict(run, STABLE_S)  # truth itself waits so long before it says success
        self._expert: Expert | None = None
        self._expert_move: p.ExpertMove | None = None
        self._expert_due_s = 0.0
        # A robot stands somewhere from the start; this also finds a wrong task before anything runs.
        episode = run.config.episode
        self.reset(
            p.Reset(episode.task, episode.seed_base, run.config.bench.split, -1, run.plan.purpose)
        )

    @property
    def now_s(self) -> float:
        return time.monotonic() if self.realtime else self._sim_s

    # -- the robot's side

    def read(self, _: p.Read) -> p.Joints:
        if not self.realtime:
            self._look()
        return self._joints

    def write(self, request: p.Write) -> p.Done:
        if request.epoch < self.epoch:
            return p.Done(self.now_s, accepted=False)
        self.epoch = request.epoch
        targets = np.array(request.targets, float)
        if self.realtime:
            # Physics takes it over at its next step: a render in progress does not delay the bus.
            if targets.shape != (6,) or not np.isfinite(targets).all():
                raise EntracteError("targets", expected="6 finite numbers", found=request.targets)
            self._pending = targets
        else:
            self.world.command(targets)
        return p.Done(self.now_s)

    def hold(self, request: p.Hold) -> p.Done:
        """Accepted under any epoch: to stop is never refused, and a newer epoch fences the others."""
        self.epoch = max(self.epoch, request.epoch)
        if not self.has_scene:
            return p.Done(self.now_s)
        if self.realtime:
            self._pending = np.array(self._joints.positions, float)
        else:
            self.world.hold()
        return p.Done(self.now_s)

    # -- the experimenter's side

    def welcome(self, _: p.Hello) -> p.Welcome:
        views = {name: self.world.intrinsics(name) for name in CAMERAS}
        return p.Welcome(
            self.now_s,
            {name: (v.fx, v.fy, v.cx, v.cy) for name, v in views.items()},
            tuple(sorted(TASKS)),
        )

    def reset(self, request: p.Reset) -> p.SceneReady:
        with self.lock:
            scene = self.world.reset(task_name(request.task), request.seed, request.split)
            self.has_scene, self._pending = True, None
            self._expert = self._expert_move = None
            if self.run.plan.driver == "expert":
                style = self._style(request)
                self._expert = make_expert(self.world, request.seed, style)
                request = msgspec.structs.replace(request, style=style)
            self._sim_s = max(self._sim_s, request.at_s)
            self._verdict.begin(request, self.now_s)
            self._shutters.begin(self._sim_s)
            self._scenes += 1
            self._look()
            self._show()
        if not self.realtime:
            self._render_due()
        return p.SceneReady(scene.instruction, scene.time_limit_s, self.now_s)

    def _style(self, request: p.Reset) -> str:
        """The expert's style; "failures" is whichever of the scene's failures the seed picks."""
        if request.style != "failures":
            return request.style or EXPERT
        styles = styles_for(self.world)
        return styles[request.seed % len(styles)]

    def advance(self, request: p.Advance) -> p.Done:
        if not self.realtime and self.has_scene:
            step_s = request.to_s - self._sim_s
            if step_s > 0:
                self.world.step(step_s)
                self._sim_s = request.to_s
                self._judge()
                self._render_due()
        asked, verdict = self._verdict.asked, self._verdict
        told = asked is not None and asked.purpose == "refine" and verdict.label
        progress = self.world.truth().progress if told else math.nan
        return p.Done(self.now_s, finished=verdict.finished(self.now_s), progress=progress)

    def expert(self, _: p.Expert) -> p.ExpertMove:
        """The teleoperator's next target, 10 a second; in between the last one."""
        with self.lock:
            if self._expert is None:
                raise EntracteError("this run has no expert", remedy="record with --expert")
            if self._expert_move is None or self.now_s >= self._expert_due_s - 1e-6:
                first = self._expert_move is None
                self._expert_due_s = (self.now_s if first else self._expert_due_s) + EXPERT_PERIOD_S
                targets = tuple(self._expert.act().tolist())
                truth = self.world.truth()
                labels = self.run.plan.label_steps
                self._expert_move = p.ExpertMove(
                    targets,
                    self._expert.done,
                    truth.progress if labels else math.nan,
                    truth.success if labels else None,
                )
            return self._expert_move

    def finish(self, request: p.Finish) -> p.Finished:
        with self.lock:
            truth = self.world.truth()
            success = truth.success or self._verdict.finished(self.now_s)
            said = self.world.scene.instruction, success, truth.progress, truth.events
        return p.Finished(self._verdict.write(request, *said))

    def _judge(self) -> None:
        truth = self.world.truth()
        self._verdict.judge(truth.success, truth.progress, self.now_s)

    def _look(self) -> None:
        if self.has_scene:
            world = self.world
            self._joints = p.Joints(
                tuple(world.positions().tolist()),
                self.now_s,
                tuple(world.velocities().tolist()),
                tuple(world.targets().tolist()),
            )

    def _show(self) -> None:
        """realtime: what the cameras see from now on."""
        if self._stage is not None:
            world = self.world
            self._stage.show(self._scenes, world.model_xml(), world.sight(), self.now_s)

    def _render_due(self) -> None:
        """asap: cameras whose period has passed; the picture shows the present state."""
        for name in self._shutters.release(self._sim_s):
            slots, (rgb, depth) = self._cameras[name], self.world.render(name)
            slots.write(rgb, depth if slots.depth else None, self._sim_s)

    # -- realtime

    def physics_forever(self, stop: threading.Event) -> None:
        """Steps the world along the wall clock, every 4 ms or as configured."""
        rate_hz = self.run.config.bench.physics_rate_hz
        period_s = 1.0 / rate_hz if rate_hz else 2 * self.world.config.physics_dt_s
        run_first(Rank.BUS)
        last_s = deadline_s = time.monotonic()
        while not stop.is_set():
            deadline_s = max(deadline_s + period_s, time.monotonic() - 0.05)
            time.sleep(max(0.0, deadline_s - time.monotonic()))
            with self.lock:
                now_s = time.monotonic()
                if self.has_scene:
                    pending, self._pending = self._pending, None
                    if pending is not None:
                        self.world.command(pending)
                    self.world.step(min(now_s - last_s, 0.1))
                    self._look()
                    self._show()
                    self._judge()
                last_s = now_s


def main() -> None:
    run = run_of_process("runtime.bench.server")
    stop = StopEvent()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sys.setswitchinterval(0.0005)
    cameras = None
    try:
        bench = Bench(run)
        threads = []
        if bench.realtime:
            threads = [threading.Thread(target=bench.physics_forever, args=(stop,), daemon=True)]
            threads[0].start()
            if any(camera.kind == "sim" for camera in run.config.cameras.values()):
                cameras = CameraProcess(run)
            run_first(Rank.BUS)  # a real arm's bus does not wait for this computer's other programs
        serve(bench, run.bench_address, stop)
    except (EntracteError, ImportError, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    for thread in threads:
        thread.join(1.0)
    if cameras:
        cameras.close()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # OSMesa's teardown from another thread than the one that rendered can crash: nothing is left to save.
    os._exit(0)


if __name__ == "__main__":
    main()
