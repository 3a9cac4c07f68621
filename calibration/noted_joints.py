"""What a capture notes of its arm's joints: poses by another chain, and zeros that are not known."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from calibration import rigid
from calibration.chain import Chain, read
from calibration.handeye.joints import UnknownZeros
from calibration.shots import Shots, ShotsError
from contracts.files import atomic

_NEAR_MM, _NEAR_DEG = 0.1, 0.01
"""The poses of a capture are those of its chain, but for how they were written."""


def placed_by(taken: Shots, chain: Chain, source: str) -> Shots:
    """The capture with the poses that `chain` makes of its joints. Raises `ShotsError` where it notes none,
    or not those of the chain."""
    _require_joints(taken)
    lacking = [one.joint for one in chain.joints if one.joint not in taken.joints]
    if lacking:
        raise ShotsError(
            f"{source} names a joint that the capture lacks",
            expected=f"some of {list(taken.joints)}",
            found=lacking[0],
        )
    moved = []
    for shot in taken.shots:
        pose = chain.base_T_hand(taken.joints, shot.joints)
        x, y, z = pose[:3, 3].tolist()
        turn = rigid.to_quaternion(pose[:3, :3])
        moved.append(msgspec.structs.replace(shot, position_m=(x, y, z), quaternion_xyzw=turn))
    return msgspec.structs.replace(taken, shots=tuple(moved), chain=chain)


def require_chain(taken: Shots, path: Path) -> None:
    """Raise `ShotsError` where the capture's poses are of another chain than the robot's at `path`: a place
    found by them would be judged by that. One that notes no chain is believed."""
    if taken.chain is not None and taken.chain != read(path):
        raise ShotsError(
            "the capture's poses are of another chain of joints than the robot's",
            expected=f"{path}, by which its own looks place the hand",
            found="another one that the capture notes",
            remedy="give the arm's as --chain: poses are made anew by it, and calibration.chain names it",
        )


def unknown_zeros(taken: Shots, spread_deg: float) -> UnknownZeros:
    """Of the arm that took the capture. Raises `ShotsError` where it notes no joints, or other poses than its
    chain makes of them."""
    _require_joints(taken)
    chain = taken.chain
    if chain is None:
        raise ShotsError(
            "the capture notes no chain of joints",
            expected="the one that its poses are of",
            remedy="give it as --chain",
        )
    for shot in taken.shots:
        said = rigid.from_quaternion(shot.quaternion_xyzw, shot.position_m)
        made = chain.base_T_hand(taken.joints, shot.joints)
        mm, degrees = rigid.distance_mm(said, made), rigid.angle_deg(said, made)
        if mm > _NEAR_MM or degrees > _NEAR_DEG:
            raise ShotsError(
                f"the pose of shot {shot.name} is not what the chain makes of its joints",
                found=f"{mm:.2f} mm and {degrees:.2f} deg apart",
                remedy="give the arm's chain as --chain",
            )
    arm = UnknownZeros(chain, taken.joints, float(np.radians(spread_deg)))
    if not arm.joints:
        raise ShotsError(
            "no joint's zero can be told",
            expected="a joint that turns between the first and the last",
            found=[one.joint for one in chain.joints],
        )
    return arm


def write_chain(path: Path, chain: Chain) -> None:
    """For --chain and `calibration.chain`: JSON, which is YAML, too."""
    plain = msgspec.json.encode(chain)
    atomic.write_bytes(path, msgspec.json.format(plain, indent=1))


def _require_joints(taken: Shots) -> None:
    without = [shot.name for shot in taken.shots if not shot.joints]
    if without:
        raise ShotsError(
            "the capture does not note what the joints read",
            expected="joints of every shot, as robot-calibrate capture writes them",
            found=f"none of shot {without[0]}",
            remedy="capture again",
        )
