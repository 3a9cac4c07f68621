"""The features of a LeRobot `Robot` as joints: which of them are positions, in what units and limits, and how
far from its middle each may be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contracts.errors import ConfigError
from contracts.specs import SO101_JOINTS, ActionSpec, is_gripper
from runtime.arms.guarded import require_limits
from runtime.arms.sim import SO101_ACTION
from runtime.arms.so101_calibration import WRAP_STEPS
from runtime.arms.sts import STEPS_A_TURN

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
_TURNS = "wrist_roll.pos"
"""Their joint whose range, by LeRobot's calibration, is the whole turn of its servo."""
_WHOLE = {"deg": 180.0, "percent": 100.0}
_SPEEDS = (".vel", ".vx", ".vy", ".vz", ".vtheta", ".omega", "_vel", "_velocity")
"""How LeRobot's robots end the names of what is driven (LeKiwi's, Reachy 2's bases and others)."""


def joints_of(found: Mapping[str, Any], wanted: Sequence[str]) -> tuple[str, ...]:
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
    if speeds := [name for name in names if name.endswith(_SPEEDS)]:
        raise ConfigError(
            f"LeRobot's {found['name']} is driven by speeds: {', '.join(speeds)}",
            expected="positions: what holds a pose would drive on",
            remedy="turn them off in arm.options.robot, or leave them out of arm.options.joints where the "
            "robot can do without",
        )
    if unknown := [] if wanted else [name for name in names if not name.endswith(".pos")]:
        raise ConfigError(
            f"LeRobot's {found['name']} does not say what these are: {', '.join(unknown)}",
            expected="positions, whose names end in .pos",
            remedy="name in arm.options.joints those that are positions: hold sends an arm where it stands",
        )
    return names


def ends_of(spec: ActionSpec, so: bool) -> np.ndarray:
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


def spec_of(
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
