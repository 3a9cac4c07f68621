"""Any LeRobot `Teleoperator` (a leader arm, say) as a hand on the arm, in a process of LeRobot's Python.

Owns the mapping of LeRobot's action features to the arm's joints. LeRobot's units must be the arm's: degrees
(`use_degrees: true`) and percent for the gripper, or say how they differ with `scale` and `offset`. A device
that says which it has is refused where they are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contracts.errors import ConfigError, DeviceError
from contracts.specs import ActionSpec
from runtime.arms.lerobot import CHILD
from runtime.arms.lerobot_features import require_units
from runtime.arms.lerobot_process import LeRobotProcess, find_python
from runtime.operator.commands import Command
from runtime.teleoperation import Reading

EVENTS = {
    "success": Command.SUCCESS,
    "terminate_episode": Command.END,
    "rerecord_episode": Command.RERECORD,
}
"""LeRobot's `TeleopEvents` and what they ask for here; "is_intervention" takes over and, gone, hands back."""


class LeRobotTeleoperator:
    """`Teleoperator`. Options: `teleop`: LeRobot's configuration (`type`, `port`, `id`, ...). `python`: the
    interpreter that has LeRobot (default: the environment variable ENTRACTE_LEROBOT_PYTHON). `imports`:
    modules to import first. `joints`: the action features in the order of the arm's joints (default: those of
    the same names). `scale`, `offset`: per joint, ours = scale x theirs + offset."""

    def __init__(
        self,
        spec: ActionSpec,
        teleop: Mapping[str, Any],
        python: str = "",
        imports: Sequence[str] = (),
        joints: Sequence[str] = (),
        scale: Sequence[float] = (),
        offset: Sequence[float] = (),
        rate_hz: float = 60.0,
        answer_s: float = 0.2,
        start_s: float = 60.0,
    ) -> None:
        option = "operator.teleoperator_options.python"
        python = find_python(python, "teleoperator", option)
        if "type" not in teleop:
            raise ConfigError(
                "operator.teleoperator_options.teleop has no type",
                remedy="as in lerobot-teleoperate --teleop.type",
            )
        count = len(spec.names)
        self._scale = _numbers(scale, count, 1.0, "scale")
        self._offset = _numbers(offset, count, 0.0, "offset")
        self.rate_hz, self._answer_s = rate_hz, answer_s
        self._events: set[str] = set()
        self._child = LeRobotProcess(
            python,
            CHILD,
            "teleoperator",
            option=option,
            log="logs/teleoperator.log",
        )
        try:
            request = {"do": "describe", "config": dict(teleop), "imports": list(imports)}
            found = self._child.ask(request, start_s)
            self._names = _features(found, joints, spec)
            if not (scale or offset):
                in_degrees, where = found.get("use_degrees"), "operator.teleoperator_options.teleop"
                require_units(spec.names, spec.units, in_degrees, where)
            self._child.ask({"do": "connect"}, start_s)
        except BaseException:
            self._child.close()
            raise

    def read(self) -> Reading:
        found = self._child.ask({"do": "read", "names": list(self._names)}, self._answer_s)
        targets = tuple(
            scale * float(found["action"][name]) + offset
            for name, scale, offset in zip(self._names, self._scale, self._offset, strict=True)
        )
        return Reading(targets=targets, commands=self._commands(set(found["events"])))

    def close(self) -> None:
        self._child.close()

    def _commands(self, events: set[str]) -> tuple[Command, ...]:
        begun, gone, self._events = events - self._events, self._events - events, events
        commands = [command for name, command in EVENTS.items() if name in begun]
        if "is_intervention" in begun:
            commands.append(Command.TAKE_OVER)
        if "is_intervention" in gone:
            commands.append(Command.HAND_BACK)
        return tuple(commands)


def _features(found: Mapping[str, Any], joints: Sequence[str], spec: ActionSpec) -> tuple[str, ...]:
    """The action features of the arm's joints, in order."""
    wanted = tuple(joints) or spec.names
    if len(wanted) != len(spec.names):
        raise ConfigError(
            "operator.teleoperator_options.joints", expected=f"{len(spec.names)}", found=len(wanted)
        )
    missing = [name for name in wanted if name not in found["action"]]
    if missing:
        raise DeviceError(
            f"the teleoperator {found['name']} moves no '{missing[0]}'",
            expected=f"one of {list(found['action'])}",
            remedy="name its features in operator.teleoperator_options.joints",
        )
    return wanted


def _numbers(given: Sequence[float], count: int, default: float, name: str) -> tuple[float, ...]:
    if given and len(given) != count:
        raise ConfigError(
            f"operator.teleoperator_options.{name}", expected=f"{count} numbers", found=len(given)
        )
    return tuple(float(value) for value in given) or (default,) * count
