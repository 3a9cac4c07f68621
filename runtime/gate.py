"""The gate: the only code that may command the arm. A pure core that judges, and the holder that writes.

What leaves `judge` is finite, of the arm's arity and inside position, velocity, acceleration and
workspace limits, all at once: each tick it also proves that braking from there stays inside, so the next
tick always has a lawful answer. Non-finite or misshapen requests are latched faults, not clamped: a NaN
passes `max(min(x, cap), -cap)`. This is not a certified safety function; keep the emergency stop at hand.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from contracts.errors import DeviceError, EntracteError, GateFault
from contracts.messages import GateBit
from contracts.specs import ActionSpec
from runtime.arms import Arm, ArmState
from runtime.board import Board, LoopState, Owner
from runtime.config import GateSection
from runtime.kinematics import Points, points_for

Numbers = tuple[float, ...]
TOLERANCE = 1e-6
START_TOLERANCE = 3.0
"""How far outside its range (deg or percent) an arm may stand and still be armed: servos sag a little."""
_SCALES = (1.0, 0.5, 0.25, 0.1)
"""Shares of the wanted motion that are tried at the workspace's boundary before braking."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Per joint, in the arm's units (and per second, per second squared). `box`: (low, high) metres for
    x, y and z of every point that `points` gives. `period_s`: time between two commands."""

    low: Numbers
    high: Numbers
    velocity: Numbers
    acceleration: Numbers
    period_s: float
    box: tuple[tuple[float, float], ...] = ()
    points: Points | None = None
    max_state_age_s: float = math.inf
    max_frame_age_s: float = math.inf
    stale_fault_s: float = math.inf


def limits_of(spec: ActionSpec, section: GateSection, rate_hz: float) -> GateLimits:
    """The arm's own limits, tightened by the configuration."""
    return GateLimits(
        low=spec.low,
        high=spec.high,
        velocity=tuple(v * section.velocity_scale for v in spec.max_velocity),
        acceleration=tuple(a * section.acceleration_scale for a in spec.max_acceleration),
        period_s=1.0 / rate_hz,
        box=(section.workspace_x_m, section.workspace_y_m, section.workspace_z_m),
        points=points_for(spec.names),
        max_state_age_s=section.max_state_age_s,
        max_frame_age_s=section.max_frame_age_s,
        stale_fault_s=section.stale_fault_s,
    )


@dataclass(frozen=True, slots=True)
class GateState:
    """`position`/`velocity`: of the last command. `stale_s`: how long readings have been old. `reason`:
    why HOLD or FAULT."""

    mode: LoopState = LoopState.INIT
    position: Numbers = ()
    velocity: Numbers = ()
    stale_s: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`command`: what may be written (the last one, on a fault). `bits`: see `GateBit`. `fault`: why the
    gate is latched from now on, or empty."""

    command: Numbers
    bits: int = 0
    fault: str = ""


def arm_at(limits: GateLimits, measured: Sequence[float]) -> GateState:
    """ARMED at the measured pose. Raises `GateFault` if the arm stands outside what it may do."""
    position = tuple(float(value) for value in measured)
    if len(position) != len(limits.low) or not all(map(math.isfinite, position)):
        raise GateFault(
            "joint readings are unusable", expected=f"{len(limits.low)} numbers", found=position
        )
    clamped = tuple(map(_clamp, position, limits.low, limits.high))
    off = max(abs(a - b) for a, b in zip(position, clamped, strict=True))
    if off > START_TOLERANCE:
        raise GateFault(
            "a joint stands outside its range",
            found=f"{off:.1f} beyond it",
            remedy="move the arm by hand and start again",
        )
    if not _inside_box(limits, clamped):
        raise GateFault(
            "the arm stands outside its workspace",
            expected=f"x, y, z in {limits.box} m",
            found=limits.points(clamped) if limits.points else None,
            remedy="move the arm by hand, or correct gate.workspace_*",
        )
    return GateState(LoopState.ARMED, clamped, (0.0,) * len(clamped))


def judge(
    limits: GateLimits,
    state: GateState,
    request: Sequence[float] | None,
    state_age_s: float = 0.0,
    frame_age_s: float = 0.0,
) -> tuple[GateState, Verdict]:
    """What becomes of a request for position targets; None asks for nothing, that is to hold."""
    if state.mode is LoopState.FAULT:
        return state, Verdict(state.position, GateBit.HELD, state.reason)
    if state.mode is LoopState.INIT:
        return _fault(state, "the gate was not armed", 0)
    if request is not None:
        if len(request) != len(limits.low):
            what = f"action has {len(request)} entries, the arm {len(limits.low)}"
            return _fault(state, what, GateBit.ARITY)
        if not all(map(math.isfinite, request)):
            return _fault(state, "action holds NaN or infinity", GateBit.NON_FINITE)
    fresh = state_age_s <= limits.max_state_age_s and frame_age_s <= limits.max_frame_age_s
    stale_s = 0.0 if fresh else state.stale_s + limits.period_s
    if stale_s > limits.stale_fault_s:
        what = f"readings were old for {stale_s:.1f} s"
        return _fault(state, what, GateBit.STALE)
    bits = 0 if fresh else GateBit.STALE | GateBit.HELD
    if request is None:
        bits |= GateBit.HELD
    wanted = request if request is not None and fresh else None
    position, velocity, shaped = _shape(limits, state, wanted)
    mode = LoopState.RUNNING if wanted is not None else LoopState.HOLD
    reason = "" if fresh else "old readings"
    after = GateState(mode, position, velocity, stale_s, reason)
    return after, Verdict(position, bits | shaped)


def _fault(state: GateState, why: str, bit: int) -> tuple[GateState, Verdict]:
    after = replace(state, mode=LoopState.FAULT, velocity=(0.0,) * len(state.velocity), reason=why)
    return after, Verdict(state.position, bit | GateBit.HELD, why)


def _shape(
    limits: GateLimits, state: GateState, wanted: Sequence[float] | None
) -> tuple[Numbers, Numbers, int]:
    """The nearest lawful command to `wanted` (None: to standing still), its velocity, what was done."""
    bits = 0
    dt = limits.period_s
    spans = [_span(limits, state, joint) for joint in range(len(limits.low))]
    position: list[float] = []
    for joint, (lowest, highest) in enumerate(spans):
        last = state.position[joint]
        if wanted is None:
            position.append(last + _clamp(0.0, lowest, highest) * dt)
            continue
        target = _clamp(float(wanted[joint]), limits.low[joint], limits.high[joint])
        if target != wanted[joint]:
            bits |= GateBit.POSITION
        speed = (target - last) / dt
        cap = limits.velocity[joint]
        if abs(speed) > cap + TOLERANCE:
            bits |= GateBit.VELOCITY
            speed = math.copysign(cap, speed)
        if lowest - TOLERANCE <= speed <= highest + TOLERANCE and abs(speed) < cap:
            position.append(target)
            continue
        lawful = _clamp(speed, lowest, highest)
        if abs(lawful - speed) > TOLERANCE:
            bits |= GateBit.ACCELERATION
        position.append(last + lawful * dt)
    if not limits.box or limits.points is None:
        return _moved(state, position, dt, bits)
    for scale in _SCALES:
        trial = [
            last + _clamp(scale * (p - last) / dt, *span) * dt if scale < 1.0 else p
            for last, p, span in zip(state.position, position, spans, strict=True)
        ]
        speeds = [(p - last) / dt for p, last in zip(trial, state.position, strict=True)]
        if all(_inside_box(limits, pose) for pose in _braking(limits, trial, speeds)):
            return _moved(state, trial, dt, bits)
        bits |= GateBit.WORKSPACE
    # Braking as hard as allowed was proved to stay inside when the last command was given.
    braked = [
        last + _clamp(0.0, *span) * dt for last, span in zip(state.position, spans, strict=True)
    ]
    return _moved(state, braked, dt, bits)


def _moved(
    state: GateState, position: Sequence[float], dt: float, bits: int
) -> tuple[Numbers, Numbers, int]:
    velocity = tuple((p - last) / dt for p, last in zip(position, state.position, strict=True))
    return tuple(position), velocity, bits


def _span(limits: GateLimits, state: GateState, joint: int) -> tuple[float, float]:
    """Velocities that a joint may have next: within its caps, and able to stop before its range ends."""
    step = limits.acceleration[joint] * limits.period_s
    speed, cap = state.velocity[joint], limits.velocity[joint]
    room_up = limits.high[joint] - state.position[joint]
    room_down = state.position[joint] - limits.low[joint]
    highest = min(cap, speed + step, _stoppable(room_up, step, limits.period_s))
    lowest = max(-cap, speed - step, -_stoppable(room_down, step, limits.period_s))
    # Rounding may put one a hair beyond the other when a limit is all but reached.
    return min(lowest, highest), max(lowest, highest)


def _stoppable(room: float, step: float, dt: float) -> float:
    """The largest velocity v such that v, v - step, v - 2 step, ... > 0 add up to at most `room`/dt."""
    quota = room / (step * dt)
    if quota <= 0.0:
        return 0.0
    whole = int((math.sqrt(1.0 + 8.0 * quota) - 1.0) / 2.0)
    part = (quota - whole * (whole + 1) / 2.0) / (whole + 1)
    return (whole + part) * step


def _braking(
    limits: GateLimits, position: Sequence[float], velocity: Sequence[float]
) -> Iterator[Sequence[float]]:
    """The pose itself and every further one of braking from it as hard as allowed."""
    yield position
    dt = limits.period_s
    pose, speed = list(position), list(velocity)
    steps = [a * dt for a in limits.acceleration]
    while any(abs(v) > step for v, step in zip(speed, steps, strict=True)):
        speed = [v - _clamp(v, -step, step) for v, step in zip(speed, steps, strict=True)]
        pose = [p + v * dt for p, v in zip(pose, speed, strict=True)]
        yield pose


def _inside_box(limits: GateLimits, position: Sequence[float]) -> bool:
    if limits.points is None or not limits.box:
        return True
    return all(
        low <= value <= high
        for point in limits.points(position)
        for value, (low, high) in zip(point, limits.box, strict=True)
    )


def _clamp(value: float, low: float, high: float) -> float:
    return low if value < low else high if value > high else value


class Gate:
    """Holds the arm and the lease. Control arms it and sends requests; the watchdog only `seize`s it.

    Owns: the arm connection, the latched fault. Doesn't own: what to ask for, when, or what a fault
    means for the episode.
    """

    def __init__(
        self, arm: Arm, limits: GateLimits, board: Board, owner: Owner, lease_s: float
    ) -> None:
        self.arm, self.limits = arm, limits
        self._board, self._owner, self._lease_s = board, owner, lease_s
        self._epoch = 0
        self.state = GateState()

    @property
    def faulted(self) -> bool:
        return self.state.mode is LoopState.FAULT

    def take_arm(self) -> None:
        """Become the one writer. Raises `EntracteError` if somebody else is."""
        self._epoch = self._board.take_lease(self._owner, time.monotonic(), self._lease_s)
        self.arm.take(self._epoch)

    def prepare(self, reading: ArmState) -> None:
        """ARMED at this reading: before the first episode, and after somebody else moved the arm.
        A latched fault stays. Raises `GateFault`."""
        if self.faulted:
            raise GateFault("the gate is latched", found=self.state.reason, remedy="start again")
        self.state = arm_at(self.limits, reading.positions.tolist())

    def command(
        self, request: Sequence[float] | None, state_age_s: float, frame_age_s: float
    ) -> Verdict:
        """Judge and write. Never raises: what goes wrong is a latched fault and the arm in hold."""
        self.state, verdict = judge(self.limits, self.state, request, state_age_s, frame_age_s)
        if verdict.fault:
            self._stop()
            return verdict
        now_s = time.monotonic()
        if not self._board.renew_lease(self._owner, self._epoch, now_s, self._lease_s):
            return self._latch(verdict, "the watchdog has taken the arm")
        try:
            accepted = self.arm.write(np.array(verdict.command, np.float64))
        except DeviceError as error:
            return self._latch(verdict, str(error))
        return verdict if accepted else self._latch(verdict, "the arm refused: the lease is old")

    def rest(self) -> bool:
        """A tick without a command (between episodes, the arm in hold): keeps the lease. False: lost."""
        renewed = self._board.renew_lease(self._owner, self._epoch, time.monotonic(), self._lease_s)
        if not renewed and not self.faulted:
            self._latch(Verdict(self.state.position), "the watchdog has taken the arm")
        return renewed

    def hold(self, reason: str) -> None:
        """Stop where the arm stands; not a fault. The next episode needs `prepare`."""
        self._stop()
        if not self.faulted:
            still = (0.0,) * len(self.state.velocity)
            self.state = replace(self.state, mode=LoopState.HOLD, velocity=still, reason=reason)

    def fault(self, reason: str) -> None:
        """Latch a fault that was found elsewhere (a policy that returns NaN, a lost camera)."""
        self._latch(Verdict(self.state.position), reason)

    def seize(self, now_s: float) -> bool:
        """Watchdog: take the lease, whoever had it, and put the arm in hold. False: no hold from the arm.

        The new epoch fences off whatever the old owner still sends.
        """
        self._board.lease_expiry_s = min(self._board.lease_expiry_s, now_s - 1e-9)
        self._epoch = self._board.take_lease(Owner.WATCHDOG, now_s, math.inf)
        self.arm.take(self._epoch)
        try:
            self.arm.hold()
        except EntracteError:
            return False
        return True

    def close(self) -> None:
        self._board.release_lease(self._owner)
        self.arm.close()

    def _latch(self, verdict: Verdict, why: str) -> Verdict:
        self.state, verdict = _fault(self.state, why, verdict.bits)
        self._stop()
        return verdict

    def _stop(self) -> None:
        # Not ours any more: the watchdog holds the arm, and a hold of ours could only disturb it.
        if self._board.holds_lease(self._owner, self._epoch):
            try:
                self.arm.hold()
            except DeviceError as error:
                self.state = replace(self.state, mode=LoopState.FAULT, reason=str(error))
