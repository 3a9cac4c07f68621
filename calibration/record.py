"""The robot's `calibration.json`, grown step by step: each verb that measured something puts it in.

Owns where the file is and who signs it; the format is `contracts.calibration`'s, the hardware configuration
that names it `calibration.hardware_file`'s.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from calibration import hardware_file
from calibration.hardware_file import Value
from contracts.calibration import VERSION, Calibration, CameraCalibration
from contracts.errors import ConfigError
from contracts.files import calibration_file
from contracts.key_rotation import hex_of

_ARM_NAMES = ("id", "serial", "calibration", "port")
"""Options that tell one arm of a kind from another, the surest first."""
_PORT = re.compile(r"(tty|cu\.|COM)\S*")
"""What a port is called."""


class Record:
    """Of the robot whose hardware configuration is at `config`. Raises `ConfigError` for a configuration or
    a calibration that can't be read: asked before anything is measured."""

    def __init__(self, config: Path) -> None:
        self.config, self._tree = config, hardware_file.read(config)
        named = self._section("calibration").get("file") or ""
        self.path = Path(named).expanduser() if named else _beside(config)
        self.now = self._read() if named or self.path.exists() else self._empty()

    @property
    def cameras(self) -> dict[str, dict[str, Any]]:
        """The configured cameras' sections by name. Raises `ConfigError` for one that is none."""
        sections = self._section("cameras")
        for name, section in sections.items():
            if not isinstance(section, dict):
                raise ConfigError(
                    f"{self.config}: cameras.{name}", expected="a section", found=section
                )
        return sections

    def put(
        self,
        change: Callable[[Calibration], Calibration],
        keys: Mapping[str, Value] | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> str:
        """Change the calibration, sign and write it, then `keys` (dotted) and its place into the hardware
        configuration. Returns the new id."""
        key = calibration_file.signing_key(self.path)
        date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock()))
        self.now = msgspec.structs.replace(change(self.now), date=date)
        found = calibration_file.write(self.path, self.now, key)
        named: dict[str, Value] = {
            "calibration.file": str(self.path),
            "calibration.key": hex_of(key.public_key()),
        }
        hardware_file.change(self.config, {**(keys or {}), **named})
        return found

    def said(self, found: str) -> str:
        """For a terminal, after `put`."""
        return f"calibration {found} in {self.path}, signed; {self.config} names it"

    def require_camera(self, name: str) -> None:
        """Raise `ConfigError` unless the configuration has a camera of that name."""
        if name not in self.cameras:
            raise ConfigError(
                f"{self.config} has no camera '{name}'",
                expected=f"one of {sorted(self.cameras)}",
                remedy="name the capture's camera as the configuration does",
            )

    def require_arm(self, taken: str) -> None:
        """Raise `ConfigError` where a capture is of another arm, `taken`, than this robot's."""
        if self._may_be(taken):
            return
        raise ConfigError(
            "the capture is of another arm than the robot's",
            expected=f"{self._arm}, as {self.config} has it",
            found=taken,
            remedy='give the --config of the arm that took it, or correct "arm" in its shots.json',
        )

    def _may_be(self, arm: str) -> bool:
        """Whether this robot's arm may be the one that was called so ("": not named). Ports change hands: of
        an arm that is named by nothing else, only the kind is compared."""
        names = {f"{self._kind} {own}" for own in self._arm_names.values()}
        if not arm or arm in {self._arm, *names}:
            return True
        kind, _, own = arm.partition(" ")
        by_port = not own or _PORT.fullmatch(own) or not set(self._arm_names) - {"port"}
        return bool(kind == self._kind and by_port)

    def _section(self, name: str) -> dict[str, Any]:
        found = self._tree.get(name) or {}
        if not isinstance(found, dict):
            raise ConfigError(f"{self.config}: {name}", expected="a section", found=found)
        return found

    def _read(self) -> Calibration:
        # Of a file that no configuration names yet: one that was written before the naming was cut short.
        key = self._section("calibration").get("key") or ""
        if not key and self.path.exists():
            key = hex_of(calibration_file.signing_key(self.path).public_key())
        found = calibration_file.read(self.path, key)
        if found.robot_id != self._robot_id:
            raise ConfigError(
                f"{self.path} is of another robot",
                expected=self._robot_id,
                found=found.robot_id,
                remedy="name another file under calibration.file, or robot.id as it was",
            )
        if not self._may_be(found.arm):
            raise ConfigError(
                f"{self.path} was measured with another arm",
                expected=f"{self._arm}, as {self.config} has it",
                found=found.arm,
                remedy="name another calibration.file and calibrate this arm, or name the arm as it was",
            )
        return msgspec.structs.replace(found, arm=self._arm)

    def _empty(self) -> Calibration:
        return Calibration(version=VERSION, robot_id=self._robot_id, arm=self._arm, date="")

    @property
    def _robot_id(self) -> str:
        return str(self._section("robot").get("id") or "bench-0")

    @property
    def _arm(self) -> str:
        return f"{self._kind} {next(iter(self._arm_names.values()), '')}".strip()

    @property
    def _kind(self) -> str:
        return str(self._section("arm").get("kind", "sim"))

    @property
    def _arm_names(self) -> dict[str, str]:
        """What tells the arm from another of its kind, by option, the surest first."""
        options: dict[str, Any] = self._section("arm").get("options") or {}
        robot = options.get("robot")  # LeRobot's own options
        named = {**robot, **options} if isinstance(robot, dict) else options
        return {k: Path(str(named[k])).name for k in _ARM_NAMES if named.get(k)}


def with_camera(calibration: Calibration, name: str, **measured: object) -> Calibration:
    """The calibration with these fields of one camera replaced."""
    before = calibration.cameras.get(name, CameraCalibration())
    now = msgspec.structs.replace(before, **measured)
    return msgspec.structs.replace(calibration, cameras={**calibration.cameras, name: now})


def _beside(config: Path) -> Path:
    return config.parent / f"{config.stem}-calibration" / "calibration.json"
