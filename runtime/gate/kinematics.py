"""Where the parts of an SO-101 are for given joint positions: what the gate's workspace box needs.

Plain floats and no arrays: the gate calls this several times a tick. Geometry as in `runtime.bench.arm`
(tested against it); x forward from the base, y left, z up from the table, metres. An arm whose joints are in
percent of their range has it too where its driver says how many degrees one is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from contracts.specs import SO101_JOINTS, ActionSpec

Point = tuple[float, float, float]
Points = Callable[[Sequence[float]], tuple[Point, ...]]

SHOULDER_X_M = 0.0304
SHOULDER_Z_M = 0.1166
UPPER_ARM_M = math.hypot(0.0280, 0.1126)
UPPER_ARM_ZERO_RAD = math.atan2(0.1126, 0.0280)
FOREARM_M = 0.1350
HAND_M = 0.0611 + 0.0981
_ONES = (1.0, 1.0, 1.0, 1.0)


def so101_points(joints_deg: Sequence[float]) -> tuple[Point, ...]:
    """(elbow, wrist, fingertips) for pan, lift, elbow, wrist, roll, gripper in degrees and percent."""
    pan, lift, elbow, wrist = (math.radians(angle) for angle in joints_deg[:4])
    first = UPPER_ARM_ZERO_RAD - lift
    second = lift + elbow
    pitch = second + wrist
    elbow_r = SHOULDER_X_M + UPPER_ARM_M * math.cos(first)
    elbow_z = SHOULDER_Z_M + UPPER_ARM_M * math.sin(first)
    wrist_r = elbow_r + FOREARM_M * math.cos(second)
    wrist_z = elbow_z - FOREARM_M * math.sin(second)
    tip_r = wrist_r + HAND_M * math.cos(pitch)
    tip_z = wrist_z - HAND_M * math.sin(pitch)
    c, s = math.cos(-pan), math.sin(-pan)
    return (
        (elbow_r * c, elbow_r * s, elbow_z),
        (wrist_r * c, wrist_r * s, wrist_z),
        (tip_r * c, tip_r * s, tip_z),
    )


def points_for(spec: ActionSpec, degrees: Sequence[float] | None = ()) -> Points | None:
    """The kinematics of an arm with these joints; None if they are not known here. `degrees`: of one unit of
    each joint, for units that are none; None: it is another arm, whatever its joints are called."""
    scale = _degrees_a_unit(spec, degrees)
    if scale is None:
        return None
    if scale == _ONES:
        return so101_points
    return lambda joints: so101_points([a * b for a, b in zip(joints, scale, strict=False)])


def levers_for(spec: ActionSpec, degrees: Sequence[float] | None = ()) -> tuple[float, ...]:
    """Metres that the farthest of `points_for` moves at most when that joint alone moves by one of its units
    (a chord is shorter than its arc); empty if the kinematics are not known here."""
    scale = _degrees_a_unit(spec, degrees)
    if scale is None:
        return ()
    reaches_m = (
        SHOULDER_X_M + UPPER_ARM_M + FOREARM_M + HAND_M,
        UPPER_ARM_M + FOREARM_M + HAND_M,
        FOREARM_M + HAND_M,
        HAND_M,
    )
    return (*(math.radians(abs(a)) * b for a, b in zip(scale, reaches_m, strict=True)), 0.0, 0.0)


def _degrees_a_unit(spec: ActionSpec, degrees: Sequence[float] | None) -> tuple[float, ...] | None:
    """Of the four joints that move a point; None where nobody knows."""
    if spec.names != SO101_JOINTS or degrees is None:
        return None
    if all(unit == "deg" for unit in spec.units[: len(_ONES)]):
        return _ONES
    return tuple(degrees[: len(_ONES)]) if len(degrees) == len(spec.names) else None
