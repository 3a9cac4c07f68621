"""Where an arm's hand is for given joints: a chain of joints in YAML. Owns the format and the kinematics.

    joints:
      - {joint: shoulder_pan.pos, axis: [0, 0, -1], place_mm: [0, 0, 116.6], turn_deg: [0, 0, 0]}
    hand: {place_mm: [0, 0, 98.1], turn_deg: [0, 90, 0]}

Each joint is placed in the frame of the one before it, the first in the arm's base, then turned about `axis`
by what the arm reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from calibration import hardware_file, rigid
from calibration.rigid import Array
from contracts.config import apply_overrides, parse
from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.specs import SO101_JOINTS, ActionSpec

SO101 = Path(__file__).resolve().parent / "chains" / "so101.yaml"
Triple = tuple[float, float, float]
_NONE = (0.0, 0.0, 0.0)


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A fixed transform: `place_mm`, then `turn_deg` about the fixed x, y and z in this order (as URDF)."""

    place_mm: Triple = _NONE
    turn_deg: Triple = _NONE

    @property
    def pose(self) -> Array:
        """[4,4], metres."""
        x, y, z = (rigid.rotation_of(np.radians(v) * axis) for v, axis in _about(self.turn_deg))
        return rigid.transform(z @ y @ x, np.array(self.place_mm) / 1e3)


class Joint(Place, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`joint`: its name in the arm's spec. It turns about `axis` (or with `slides` moves along it) in its own
    frame by reading - `zero`, in degrees (or millimetres)."""

    joint: str
    axis: Triple
    zero: float = 0.0
    slides: bool = False

    def moved(self, reading: float) -> Array:
        """[4,4]: what the joint adds at that reading."""
        along = np.array(self.axis) / np.linalg.norm(self.axis)
        if self.slides:
            return rigid.transform(np.eye(3), (reading - self.zero) / 1e3 * along)
        return rigid.transform(rigid.rotation_of(np.radians(reading - self.zero) * along), _NONE)


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From the arm's base to its hand."""

    joints: tuple[Joint, ...]
    hand: Place = Place()

    def require(self, spec: ActionSpec, source: str) -> None:
        """Raise `ConfigError` unless this can be the chain of an arm with this spec."""
        units = dict(zip(spec.names, spec.units, strict=True))
        for joint in self.joints:
            wanted = "mm" if joint.slides else "deg"
            found = units.get(joint.joint)
            if found is None:
                raise ConfigError(
                    f"{source} names a joint that the arm lacks",
                    expected=f"some of {list(spec.names)}",
                    found=joint.joint,
                )
            if found != wanted:
                raise ConfigError(
                    f"{source}: unit of {joint.joint}",
                    expected=f"an arm that reads it in {wanted}",
                    found=found,
                    remedy="calibrate the arm itself first, so that it reads angles",
                )

    def check(self, source: str) -> None:
        """Raise `ConfigError` unless it is one: joints, each once, of finite numbers."""
        numbers = [v for j in self.joints for v in (*j.axis, *j.place_mm, *j.turn_deg, j.zero)]
        numbers += [*self.hand.place_mm, *self.hand.turn_deg]
        if not self.joints or not np.isfinite(numbers).all():
            raise ConfigError(f"{source}: joints", expected="one or more, of finite numbers")
        names = [joint.joint for joint in self.joints]
        flat = [j.joint for j in self.joints if not np.linalg.norm(j.axis) > 1e-6]
        if flat or len(set(names)) < len(names):
            raise ConfigError(
                f"{source}: joints", expected="each once, with an axis", found=flat or names
            )

    def base_T_hand(self, names: Sequence[str], readings: Sequence[float]) -> Array:
        """[4,4], metres, of an arm with these joint names that reads so."""
        at = dict(zip(names, readings, strict=True))
        pose: Array = np.eye(4)
        for joint in self.joints:
            pose = pose @ joint.pose @ joint.moved(float(at[joint.joint]))
        return np.asarray(pose @ self.hand.pose)


def read(path: Path) -> Chain:
    """Raises `ConfigError`."""
    try:
        text = atomic.read_bytes(path, hardware_file.MAX_BYTES).decode()
        found = msgspec.convert(parse(text, str(path)), Chain)
    except (atomic.FileError, OSError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"{path} is no chain of joints", found=str(error), remedy=f"write it as {SO101}"
        ) from error
    found.check(str(path))
    return found


def configured(config: Path | None, overrides: Sequence[str] = ()) -> Path | None:
    """`calibration.chain` of a hardware configuration (None: the embedded bench's), None where that names
    none: the hand is where the robot's own looks have it. Raises `ConfigError`."""
    tree = apply_overrides({} if config is None else hardware_file.read(config), overrides)
    section = tree.get("calibration") or {}
    named = section.get("chain") if isinstance(section, dict) else section
    if named is not None and (named is section or not isinstance(named, str)):
        raise ConfigError("calibration.chain", expected="a path", found=named)
    return Path(named) if named else None


def chain_of(spec: ActionSpec, path: Path | None) -> Chain:
    """The given chain, or the one that is known of an arm with these joints. Raises `ConfigError`."""
    if path is None and spec.names != SO101_JOINTS:
        raise ConfigError(
            "the kinematics of this arm are not known",
            expected=f"the joints of an SO-101, {list(SO101_JOINTS)}",
            found=list(spec.names),
            remedy=f"describe its joints in a YAML file, as {SO101}, and give --chain",
        )
    found = read(path or SO101)
    found.require(spec, str(path or SO101))
    return found


def _about(turn_deg: Triple) -> list[tuple[float, Array]]:
    return list(zip(turn_deg, np.eye(3), strict=True))
