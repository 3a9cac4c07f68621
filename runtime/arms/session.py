"""Cameras and arm in the hands of a tool (`robot-calibrate`) instead of the control process.

Starts the same device processes and the same watchdog, opens the same `Camera` and `Arm`, and moves through
the same gate; runs no policy, records nothing. Latencies of the configuration are left out: times are the
devices' own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from contracts.errors import DeviceError, EntracteError, GateFault
from contracts.specs import ActionSpec
from runtime.arms import Arm, ArmState, is_powered_by_opening
from runtime.board import LoopState
from runtime.cameras import Camera
from runtime.config import RobotConfig, load_config
from runtime.control.reset import Homing, NotReached
from runtime.control.resting import Resting
from runtime.control.robot import Robot, build
from runtime.control.taking import prepare, take_arm
from runtime.gate.gate import Verdict
from runtime.gate.limits import inside_box
from runtime.preflight import check
from runtime.processes.children import Child
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import Run, RunPlan
from runtime.system.priority import run_first
from runtime.teleoperation import KEYBOARD

__all__ = ["NotReached", "Session", "Stopped"]
T = TypeVar("T")


class Stopped(DeviceError):
    """A person asked for the end (Ctrl-C): nothing is wrong."""


class Session:
    """`with Session(config) as session:` devices open, the arm in hold. Raises `EntracteError` where one is
    missing. `cameras`, `arm` and `now_s` are those of the loop; `tick` is one period of it."""

    def __init__(self, config: RobotConfig, folder: Path | None = None) -> None:
        """`folder`: where logs and reports go; by default one that is removed afterwards."""
        self._config, self._folder = _as_devices_say(config), folder
        self._own = tempfile.TemporaryDirectory(prefix="entracte-session-") if not folder else None
        self.robot: Robot
        self._taken = False

    @classmethod
    def of(
        cls, path: Path | None, overrides: Sequence[str] = (), cameras: Collection[str] = ()
    ) -> Session:
        """Of a hardware configuration (None: the embedded bench's), with these of its cameras alone, where
        any are named. Raises `ConfigError`."""
        config = load_config(path, overrides)
        kept = {name: one for name, one in config.cameras.items() if not cameras or name in cameras}
        return cls(msgspec.structs.replace(config, cameras=kept))

    def __enter__(self) -> Session:
        folder = self._folder or Path(self._own.name)  # type: ignore[union-attr]
        plan = RunPlan(purpose="record", driver="person", sink="none")
        check(self._config, plan)
        self._run = run = make_run(self._config, plan, folder)
        try:
            self._devices = _Devices(run)
            self._devices.__enter__()
        except (
            BaseException
        ):  # devices have closed themselves; Ctrl-C may come before there are any
            self._forget()
            raise
        try:
            self.robot = build(run, self._devices.board)
        except BaseException as error:
            self._devices.look_after()
            what = self._devices.what
            self._devices.close()
            self._forget()
            if what and isinstance(error, DeviceError):
                raise DeviceError(
                    what
                ) from error  # of the process that died, not of who waited for it
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        robot = self.robot
        try:
            if self._taken:  # latched or not: after a fault braking goes on with each tick
                robot.come_to_rest("the session is over")
                if not robot.gate.faulted:
                    robot.board.loop_state = LoopState.DONE
        except EntracteError:
            if error is None:
                raise  # else the first cause is what counts; `close` holds the arm
        finally:
            robot.close()
            with contextlib.suppress(OSError, AttributeError):
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            self._devices.close()
            self._forget()

    @property
    def cameras(self) -> Mapping[str, Camera]:
        return self.robot.senses.cameras

    @property
    def arm(self) -> Arm:
        return self.robot.gate.arm

    @property
    def action(self) -> ActionSpec:
        return self.robot.action

    @property
    def powers_by_opening(self) -> bool:
        """Whether entering it changes the power of the arm's motors. Raises `ConfigError`."""
        return is_powered_by_opening(self._config)

    @property
    def rate_hz(self) -> float:
        return self._config.loop.rate_hz

    @property
    def knows_workspace(self) -> bool:
        """Whether the gate can tell where in space this arm is, and so keeps it in a workspace."""
        limits = self.robot.gate.limits
        return limits.points is not None and bool(limits.box)

    @property
    def held(self) -> tuple[float, ...]:
        """The pose that the gate last took for the arm's: its own targets where it stands at them, and of
        grippers always, which may be closed upon something."""
        return self.robot.gate.state.position

    def now_s(self) -> float:
        return self.robot.clock.now_s()

    def take_arm(self) -> None:
        """Power it where it stands; from here on `tick` may move it, under the watchdog's eyes. Raises
        `EntracteError`."""
        if not self.robot.clock.lockstep:
            run_first()  # as control would: the watchdog waits no longer for a tool
        self._taken = take_arm(self.robot, Resting(self.robot))
        if not self._taken:
            self._require_lawful()
            raise self._stopped()
        prepare(self.robot)

    def tick(self, targets: Sequence[float] | None = None) -> tuple[ArmState, Verdict]:
        """Wait for the next period, read the arm, and ask the gate for `targets` (the arm's units; None: come
        to rest). Returns what was read before and what the gate made of it. Raises `GateFault` once the gate
        has latched one, `DeviceError` when a device is gone or reads what is no number, `Stopped`."""
        robot = self.robot
        self._devices.look_after()
        lateness_s = robot.wake()
        if robot.board.stop_requested:
            raise self._stopped()
        joints = robot.senses.joints()
        # No picture is acted on: their age is the caller's to judge.
        verdict = robot.gate.command(targets, robot.clock.now_s() - joints.at_s, 0.0)
        robot.post(lateness_s)
        self._require_lawful()
        return joints, verdict

    def allows(self, positions: Sequence[float]) -> bool:
        """Whether the arm may stand there: in its joints' ranges, and by what is known of it in the
        workspace."""
        limits = self.robot.gate.limits
        inside = all(
            low <= at <= high
            for low, at, high in zip(limits.low, positions, limits.high, strict=True)
        )
        return inside and inside_box(limits, positions)

    def go(self, positions: Sequence[float], speed: float) -> None:
        """On the straight line in joint space to a pose, no joint faster than `speed` (its units a second),
        and come to rest there. Where grippers stand does not count: one may hold something. Needs
        `take_arm`. Raises `NotReached` (the arm is then in hold where it came to, and may be sent elsewhere),
        `GateFault`, `DeviceError` and `Stopped`."""
        robot = self.robot
        pose, what = tuple(map(float, positions)), "the pose that it was sent to"
        homing = Homing(robot, [pose], speed, grippers=False, what=what)
        try:
            while not homing.done:
                self._devices.look_after()
                if robot.board.stop_requested:
                    raise self._stopped()
                homing.tick(hold=False)
        except NotReached:
            robot.come_to_rest("the arm did not get where it was sent")
            self._require_lawful()
            raise
        self._require_lawful()
        robot.come_to_rest("the arm is where it was sent")

    def aside(self, job: Callable[[], T]) -> T:
        """Do something slow: an arm that was taken is kept in hold meanwhile. Raises what the job raises."""
        return Resting(self.robot)(job, "a computation") if self._taken else job()

    def pause(self) -> ArmState:
        """A period without a command: before the arm is taken, or while it holds. Raises as `tick` does."""
        self._devices.look_after()
        robot = self.robot
        lateness_s = robot.wake()
        if self._taken:
            robot.gate.rest()
        robot.post(lateness_s)
        self._require_lawful()
        if robot.board.stop_requested:
            raise self._stopped()
        return robot.senses.joints()

    def _require_lawful(self) -> None:
        gate = self.robot.gate
        if gate.faulted:
            raise GateFault("the gate stopped the arm", found=gate.state.reason)

    def _stopped(self) -> DeviceError:
        what = self._devices.what
        return DeviceError(what) if what else Stopped("stopped before it was done")

    def _forget(self) -> None:
        shutil.rmtree(self._run.shm_dir, ignore_errors=True)
        if self._own is not None:
            self._own.cleanup()


class _Devices(Supervisor):
    """The processes of a run but those that act, record or talk; this process is control."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        kept = ("control", "bench", "arm", "watchdog")
        self.children = [c for c in self.children if c.name in kept or c.name.startswith("camera-")]

    @property
    def what(self) -> str:
        """What went wrong, in a sentence; empty so far."""
        return self._what

    def look_after(self) -> None:
        """Deaths: what may be restarted is, anything else asks for a stop."""
        self._look_after()

    def _start(self, child: Child) -> None:
        if child.name == "control":
            self.board.control_pid = os.getpid()
        else:
            super()._start(child)


def _as_devices_say(config: RobotConfig) -> RobotConfig:
    replace = msgspec.structs.replace
    arm = replace(config.arm, state_latency_s=0.0, action_latency_s=0.0)
    cameras = {name: replace(camera, latency_s=0.0) for name, camera in config.cameras.items()}
    operator = replace(config.operator, teleoperator=KEYBOARD, web=False, view=False)
    calibration = replace(config.calibration, file="", key="")
    return replace(config, arm=arm, cameras=cameras, operator=operator, calibration=calibration)
