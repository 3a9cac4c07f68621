"""Any LeRobot `Robot` that takes positions, as an arm. It runs in a child process with LeRobot's own Python
(`lerobot_child`).

Owns the mapping of LeRobot's features to joints, units and limits. LeRobot powers most robots inside
`connect()`, some by way of a moment without torque: stand the arm in its rest pose before a start.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from contracts.errors import ConfigError, DeviceError
from contracts.specs import ActionSpec, is_gripper
from runtime.arms import ArmState, Glitch
from runtime.arms.lerobot_features import ends_of, joints_of, spec_of
from runtime.arms.lerobot_process import LeRobotProcess, find_python
from runtime.board import StopCheck
from runtime.run import Run
from runtime.standstill import Standstill

T = TypeVar("T")
CHILD = Path(__file__).with_name("lerobot_child.py")
MOVED = 1.0
"""Degrees or percent: what a reading may change by while nobody moves the arm."""
KEEP_GOAL = 3.0
"""A joint this near its goal keeps it in hold."""
FALLEN = 15.0
"""One this far from the goal of its hold, when it is asked for again, has not sagged but fallen."""
_SO = ("so100_", "so101_")
"""How the types of such arms begin. Others of LeRobot's (Koch, OMX) have joints of the same names."""
_BOTH = "bi_so"
"""How those of two begin, whose joints are named left_ and right_."""
_STILL_S = 0.3
_HOLD_TRIES = 3


class LeRobotArm:
    """`Driver`. Options:

    `robot`: LeRobot's configuration of it: `type`, `port`, `id` and so on, without cameras. `python`: the
    interpreter that has LeRobot (default: the environment variable ENTRACTE_LEROBOT_PYTHON). `imports`:
    modules of your own to import first, where a robot isn't LeRobot's. `joints`: the action features to use,
    in this order (default: all). `units`, `low`, `high`, `velocity`, `acceleration`: per joint; by default
    the units that the robot's `use_degrees` says, and the limits of an SO-100/101 where it is one.
    `answer_s`: how long a call of LeRobot's may take; `start_s`: the first.
    """

    in_control = False
    powered_by_opening = True

    def __init__(
        self,
        run: Run,
        robot: Mapping[str, Any],
        python: str = "",
        imports: Sequence[str] = (),
        joints: Sequence[str] = (),
        units: Sequence[str] = (),
        low: Sequence[float] = (),
        high: Sequence[float] = (),
        velocity: Sequence[float] = (),
        acceleration: Sequence[float] = (),
        answer_s: float = 0.2,
        start_s: float = 60.0,
    ) -> None:
        python = find_python(python, "arm", "arm.options.python")
        if "type" not in robot:
            raise ConfigError(
                "arm.options.robot has no type", remedy="as in lerobot-record --robot.type"
            )
        if robot.get("cameras"):
            raise ConfigError(
                "arm.options.robot.cameras", remedy="name the cameras under cameras: instead"
            )
        self._answer_s, self._start_s = answer_s, start_s
        self._standstill_s = run.config.gate.standstill_s
        self._enabled = False
        self._sent: np.ndarray | None = None
        """What LeRobot says that it sent last: no reading of the arm's."""
        self._held: np.ndarray | None = None
        """The goals of this hold, until the next command: chosen anew each time, a loaded arm would sink."""
        self._stopping: Standstill | None = None
        self._seen: np.ndarray | None = None
        """The pose of the newest reading."""
        self._unread = False
        """A reading was lost, and nothing has told since that the arm has not fallen: it is told nothing."""
        self._fell: DeviceError | None = None
        """What a hold found that gave a fallen arm its power again: it is not to pass unseen."""
        self._child = LeRobotProcess(python, CHILD, "robot")
        request = {"do": "describe", "config": dict(robot), "imports": list(imports)}
        try:
            found = self._child.ask(request, start_s)
            self._names = joints_of(found, joints)
            limits = (units, low, high, velocity, acceleration)
            in_degrees, so101 = found.get("use_degrees"), str(robot["type"]).startswith(_SO)
            self._spec = spec_of(self._names, limits, run.config.loop.rate_hz, in_degrees, so101)
            self.degrees: tuple[float, ...] | None = () if so101 else None
            self._grippers = np.array([is_gripper(name) for name in self._names])
            self._ends = ends_of(self._spec, so101 or str(robot["type"]).startswith(_BOTH))
        except BaseException:
            self.close()
            raise

    def spec(self) -> ActionSpec:
        return self._spec

    def open(self) -> None:
        self._child.ask({"do": "connect"}, self._start_s)

    def read(self) -> ArmState:
        try:
            state = self._pose()
            if self._fell is not None:
                raise self._fell
            if self._unread:
                self._require_not_fallen(state)
            self._require_same_turn(state)
        except DeviceError:
            self._unread = self._enabled
            raise
        self._seen, self._unread = state.positions, False
        self._judge_stop(state)
        return state

    def _require_not_fallen(self, first: ArmState) -> None:
        """An arm whose supply was gone for a moment lies below, without torque until the next goal, which
        would send it up. Raises `DeviceError`; `Glitch` where two readings don't agree how it stands."""
        if self._fall(first.positions, np.True_) is None:
            return  # no second reading, that may be lost too, where the first looks well
        seen, agreed = self._agreeing(first)
        if not agreed.all():
            raise Glitch(f"LeRobot read {self._names[int(agreed.argmin())]} as two things at once")
        if (fell := self._fall(seen, agreed)) is not None:
            raise fell

    def _fall(self, seen: np.ndarray, agreed: np.ndarray | np.bool_) -> DeviceError | None:
        """What to say of an arm that went far from its goal since its newest reading."""
        if self._seen is None:
            return None
        goal = self._seen if self._sent is None else self._sent
        away = np.abs(seen - goal)
        fallen = (away > FALLEN) & (away > np.abs(self._seen - goal) + MOVED) & agreed
        fallen &= ~self._grippers
        if not fallen.any():
            return None
        worst = int(np.where(fallen, away, 0.0).argmax())
        return DeviceError(
            f"{self._names[worst]} went away from its goal while the arm could not be read",
            expected=f"within {FALLEN:g} {self._spec.units[worst]} of {goal[worst]:.1f}",
            found=f"{seen[worst]:.1f}, after {self._seen[worst]:.1f}",
            remedy="support the arm; its supply may have failed for a moment: power it off and on",
        )

    def _require_same_turn(self, state: ArmState) -> None:
        """Raises `DeviceError` for a joint that went over the end of its servo's turn: its next goal would
        turn it the whole way round. `Glitch` where the next reading doesn't say so, too."""
        over = self._over(state.positions)
        if not over.any():
            return
        worst, again = int(over.argmax()), self._pose().positions
        if not self._over(again)[worst]:
            raise Glitch(f"LeRobot read {self._names[worst]} as {state.positions[worst]:.1f} once")
        before = math.nan if self._seen is None else self._seen[worst]
        raise DeviceError(
            f"{self._names[worst]} went over the end of its turn",
            expected="no more than half a turn between two readings",
            found=f"{before:.1f} and then {again[worst]:.1f} {self._spec.units[worst]}",
            remedy="support the arm, power it off and turn the joint back by hand",
        )

    def _over(self, positions: np.ndarray) -> np.ndarray:
        if self._seen is None or not self._enabled:
            return np.zeros(len(self._names), bool)
        over: np.ndarray = np.abs(positions - self._seen) > self._ends  # most turn without end: inf
        return over

    def _pose(self) -> ArmState:
        at_s = time.monotonic()
        found = self._child.ask({"do": "read", "names": list(self._names)}, self._answer_s)
        values = np.array([found[name] for name in self._names], np.float32)
        if not np.isfinite(values).all():
            bad = self._names[int(np.argmin(np.isfinite(values)))]
            raise Glitch(f"LeRobot read {bad} as {found[bad]}")
        # Neither goals nor torque are among what LeRobot observes.
        return ArmState(values, at_s, doubt_s=time.monotonic() - at_s)

    def _judge_stop(self, state: ArmState) -> None:
        found = self._stopping.add(state) if self._stopping is not None else None
        if found is not None:
            self._stopping = None
            if found.check is not StopCheck.VERIFIED:
                raise DeviceError(
                    f"hold can't be verified: {found.note}", remedy="use the emergency stop"
                )

    def enable(self) -> None:
        """LeRobot has powered it already: what is left to see is that nobody else moves it, and that no joint
        stands where a goal could turn it the whole way round."""
        first = self.read().positions
        beyond = np.abs(first) - self._ends
        if beyond.max() > MOVED:
            worst = int(beyond.argmax())
            unit, end = self._spec.units[worst], self._ends[worst]
            raise DeviceError(
                f"{self._names[worst]} stands at the end of its turn",
                expected=f"{-end:.1f} to {end:.1f} {unit}: beyond, it could turn the whole way round",
                found=f"{first[worst]:.1f} {unit}",
                remedy="without power, turn the joint by hand towards its middle, and start again",
            )
        until_s = time.monotonic() + _STILL_S
        while time.monotonic() < until_s:
            now = self.read().positions
            moved = np.abs(now - first)
            if moved.max() > MOVED:
                worst = int(moved.argmax())
                raise DeviceError(
                    f"the arm moves by itself: {self._names[worst]}",
                    found=f"{moved[worst]:.1f} {self._spec.units[worst]} in {_STILL_S:g} s",
                    remedy="stop the other program or take your hands off, and start again",
                )
            time.sleep(0.02)
        self._enabled = True

    def write(self, targets: np.ndarray) -> None:
        if self._unread:  # a reply is lost now and then: the next one tells how it stands
            try:
                self.read()
            except Glitch as error:
                raise Glitch(
                    "an arm that can't be read is told nothing: a goal could send it up again",
                    found=str(error),
                ) from error
        self._held = self._stopping = None
        self._send(targets)

    def _send(self, targets: np.ndarray) -> None:
        goals = np.clip(targets, -self._ends, self._ends)
        action = dict(zip(self._names, map(float, goals), strict=True))
        sent = self._child.ask({"do": "write", "action": action}, self._answer_s)
        # A robot may limit what it is given (max_relative_target): what it says it was sent is what counts.
        self._sent = np.array([sent.get(name, action[name]) for name in self._names], np.float64)

    def hold(self) -> None:
        """Sent where it stands, or left at the goal that it is near (servos sag, grippers hold things). One
        that can't be read is told nothing: a healthy servo keeps the goal that it has, and one that lost its
        supply and fell would go back up. Raises `DeviceError` then.

        LeRobot reads no goals back, and to see that an arm stands takes longer than the loop may wait: the
        readings that follow are judged, and one that still moves after `gate.standstill_s` is an error of
        `read`."""
        if not self._enabled or self._sent is None:
            return  # in the pose in which LeRobot powered it
        try:
            seen, agreed = self._again(self._look_twice)
        except DeviceError:
            self._unread = True
            raise
        if self._unread and self._fell is None:
            self._fell = self._fall(seen, agreed)
        if self._held is None:
            kept = ~agreed | (np.abs(self._sent - seen) <= KEEP_GOAL) | self._grippers
            self._held = np.where(kept, self._sent, seen)
            self._stopping = Standstill(self._names, time.monotonic(), self._standstill_s)
        else:
            # Goals again, but of joints that have fallen far from them: their supply was gone for a moment.
            fallen = agreed & (np.abs(self._held - seen) > FALLEN) & ~self._grippers
            self._held = np.where(fallen, seen, self._held)
        self._again(partial(self._send, self._held))

    def _again(self, ask: Callable[[], T]) -> T:
        for _ in range(_HOLD_TRIES - 1):
            with contextlib.suppress(Glitch):
                return ask()
        return ask()

    def _look_twice(self) -> tuple[np.ndarray, np.ndarray]:
        """The pose, and in which joints the reading before it agrees: a broken one may say anything."""
        return self._agreeing(self._pose())

    def _agreeing(self, first: ArmState) -> tuple[np.ndarray, np.ndarray]:
        then = self._pose()
        turned = 2.0 * np.array(self._spec.max_velocity) * (then.at_s - first.at_s)
        agreed = np.abs(then.positions - first.positions) <= MOVED + turned
        return then.positions.astype(np.float64), agreed

    def release(self) -> None:
        raise DeviceError("LeRobot has no call that cuts the power of a robot that stays connected")

    def close(self) -> None:
        self._child.close()

    def retries(self) -> int:
        return 0

    def warmest_c(self) -> float:
        return 0.0
