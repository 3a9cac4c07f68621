"""When a stand may be taken: the arm stands, and pictures of that time are there. Pure.

Times are the devices' own. A picture counts only if the arm stood still from well before it was taken, so
that a latency that nobody has measured yet does not matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration.capture.looking import Rejected
from calibration.rigid import Array
from contracts.specs import is_gripper
from runtime.arms import ArmState
from runtime.cameras import Frame

STILL_S = 0.5
"""The arm has stood for so long before the first picture that counts."""
STILL_UNITS = 0.3
"""Within this, in every joint but grippers (degrees; millimetres of one that slides), is standing."""
AGREE_S = 0.15
"""How far a picture may be from the nearest reading of the joints."""
PATIENCE_S = 3.0
"""For the pictures of a standing arm: then those that are late are named."""
_APART_S = 0.03
"""Between the two pictures in which the board has to be at one place."""


@dataclass(frozen=True)
class Stood:
    """`readings` float64[joints]: mean over the stand; `at_s`, `for_s`: when it was last read, and how long
    it stood. `pictures`: of each camera two, the earlier first; `late`: cameras without, and why."""

    readings: Array
    at_s: float
    for_s: float
    pictures: Mapping[str, tuple[Frame, Frame]]
    late: Mapping[str, Rejected]


@dataclass
class Stillness:
    """`cameras`: whose pictures are waited for; `names`: the arm's joints. Begins anew with `restart`."""

    cameras: Sequence[str]
    names: Sequence[str]
    _readings: deque[tuple[float, Array]] = field(default_factory=deque)
    _pictures: dict[str, list[Frame]] = field(default_factory=dict)

    def restart(self) -> None:
        """Nothing of what was seen so far counts."""
        self._readings.clear()
        self._pictures = {}

    @property
    def standing_s(self) -> float:
        """For how long the arm has stood."""
        return self._readings[-1][0] - self._readings[0][0] if self._readings else 0.0

    def add(self, joints: ArmState, frames: Mapping[str, Frame | None]) -> Stood | None:
        """A reading of the joints and each camera's newest picture; the stand once it is complete."""
        self._read(joints)
        first_s, last_s = self._readings[0][0], self._readings[-1][0]
        for name in self.cameras:
            frame, kept = frames.get(name), self._pictures.setdefault(name, [])
            if frame is None or frame.captured_s < first_s + STILL_S:
                continue
            if not kept or frame.captured_s >= kept[-1].captured_s + _APART_S:
                self._pictures[name] = [*kept, frame][-2:]
        out_of_time = last_s - first_s > STILL_S + PATIENCE_S
        whole = {
            name: (kept[0], kept[1]) for name, kept in self._pictures.items() if len(kept) == 2
        }
        late = {
            name: self._late(name, frames.get(name)) for name in self.cameras if name not in whole
        }
        for name, (_, frame) in list(whole.items()):
            apart = min(abs(at_s - frame.captured_s) for at_s, _ in self._readings)
            if apart > AGREE_S:  # it may still be overtaken by the readings
                del whole[name]
                late[name] = _disagree(apart)
        if late and not out_of_time:
            return None
        mean = np.mean([positions for _, positions in self._readings], axis=0)
        return Stood(mean, last_s, last_s - first_s, whole, late)

    def _read(self, joints: ArmState) -> None:
        """Keeps the readings since the arm began to stand."""
        here = np.asarray(joints.positions, np.float64)
        if self._readings and joints.at_s <= self._readings[-1][0]:
            return
        self._readings.append((joints.at_s, here))
        arm = np.array([not is_gripper(name) for name in self.names])
        all_ = np.array([positions for _, positions in self._readings])[:, arm]
        moved = np.abs(all_ - all_[-1]).max(axis=1) > STILL_UNITS
        for _ in range(int(np.flatnonzero(moved)[-1]) + 1 if moved.any() else 0):
            self._readings.popleft()
        if moved.any():
            self._pictures = {}

    def _late(self, name: str, newest: Frame | None) -> Rejected:
        if newest is None:
            return Rejected("times", "no picture came")
        apart = self._readings[-1][0] - newest.captured_s
        if abs(apart) > AGREE_S:
            return _disagree(apart)
        return Rejected("times", "too few pictures came while the arm stood")


def _disagree(apart_s: float) -> Rejected:
    why = (
        f"its newest picture and the joints are {1e3 * abs(apart_s):.0f} ms apart, more than "
        f"{1e3 * AGREE_S:.0f}: is the camera still delivering?"
    )
    return Rejected("times", why)
