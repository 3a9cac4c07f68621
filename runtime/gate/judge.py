"""What becomes of a request: the gate's states and their transitions. Pure; docs/safety.md has the table.

What leaves `judge` is finite, of the arm's arity and inside position, velocity, acceleration, jerk, margin
and workspace limits, all at once. Non-finite or misshapen requests are latched faults, not clamped: a NaN
passes `max(min(x, cap), -cap)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from contracts.messages import GateBit
from runtime.board import LoopState
from runtime.gate import motion, smooth
from runtime.gate.limits import LATCHED, GateLimits, GateState, Numbers, Verdict


def judge(
    limits: GateLimits,
    state: GateState,
    request: Sequence[float] | None,
    state_age_s: float = 0.0,
    frame_age_s: float = 0.0,
    refused: str = "",
    elapsed_s: float | None = None,
) -> tuple[GateState, Verdict]:
    """What becomes of a request for position targets; None asks for nothing, that is to hold. `refused`: why
    an action must not be followed though it is well formed (`wrong_origin`). `elapsed_s`: since the last
    request (None: a period)."""
    if state.mode in LATCHED:
        return latched(limits, state, state.mode, state.reason, 0)
    wrong, bit = _unlawful(limits, state, request)
    if wrong:
        return latched(limits, state, LoopState.FAULT, wrong, bit)
    old = "" if state_age_s <= limits.max_state_age_s else "joint readings"
    if not frame_age_s <= limits.max_frame_age_s:
        old += " and pictures" if old else "pictures"
    good = not (old or refused)
    since_s = limits.period_s if elapsed_s is None else elapsed_s
    stale_s = 0.0 if good else state.stale_s + since_s
    bits = (GateBit.STALE if old else 0) | (GateBit.FOREIGN if refused else 0)
    if stale_s > limits.stale_fault_s:
        what = f"{refused or f'{old} were old'} for {stale_s:.1f} s"
        return latched(limits, state, LoopState.FAULT, what, bits)
    wanted = request if good else None
    position, velocity, acceleration, shaped = _shape(limits, state, wanted)
    if wanted is None:
        bits |= GateBit.HELD
    after = GateState(
        mode=LoopState.HOLD if wanted is None else LoopState.RUNNING,
        position=position,
        velocity=velocity,
        stale_s=stale_s,
        reason=refused or (f"old {old}" if old else ""),
        acceleration=acceleration,
        request=() if wanted is None else tuple(wanted),
        resumable=state.resumable,
    )
    return after, Verdict(position, bits | shaped)


def _unlawful(
    limits: GateLimits, state: GateState, request: Sequence[float] | None
) -> tuple[str, int]:
    """What no gate in this state may follow, and its bit; empty if there is no such thing."""
    if state.mode is LoopState.INIT:
        return "the gate was not armed", 0
    if request is None:
        return "", 0
    if len(request) != len(limits.low):
        return f"action has {len(request)} entries, the arm {len(limits.low)}", GateBit.ARITY
    if not all(map(math.isfinite, request)):
        return "action holds NaN or infinity", GateBit.NON_FINITE
    return "" if state.resumable else "a request to an arm in hold that was not armed again", 0


def latched(
    limits: GateLimits, state: GateState, mode: LoopState, why: str, bit: int
) -> tuple[GateState, Verdict]:
    """FAULT or ESTOP from here on. In FAULT the command is the next pose of braking within limits; after an
    emergency stop nothing is commanded any more."""
    position, velocity, acceleration = state.position, state.velocity, state.acceleration
    if mode is LoopState.FAULT and any(velocity):
        position, velocity, acceleration, _ = _shape(limits, state, None)
    else:
        velocity = acceleration = (0.0,) * len(velocity)
    after = replace(
        state,
        mode=mode,
        position=position,
        velocity=velocity,
        acceleration=acceleration,
        request=(),
        reason=why,
        resumable=False,
    )
    return after, Verdict(position, bit | GateBit.HELD, why)


def _shape(
    limits: GateLimits, state: GateState, wanted: Sequence[float] | None
) -> tuple[Numbers, Numbers, Numbers, int]:
    if limits.jerk or limits.margin:
        return smooth.shape(limits, state, wanted)
    position, velocity, bits = motion.shape(limits, state, wanted)
    return position, velocity, (), bits
