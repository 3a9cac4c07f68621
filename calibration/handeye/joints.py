"""Joints that read too much or too little, everywhere alike: the zeros of an arm's joints as unknowns.

A zero that is off turns the hand about its joint by the same angle at every stand: as far as the stands
differ, that is told from the arm's random errors. Not so of the first and the last joint, whose zeros are the
same as other places of board and camera: they are left as they are. The others have a prior, and keep it
where nothing is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from calibration.chain import Chain
from calibration.handeye.linear import Stands
from calibration.handeye.samples import Setup
from calibration.rigid import Array


@dataclass(frozen=True)
class UnknownZeros:
    """Of the joints of `chain` that turn, but the first and the last. `names`: of a sample's readings;
    `spread_rad`: how far a zero may be off (one standard deviation)."""

    chain: Chain
    names: tuple[str, ...]
    spread_rad: float

    @property
    def joints(self) -> tuple[str, ...]:
        return tuple(one.joint for one in self.chain.joints[1:-1] if not one.slides)

    def placed(self, setup: Setup, zeros: Array) -> Setup:
        """The setup with every hand where it is if joints turned by `zeros` [Z] radians more than they
        read."""
        samples = tuple(
            replace(one, base_T_hand=self.base_T_hand(one.joints, zeros)) for one in setup.samples
        )
        return replace(setup, samples=samples)

    def base_T_hand(self, readings: Sequence[float], zeros: Array) -> Array:
        """[4,4]."""
        return self.chain.base_T_hand(self.names, self._turned(readings, zeros))

    def slopes(self, readings: Sequence[float], zeros: Array) -> Array:
        """[6,Z]: how the hand turns and moves, in its own frame, with each zero."""
        at = dict(zip(self.names, self._turned(readings, zeros), strict=True))
        found, after = list[Array](), self.chain.hand.pose
        for joint in reversed(self.chain.joints):
            axis = np.array(joint.axis) / np.linalg.norm(joint.axis)
            if joint.joint in self.joints:
                turn = after[:3, :3].T @ axis
                found.append(np.r_[turn, after[:3, :3].T @ np.cross(axis, after[:3, 3])])
            after = joint.pose @ joint.moved(at[joint.joint]) @ after
        return np.stack(found[::-1], axis=1)

    def unknown_in(self, stands: Stands, setup: Setup, zeros: Array) -> Stands:
        """The linearised problem at `zeros` with them as further unknowns, the last ones."""
        slopes = np.stack([self.slopes(one.joints, zeros) for one in setup.samples])
        turned = np.swapaxes(slopes, 1, 2)
        across, own = stands.JG @ slopes, turned @ stands.GG @ slopes
        known, count = stands.JJ.shape[1], slopes.shape[2]
        above = np.concatenate([stands.JJ, across], axis=2)
        below = np.concatenate([np.swapaxes(across, 1, 2), own], axis=2)
        return replace(
            stands,
            JJ=np.concatenate([above, below], axis=1),
            JG=np.concatenate([stands.JG, turned @ stands.GG], axis=1),
            Jr=np.concatenate([stands.Jr, (turned @ stands.Gr[:, :, None])[:, :, 0]], axis=1),
            prior=np.r_[np.zeros(known), np.full(count, self.spread_rad**-2)],
            prior_at=np.r_[np.zeros(known), zeros],
        )

    def corrected(self, zeros: Array) -> Chain:
        """The chain of an arm whose joints turned by `zeros` more than they read."""
        more = dict(zip(self.joints, np.degrees(zeros).tolist(), strict=True))
        joints = tuple(
            msgspec.structs.replace(one, zero=one.zero - more.get(one.joint, 0.0))
            for one in self.chain.joints
        )
        return Chain(joints=joints, hand=self.chain.hand)

    def _turned(self, readings: Sequence[float], zeros: Array) -> list[float]:
        more = dict(zip(self.joints, np.degrees(zeros).tolist(), strict=True))
        return [
            float(reading) + more.get(name, 0.0)
            for name, reading in zip(self.names, readings, strict=True)
        ]
