"""Any LeRobot `Robot` that takes positions, as an arm. It runs in a child process with LeRobot's own Python
(`lerobot_child`).

Owns the mapping of LeRobot's features to joints, units and limits. LeRobot powers most robots inside
`connect()`, some by way of a moment without torque: stand the arm in its rest pose before a start.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from contracts.errors import ConfigError, DeviceError
from contracts.specs import SO101_JOINTS, ActionSpec, is_gripper
from runtime.arms import ArmState, Glitch
from runtime.arms.guarded import require_limits
from runtime.arms.lerobot_process import LeRobotProcess, find_python
from runtime.arms.sim import SO101_ACTION
from runtime.arms.so101_calibration import WRAP_STEPS
from runtime.arms.sts import STEPS_A_TURN
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
_NORMALISED = ActionSpec(
    names=SO101_JOINTS,
    units=("percent",) * 6,
    low=(-100.0,) * 5 + (0.0,),
    high=(100.0,) * 6,
    max_velocity=(100.0,) * 5 + (250.0,),
    max_acceleration=(1000.0,) * 5 + (4000.0,),
    rate_hz=10.0,
)
"""An SO-101 whose `use_degrees` is false."""
_SO = ("so100_", "so101_")
"""How the types of such arms begin. Others of LeRobot's (Koch, OMX) have joints of the same names."""
_BOTH = "bi_so"
"""How those of two begin, whose joints are named left_ and right_."""
_TURNS = "wrist_roll.pos"
"""Their joint whose range, by LeRobot's calibration, is the whole turn of its servo."""
_WHOLE = {"deg": 180.0, "percent": 100.0}
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
        self._child = LeRobotProcess(python, CHILD, "robot")
        request = {"do": "describe", "config": dict(robot), "imports": list(imports)}
        try:
            found = self._child.ask(request, start_s)
            self._names = _joints(found, joints)
            limits = (units, low, high, velocity, acceleration)
            in_degrees, so101 = found.get("use_degrees"), str(robot["type"]).startswith(_SO)
            self._spec = _spec(self._names, limits, run.config.loop.rate_hz, in_degrees, so101)
            self.degrees: tuple[float, ...] | None = () if so101 else None
            self._grippers = np.array([is_gripper(name) for name in self._names])
            self._ends = _ends(self._spec, so101 or str(robot["type"]).startswith(_BOTH))
        except BaseException:
            self.close()
            raise

    def spec(self) -> ActionSpec:
        return self._spec

    def open(self) -> None:
        self._child.ask({"do": "connect"}, self._start_s)

    def read(self) -> ArmState:
        state = self._pose()
        self._judge_stop(state)
        return state

    def _pose(self) -> ArmState:
        at_s = time.monotonic()
        found = self._child.ask({"do": "read", "names": list(self._names)}, self._answer_s)
        values = np.array([found[name] for name in self._names], np.float32)
        if not np.isfinite(values).all():
            bad = self._names[int(np.argmin(np.isfinite(values)))]
            raise Glitch(f"LeRobot read {bad} as {found[bad]}")
        return ArmState(values, at_s)  # neither goals nor torque are among what LeRobot observes

    def _judge_stop(self, state: ArmState) -> None:
        found = self._stopping.add(state) if self._stopping is not None else None
        if found is not None:
            self._stopping = None
            if found.check is not StopCheck.VERIFIED:
                raise DeviceError(
                    f"hold can't be verified: {found.note}", remedy="use the emergency stop"
                )

    def enable(self) -> None:
        """LeRobot has powered it already: only that nobody else moves it is left to see."""
        first = self.read().positions
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
        self._held = self._stopping = None
        self._send(targets)

    def _send(self, targets: np.ndarray) -> None:
        goals = np.clip(targets, -self._ends, self._ends)
        action = dict(zip(self._names, map(float, goals), strict=True))
        sent = self._child.ask({"do": "write", "action": action}, self._answer_s)
        # A robot may limit what it is given (max_relative_target): what it says it was sent is what counts.
        self._sent = np.array([sent.get(name, action[name]) for name in self._names], np.float64)

    def hold(self) -> None:
        """Sent where it stands, or left at the goal that it is near (servos sag, grippers hold things).

        LeRobot reads no goals back, and to see that an arm stands takes longer than the loop may wait: the
        readings that follow are judged, and one that still moves after `gate.standstill_s` is an error of
        `read`."""
        if not self._enabled or self._sent is None:
            return  # in the pose in which LeRobot powered it
        if self._held is None:
            self._held = self._stop_at(self._sent)
            self._stopping = Standstill(self._names, time.monotonic(), self._standstill_s)
        else:
            self._held = self._stay_at(self._held)
        self._again(partial(self._send, self._held))

    def _again(self, ask: Callable[[], T]) -> T:
        for _ in range(_HOLD_TRIES - 1):
            with contextlib.suppress(Glitch):
                return ask()
        return ask()

    def _stay_at(self, held: np.ndarray) -> np.ndarray:
        """The same goals again, but of joints that have fallen far from them: they lost their supply for a
        moment, and a goal gives them power again. It must not send them back up."""
        seen, agreed = self._again(self._look_twice)
        fallen = agreed & (np.abs(held - seen) > FALLEN) & ~self._grippers
        return np.where(fallen, seen, held)

    def _stop_at(self, sent: np.ndarray) -> np.ndarray:
        """Where a joint is seen, or its goal if it is near that. One whose readings don't agree keeps its
        goal, and so do all where they are lost: it is ahead of them by their lag, where they were seen before
        is behind them."""
        try:
            seen, agreed = self._look_twice()
        except DeviceError:
            return sent
        kept = ~agreed | (np.abs(sent - seen) <= KEEP_GOAL) | self._grippers
        return np.where(kept, sent, seen)

    def _look_twice(self) -> tuple[np.ndarray, np.ndarray]:
        """The pose, and in which joints the reading before it agrees: a broken one may say anything."""
        first, then = self._pose(), self._pose()
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


def _joints(found: Mapping[str, Any], wanted: Sequence[str]) -> tuple[str, ...]:
    """The joints that are both commanded and observed. Raises `ConfigError`, for a speed too."""
    offered = [name for name in found["action"] if name in found["observation"]]
    names = tuple(wanted) or tuple(offered)
    missing = [name for name in names if name not in offered]
    if missing or not names:
        raise ConfigError(
            f"LeRobot's {found['name']} has no joint '{missing[0] if missing else ''}'",
            expected=f"some of {offered}",
            remedy="correct arm.options.joints",
        )
    if speeds := [name for name in names if name.endswith(".vel")]:
        raise ConfigError(
            f"LeRobot's {found['name']} is driven by speeds: {', '.join(speeds)}",
            expected="positions: what holds a pose would drive on",
            remedy="leave them out of arm.options.joints, where the robot can do without",
        )
    return names


def _ends(spec: ActionSpec, so: bool) -> np.ndarray:
    """How far from its middle a goal of each joint goes. As with our own driver, an SO-101's is kept from the
    end of its servo's one turn, and its range stays as it is."""
    share = 1.0 - 2.0 * WRAP_STEPS / STEPS_A_TURN
    return np.array(
        [
            share * _WHOLE[unit] if so and name.endswith(_TURNS) and unit in _WHOLE else np.inf
            for name, unit in zip(spec.names, spec.units, strict=True)
        ]
    )


def _is_turned(name: str) -> bool:
    """Whether `use_degrees` is about this feature: a gripper is in percent in any case, a base has speeds."""
    return name.endswith(".pos") and not is_gripper(name)


def require_units(
    names: Sequence[str], units: Sequence[str], in_degrees: bool | None, option: str
) -> None:
    """`in_degrees`: what LeRobot's `use_degrees` says, None for a device without that. Raises `ConfigError`
    where joints' positions are in other units than it gives: taken for those, they would move the arm
    elsewhere."""
    if in_degrees is None:
        return
    unit = "deg" if in_degrees else "percent"
    for name, given in zip(names, units, strict=True):
        if given != unit and _is_turned(name):
            raise ConfigError(
                f"{option} is in other units than this arm: {name}",
                expected=f"{unit}, as use_degrees: {str(in_degrees).lower()} gives",
                found=given,
                remedy="set use_degrees there, or the units of the arm",
            )


def _spec(
    names: tuple[str, ...],
    limits: tuple[Sequence[Any], ...],
    rate_hz: float,
    in_degrees: bool | None,
    so101: bool,
) -> ActionSpec:
    """Limits as given, or an SO-101's. Raises `ConfigError` where neither fits."""
    normalised = in_degrees is False
    known = None
    if so101 and names == SO101_JOINTS:
        known = _NORMALISED if normalised else SO101_ACTION
    defaults: tuple[Sequence[Any], ...] = (
        ()
        if known is None
        else (known.units, known.low, known.high, known.max_velocity, known.max_acceleration)
    )
    chosen = []
    for index, what in enumerate(("units", "low", "high", "velocity", "acceleration")):
        values = tuple(limits[index]) or (tuple(defaults[index]) if defaults else ())
        if what == "units" and not values:
            values = tuple(
                "percent" if is_gripper(name) or (normalised and _is_turned(name)) else "deg"
                for name in names
            )
        if len(values) != len(names):
            raise ConfigError(
                f"arm.options.{what}",
                expected=f"{len(names)} values, for {', '.join(names)}",
                found=len(values),
            )
        chosen.append(values)
    unit, low, high, velocity, acceleration = chosen
    require_units(names, unit, in_degrees, "arm.options.robot")
    return require_limits(
        ActionSpec(
            names,
            unit,
            tuple(map(float, low)),
            tuple(map(float, high)),
            tuple(map(float, velocity)),
            tuple(map(float, acceleration)),
            rate_hz,
        )
    )
