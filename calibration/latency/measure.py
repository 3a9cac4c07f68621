"""Latencies of a robot's cameras and arm: it moves, and looks at itself. Owns the movement and what follows.

As UMI (Chi et al. 2024) tells latencies apart, with what a robot has at hand: the same movement as it was
commanded, as the joints were read, and as each camera saw it. What they tell are differences. The latency of
the joints' own readings is taken as given, and as large as it must be for no picture to be from the future.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from calibration.latency import motion
from calibration.latency.delay import Array, Delay, DelayError, delay_of
from contracts.calibration import Latency
from contracts.specs import ActionSpec, is_gripper
from runtime.arms import ArmState
from runtime.cameras import Camera
from runtime.gate.gate import Verdict

LONGEST_S = 0.5
AMPLITUDE_DEG, SECONDS = 3.0, 20.0
_RAMP_S = 1.0
_FREQUENCIES_HZ = (0.43, 0.71, 0.59, 0.83, 0.97)
"""One a joint, none a multiple of another: the movement never repeats, and no delay looks like another."""
_PROMPT_S = 0.002
"""So much before the joints' readings a picture may surely be without the readings being called late."""


class Stage(Protocol):
    """What moves and looks (`runtime.arms.session.Session`)."""

    @property
    def cameras(self) -> Mapping[str, Camera]: ...

    @property
    def action(self) -> ActionSpec: ...

    def now_s(self) -> float: ...

    def tick(self, targets: tuple[float, ...] | None = None) -> tuple[ArmState, Verdict]: ...


@dataclass
class Recording:
    """Everything with its time on the robot's clock: `commanded` as the gate passed it."""

    commanded: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)
    read: list[tuple[float, npt.NDArray[np.float32]]] = field(default_factory=list)
    seen: dict[str, list[tuple[float, npt.NDArray[np.float32]]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Latencies:
    """`cameras` by name; `state` None: it was given and nothing contradicts it. `unseen`: cameras in which
    the movement was not found, with the reason."""

    cameras: dict[str, Latency]
    action: Latency
    state_s: float
    state: Latency | None
    unseen: dict[str, str]


def swing(
    spec: ActionSpec, start: tuple[float, ...], amplitude: float, at_s: float
) -> tuple[float, ...]:
    """Targets `at_s` seconds into the movement about `start`: every joint but grippers by up to `amplitude`
    (its units), inside the arm's ranges, beginning at rest."""
    ramp = min(1.0, at_s / _RAMP_S)
    share = ramp * ramp * (3 - 2 * ramp)
    targets = []
    for joint, (name, position) in enumerate(zip(spec.names, start, strict=True)):
        low, high = spec.low[joint], spec.high[joint]
        # Of a joint near an end of its range, the middle of the swing is moved away from there.
        middle = (
            min(max(position, low + amplitude), high - amplitude)
            if high - low > 2 * amplitude
            else position
        )
        rate = 2 * np.pi * _FREQUENCIES_HZ[joint % len(_FREQUENCIES_HZ)]
        off = (
            0.0
            if is_gripper(name)
            else amplitude * (0.7 * np.sin(rate * at_s) + 0.3 * np.sin(1.618 * rate * at_s))
        )
        targets.append(position + share * (middle + off - position))
    return tuple(map(float, targets))


def record(
    stage: Stage,
    amplitude: float = AMPLITUDE_DEG,
    seconds: float = SECONDS,
    say: Callable[[float], None] = lambda share: None,
) -> Recording:
    """Move through the gate for so long and note what comes. `say` is called with the share done. Raises what
    `stage.tick` raises."""
    found = Recording(seen={name: [] for name in stage.cameras})
    numbers = dict.fromkeys(stage.cameras, -1)
    joints, _ = stage.tick()
    start = tuple(map(float, joints.targets if joints.targets is not None else joints.positions))
    began_s = now_s = stage.now_s()
    while now_s - began_s < seconds:
        targets = swing(stage.action, start, amplitude, now_s - began_s)
        joints, verdict = stage.tick(targets)
        now_s = stage.now_s()
        found.commanded.append((now_s, verdict.command))
        if not found.read or joints.at_s > found.read[-1][0]:
            found.read.append((joints.at_s, joints.positions))
        for name, camera in stage.cameras.items():
            frame = camera.newest(now_s)
            if frame is not None and frame.number != numbers[name]:
                numbers[name] = frame.number
                found.seen[name].append((frame.captured_s, motion.blurred(frame.rgb)))
        say((now_s - began_s) / seconds)
    return found


def latencies(found: Recording, state_s: float = 0.0) -> Latencies:
    """`state_s`: how old the joints' readings are, where that is known. Raises `DelayError` where the arm's
    movement tells nothing; a camera that does not see it is among the `unseen`."""
    read_s, read = _series(found.read)
    commanded_s, commanded = _series(found.commanded)
    moving = read.std(axis=0) > 0
    if not moving.any():
        raise DelayError("nothing moved", remedy="is the arm powered, and free to move?")
    read, commanded = read[:, moving], commanded[:, moving]
    relative, unseen = dict[str, Delay](), dict[str, str]()
    for name, pictures in found.seen.items():
        try:
            relative[name] = _camera(read_s, read, pictures)
        except DelayError as error:
            unseen[name] = str(error)
    action = delay_of(commanded_s, commanded, read_s, read, LONGEST_S)
    state: Latency | None = None
    earliest = min(relative.values(), key=lambda one: one.seconds, default=None)
    if earliest is not None and earliest.seconds + earliest.half_width_s + state_s < -_PROMPT_S:
        state_s = round(-earliest.seconds, 5)
        state = Latency(seconds=state_s, half_width_s=earliest.half_width_s)
    return Latencies(
        {name: _latency(one, state_s) for name, one in relative.items()},
        _latency(action, -state_s),
        state_s,
        state,
        unseen,
    )


def text_of(found: Latencies) -> str:
    """For a terminal."""

    def said(what: str, one: Latency) -> str:
        return f"{what}: {1e3 * one.seconds:.1f} ms ± {1e3 * one.half_width_s:.1f} (95 %)"

    readings = f"readings of the joints: {1e3 * found.state_s:.1f} ms"
    return "\n".join(
        [
            f"{readings}, {'as given' if found.state is None else 'or pictures would be from the future'}",
            said("from a command to its effect", found.action),
            *(said(f"camera {name}", one) for name, one in found.cameras.items()),
            *(f"camera {name}: not measured: {why}" for name, why in found.unseen.items()),
        ]
    )


def _latency(found: Delay, more_s: float) -> Latency:
    """No latency is negative; one that can't be told from none is none, so that nothing is aligned for it."""
    seconds = found.seconds + more_s
    return Latency(
        seconds=0.0 if seconds < found.half_width_s else round(seconds, 5),
        half_width_s=round(found.half_width_s, 5),
    )


def _camera(
    read_s: Array, read: Array, pictures: list[tuple[float, npt.NDArray[np.float32]]]
) -> Delay:
    """By how much pictures come after readings of the same moment (less than 0: before)."""
    seen_s = np.array([at for at, _ in pictures])
    seen = motion.components([picture for _, picture in pictures])
    # Shifted by the longest, so that a picture may come before its reading.
    found = delay_of(read_s, motion.products(read), seen_s + LONGEST_S, seen, 2 * LONGEST_S)
    return Delay(found.seconds - LONGEST_S, found.half_width_s, found.explained)


def _series(
    found: list[tuple[float, npt.NDArray[np.float32]]] | list[tuple[float, tuple[float, ...]]],
) -> tuple[Array, Array]:
    at: Array = np.array([one[0] for one in found], np.float64)
    return at, np.array([np.asarray(one[1], np.float64) for one in found])
