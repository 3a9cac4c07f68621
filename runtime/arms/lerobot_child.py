"""Runs in LeRobot's own Python: one `Robot` or `Teleoperator` behind a pipe. Needs LeRobot, nothing of ours.

Never imported by Entracte: `runtime.arms.lerobot` and `runtime.teleoperation.lerobot` start this file as a
program with two pipes and a word of `KINDS`. Messages both ways: four bytes of length (little endian), then
JSON. Requests: {"n": number, "do": a method of that kind, "until_s": monotonic time from which on nobody
waits for it, ...}; answers: {"n": the same, "ok": ...} or {"n": ..., "error": one sentence}.
"""

import dataclasses
import importlib
import json
import math
import os
import pkgutil
import signal
import struct
import sys
import time
import traceback
from typing import Any, BinaryIO

MAX_BYTES = 1 << 20
# The folder of this file holds modules of Entracte's, one of them named lerobot.
sys.path[:] = [
    p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))
]


def take(pipe: BinaryIO) -> Any:
    head = pipe.read(4)
    if len(head) < 4:
        return None
    (size,) = struct.unpack("<I", head)
    if size > MAX_BYTES:
        raise ValueError(f"a message of {size} bytes")
    return json.loads(pipe.read(size))


def give(pipe: BinaryIO, message: Any) -> None:
    data = json.dumps(message).encode()
    pipe.write(struct.pack("<I", len(data)) + data)
    pipe.flush()


def scalars(features: Any) -> list[str]:
    """Names of the single numbers among features, in their order: joints, no pictures."""
    return [name for name, kind in features.items() if not isinstance(kind, (tuple, list))]


def known_config(package: str, kind: str, configs: Any) -> Any:
    """LeRobot's configuration class for `kind`. A device registers its own when its package is imported."""
    if kind not in configs.get_known_choices():
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if module.ispkg and kind not in configs.get_known_choices():
                try:
                    importlib.import_module(f"{package}.{module.name}")
                except ImportError:
                    continue  # another device's own dependency
    if kind not in configs.get_known_choices():
        try:
            from lerobot.utils.import_utils import register_third_party_plugins

            register_third_party_plugins()
        except ImportError:
            pass
    known = sorted(configs.get_known_choices())
    if kind not in known:
        what = package.rpartition(".")[2].removesuffix("s")
        raise ValueError(f"LeRobot has no {what} of type '{kind}': expected one of {known}")
    return configs.get_choice_class(kind)


def keep_power(config: Any) -> None:
    """No part of a robot (an arm of two, say) cuts its torque when it is disconnected: it might fall."""
    if hasattr(config, "disable_torque_on_disconnect"):
        config.disable_torque_on_disconnect = False
    if dataclasses.is_dataclass(config):
        for field in dataclasses.fields(config):
            keep_power(getattr(config, field.name))
    elif isinstance(config, dict):
        for part in config.values():
            keep_power(part)
    elif isinstance(config, (list, tuple)):
        for part in config:
            keep_power(part)


def in_degrees(config: Any) -> Any:
    """What `use_degrees` says, of a device or of each part of one (an arm of two); None where nothing does,
    or both is said."""
    said: set[bool] = set()
    parts = [config]
    while parts:
        part = parts.pop()
        if hasattr(part, "use_degrees"):
            said.add(bool(part.use_degrees))
        if dataclasses.is_dataclass(part):
            parts += [getattr(part, field.name) for field in dataclasses.fields(part)]
        elif isinstance(part, dict):
            parts += part.values()
        elif isinstance(part, (list, tuple)):
            parts += part
    return said.pop() if len(said) == 1 else None


class Device:
    """What robots and teleoperators have in common."""

    def __init__(self) -> None:
        self.device: Any = None

    def connect(self, request: Any) -> Any:
        try:
            self.device.connect()
        except EOFError:
            raise RuntimeError(
                "LeRobot asks for a calibration: run lerobot-calibrate for this device and id"
            ) from None
        return {}

    def close(self, request: Any) -> Any:
        """Before this program ends."""
        if self.device is not None and self.device.is_connected:
            self.device.disconnect()
        return {}

    def abandoned(self) -> None:
        """Entracte is gone."""


class Robot(Device):
    def describe(self, request: Any) -> Any:
        """Make it; touches no device."""
        for name in request["imports"]:
            importlib.import_module(name)
        import draccus
        from lerobot.robots import RobotConfig, make_robot_from_config

        config = dict(request["config"])
        known_config("lerobot.robots", config["type"], RobotConfig)
        decoded = draccus.decode(RobotConfig, config)
        keep_power(decoded)
        self.device = make_robot_from_config(decoded)
        return {
            "name": self.device.name,
            "action": scalars(self.device.action_features),
            "observation": scalars(self.device.observation_features),
            "use_degrees": in_degrees(decoded),
        }

    def connect(self, request: Any) -> Any:
        super().connect(request)
        if not self.device.is_calibrated:
            raise RuntimeError("the robot is not calibrated: run lerobot-calibrate for it")
        return {}

    def read(self, request: Any) -> Any:
        seen = self.device.get_observation()
        return {name: float(seen[name]) for name in request["names"]}

    def write(self, request: Any) -> Any:
        sent = self.device.send_action(request["action"])
        return {name: float(sent[name]) for name in request["action"] if name in sent}

    def close(self, request: Any) -> Any:
        """Never disconnected: whether that lets go of a raised arm is each robot's own affair."""
        return {}


class Teleoperator(Device):
    def describe(self, request: Any) -> Any:
        """Make it; touches no device."""
        for name in request["imports"]:
            importlib.import_module(name)
        import draccus
        from lerobot.teleoperators import TeleoperatorConfig, make_teleoperator_from_config

        config = dict(request["config"])
        known_config("lerobot.teleoperators", config["type"], TeleoperatorConfig)
        decoded = draccus.decode(TeleoperatorConfig, config)
        self.device = make_teleoperator_from_config(decoded)
        return {
            "name": self.device.name,
            "action": list(self.device.action_features),
            "use_degrees": in_degrees(decoded),
        }

    def read(self, request: Any) -> Any:
        """Its action; and its events, where it has any (LeRobot's HIL-SERL devices)."""
        action = self.device.get_action()
        found = {name: float(action[name]) for name in request["names"]}
        events: Any = getattr(self.device, "get_teleop_events", dict)()
        return {
            "action": found,
            "events": sorted(getattr(k, "value", str(k)) for k, on in events.items() if on is True),
        }

    def abandoned(self) -> None:
        self.close({})


KINDS = {"robot": Robot, "teleoperator": Teleoperator}


def main() -> None:
    # It ends when it is told to, or its pipe closes: a service manager asks every process of a robot to end
    # at once, and the arm's holds it through this one.
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, signal.SIG_IGN)
    # What LeRobot prints must not reach the pipe: it has descriptors of its own.
    requests = os.fdopen(int(sys.argv[1]), "rb")
    answers = os.fdopen(int(sys.argv[2]), "wb")
    child = KINDS[sys.argv[3]]()
    try:
        serve(child, requests, answers)
        child.abandoned()  # a robot's motors stay as they are
    except Exception:
        traceback.print_exc()  # a broken pipe: Entracte is gone
    finally:
        os._exit(0)  # LeRobot's destructors disconnect again, and some cut the torque


def serve(child: Device, requests: BinaryIO, answers: BinaryIO) -> None:
    """Until it is told to close, or nobody is left to tell it anything."""
    while (request := take(requests)) is not None:
        number, until_s = request.pop("n"), request.pop("until_s", math.inf)
        try:
            if time.monotonic() > until_s:  # this program hung: the arm may be in hold since
                raise RuntimeError(f"too late to {request['do']}")
            answer = {"n": number, "ok": getattr(child, request["do"])(request)}
        except Exception as error:
            traceback.print_exc()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            answer = {"n": number, "error": f"{type(error).__name__}: {' '.join(lines)}"}
        give(answers, answer)
        if request["do"] == "close":
            return


if __name__ == "__main__":
    main()
