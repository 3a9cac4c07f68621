"""Whether an arm that was told to stop stands, by reading back from it: its targets and how it moves.

Pure: readings and their times in, a finding out. Owns no arm and no clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from contracts.errors import DeviceError
from contracts.specs import is_gripper
from runtime.arms import ArmState
from runtime.board import StopCheck

STILL_UNITS_PER_S = 3.0
"""Slower than this, in every joint, is standing: what a servo's last digit of position still twitches."""
STILL_FOR_S = 0.1
HOLD_UNITS = 3.0
"""How far a target may be from where the joint stands: servos sag under load."""
_NO_NEWS_S = 0.5
"""So much longer than for standing is waited for readings that get newer."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`still_at_s`: from when on the arm stood, 0 unless it was seen to. `note`: one plain sentence."""

    check: StopCheck
    note: str
    still_at_s: float = 0.0


class Standstill:
    """Give it readings until it has found something. Speed is taken from positions over `STILL_FOR_S`, so
    that an arm that says it stands and doesn't is found out; the arm's own velocities count as well. What
    counts is how far apart two readings are at least: of one that took long nobody knows when it was
    measured, and an arm seen twice within a moment has not moved."""

    def __init__(self, names: tuple[str, ...], stopped_s: float, within_s: float) -> None:
        self._names, self._give_up_s, self._within_s = names, stopped_s + within_s, within_s
        self._grippers = np.array([is_gripper(name) for name in names])
        self._seen: deque[ArmState] = deque()
        self._target: np.ndarray | None = None
        self._why = "it was not read"
        self._error = ""

    def add(self, reading: ArmState) -> Finding | None:
        """A reading, or None for one that was read before; a finding ends the check. With an arm whose
        readings get no newer there never is one: ask `silent`, too."""
        self._error = ""
        finite = np.isfinite(reading.positions)
        if not finite.all():  # what is compared with NaN is never beyond it
            self._why = f"the reading of {self._names[int(np.argmin(finite))]} is no number"
            return self._give_up(reading.at_s)
        seen = self._seen
        if not seen or reading.at_s > seen[-1].at_s:
            seen.append(reading)
        while len(seen) > 2 and _apart_s(seen[1], reading) >= STILL_FOR_S:
            seen.popleft()
        self._why = self._moving(reading) or self._astray(reading)
        self._target = reading.targets
        if not self._why:
            return Finding(StopCheck.VERIFIED, self._said(reading), seen[0].at_s)
        return self._give_up(reading.at_s)

    def lost(self, now_s: float, error: DeviceError) -> Finding | None:
        """The arm could not be read."""
        self._error = str(error)
        return self._give_up(now_s)

    def silent(self, waited_s: float) -> Finding | None:
        """After so long since the stop without a finding: it answers, and with readings that get no newer."""
        if waited_s <= self._within_s + _NO_NEWS_S:
            return None
        what = "could not verify that the arm stands: it gave no new readings"
        return Finding(StopCheck.UNREADABLE, what)

    def _moving(self, reading: ArmState) -> str:
        if _apart_s(self._seen[0], reading) < STILL_FOR_S:
            return "it was not watched long enough"
        fastest, joint = 0.0, 0
        for one in self._seen:  # every reading: one that comes back to where it was has moved
            moved = np.abs(one.positions - reading.positions)
            if moved.max() > fastest:
                fastest, joint = float(moved.max()), int(moved.argmax())
        speed = fastest / STILL_FOR_S
        if reading.velocities is not None and np.abs(reading.velocities).max() > speed:
            joint = int(np.abs(reading.velocities).argmax())
            speed = float(abs(reading.velocities[joint]))
        return "" if speed <= STILL_UNITS_PER_S else f"{self._names[joint]} moves at {speed:.1f}/s"

    def _astray(self, reading: ArmState) -> str:
        if reading.targets is None:
            return ""
        off = np.abs(reading.targets - reading.positions)
        off[self._grippers] = 0.0  # one that holds something stays open, and must keep its grip
        joint = int(off.argmax())
        if not off[joint] <= HOLD_UNITS:
            return f"{self._names[joint]}'s target is {off[joint]:.1f} from where it stands"
        if self._target is not None and not np.array_equal(self._target, reading.targets):
            return "its targets change: somebody commands it"
        return ""

    def _said(self, reading: ArmState) -> str:
        power = "" if reading.torque else ", its motors without power"
        if reading.targets is None:
            return f"the arm stands{power}; its targets can't be read back"
        return f"the arm stands where its targets are{power}"

    def _give_up(self, now_s: float) -> Finding | None:
        if now_s <= self._give_up_s:
            return None
        if self._error:
            what = f"could not verify that the arm stands: {self._error}"
            return Finding(StopCheck.UNREADABLE, what)
        return Finding(
            StopCheck.FAILED,
            f"the arm does not stand {self._within_s:g} s after its stop: {self._why}",
        )


def _apart_s(first: ArmState, then: ArmState) -> float:
    """How much later one was measured than the other, at least."""
    return (then.at_s - _doubt_s(then)) - (first.at_s + _doubt_s(first))


def _doubt_s(reading: ArmState) -> float:
    """A doubt that is no length of time says that nothing is known of when."""
    return reading.doubt_s if reading.doubt_s >= 0.0 else math.inf
