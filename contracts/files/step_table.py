"""Steps of one episode as the data set's columns, added one at a time in about 400 bytes each.

Owns which column a field of `Step` goes to, and the times of the picture that a row really shows.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection

import numpy as np

from contracts.errors import WireError
from contracts.messages import SessionStart, Step

MAX_STEPS = 200_000
_VECTORS = ("observation.state", "action", "requested")
_TIMES = (
    "time.tick",
    "time.lateness",
    "time.state",
    "time.inference",
    "time.actuation",
)
_WHOLE = ("chunk", "chunk_index", "policy_version", "reward_version", "gate.verdict")
_REWARDS = ("process", "completion", "contrastive")
_NAN = float("nan")
_MOST = 2**63 - 1


class StepTable:
    """Columns named as in the data set. `lost`: rows with which a picture should have come and that show an
    older one than the step saw. `gaps`: steps before the last one that never came."""

    def __init__(self, session: SessionStart, what: str) -> None:
        """`what` is named in errors."""
        self._what = what
        self._cameras = tuple(camera.name for camera in session.observation.cameras)
        self._state_size = len(session.observation.state_names)
        self._action_size = len(session.action.names)
        self._floats = {name: array("f") for name in _VECTORS}
        self._floats |= {f"reward.{signal}": array("f") for signal in _REWARDS}
        self._times = {name: array("d") for name in _TIMES}
        self._times |= {
            f"time.{kind}.{name}": array("d")
            for name in self._cameras
            for kind in ("capture", "receive")
        }
        self._whole = {name: array("q") for name in _WHOLE}
        self._intervention = array("b")
        self._shown = {name: (_NAN, _NAN) for name in self._cameras}
        self._last_index = -1
        self._frames_every = max(1, session.frames_every)
        self.lost = self.gaps = 0

    def __len__(self) -> int:
        return len(self._intervention)

    def add(self, step: Step, arrived: Collection[str]) -> None:
        """One step, and the cameras of which a new picture came with it.

        Raises `WireError` on another arity, a step out of order, or one too many.
        """
        self._check(step)
        self.gaps += step.index - self._last_index - 1
        self._last_index = step.index
        for name, vector in zip(_VECTORS, (step.state, step.action, step.requested), strict=True):
            self._floats[name].extend(vector)
        for signal in _REWARDS:
            value = _NAN if step.reward is None else getattr(step.reward, signal)
            self._floats[f"reward.{signal}"].append(value)
        times = (
            step.tick_s,
            step.lateness_s,
            step.state_s,
            step.inference_started_s,
            step.actuated_s,
        )
        for name, value in zip(_TIMES, times, strict=True):
            self._times[name].append(value)
        numbers = (
            step.chunk,
            step.chunk_index,
            step.policy_version,
            step.reward_version,
            step.gate,
        )
        for name, number in zip(_WHOLE, numbers, strict=True):
            self._whole[name].append(number)
        self._intervention.append(step.intervention)
        for camera in self._cameras:
            self._show(camera, step, camera in arrived)

    def missing(self, steps: int) -> int:
        """How many of an episode's `steps` never came."""
        return self.gaps + max(0, steps - 1 - self._last_index)

    def columns(self) -> dict[str, np.ndarray]:
        """All columns: [T], or [T, n] for vectors. Rows before a camera's first picture show that one."""
        length = len(self)
        sizes = {
            "observation.state": self._state_size,
            "action": self._action_size,
            "requested": self._action_size,
        }
        columns: dict[str, np.ndarray] = {}
        for name, floats in self._floats.items():
            values = np.array(floats, np.float32)
            columns[name] = values.reshape(length, sizes[name]) if name in sizes else values
        # What was asked for may be non-finite (the gate refuses it); tables take NaN, not infinity.
        requested = columns["requested"]
        columns["requested"] = np.where(np.isinf(requested), np.float32(np.nan), requested)
        columns |= {name: np.array(values, np.float64) for name, values in self._times.items()}
        columns |= {name: np.array(values, np.int64) for name, values in self._whole.items()}
        columns["intervention"] = np.array(self._intervention, bool)
        for camera in self._cameras:
            for kind in ("capture", "receive"):
                _fill_start(columns[f"time.{kind}.{camera}"])
        return columns

    def _show(self, camera: str, step: Step, arrived: bool) -> None:
        seen = (step.captured_s.get(camera, _NAN), step.received_s.get(camera, _NAN))
        if arrived:
            self._shown[camera] = seen
        elif camera in step.captured_s and seen[0] != self._shown[camera][0]:
            self.lost += step.index % self._frames_every == 0
        captured_s, received_s = self._shown[camera]
        self._times[f"time.capture.{camera}"].append(captured_s)
        self._times[f"time.receive.{camera}"].append(received_s)

    def _check(self, step: Step) -> None:
        if len(self) >= MAX_STEPS:
            raise WireError(f"{self._what}: too many steps", expected=f"<= {MAX_STEPS}")
        expected = (self._state_size, self._action_size, self._action_size)
        found = (len(step.state), len(step.action), len(step.requested))
        if found != expected:
            raise WireError(
                f"{self._what}: arity of step {step.index}", expected=expected, found=found
            )
        whole = (step.index, step.chunk, step.chunk_index, step.policy_version, step.reward_version)
        # On the wire a number may have 64 bits without a sign; in a column one of them is the sign.
        if max(*whole, step.gate) > _MOST:
            raise WireError(f"{self._what}: number of step {step.index}", expected=f"<= {_MOST}")
        if step.index <= self._last_index:
            raise WireError(f"{self._what}: steps are out of order", found=step.index)


def _fill_start(times: np.ndarray) -> None:
    known = np.flatnonzero(np.isfinite(times))
    if len(known):
        times[: known[0]] = times[known[0]]
