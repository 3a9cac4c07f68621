"""The gate: the only code that may command the arm. Holds the arm and the lease; `gate_judge` judges.

Owns the latched fault and what the board says of it. Each tick it also proves that braking from there stays
inside every limit, so the next tick always has a lawful answer. This is not a certified safety function; keep
the emergency stop at hand. docs/safety.md has the states, the causes and what each leads to.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from contracts.errors import DeviceError, EntracteError, GateFault
from contracts.messages import GateBit
from contracts.specs import is_gripper
from runtime.arms import Arm, ArmState
from runtime.board import Board, LoopState, Owner, StopCheck
from runtime.gate.judge import judge, latched
from runtime.gate.limits import (
    LATCHED,
    GateLimits,
    GateState,
    InForce,
    Numbers,
    Origin,
    Verdict,
    arm_at,
    limits_of,
    wrong_origin,
)

__all__ = [
    "Gate",
    "GateLimits",
    "GateState",
    "InForce",
    "Numbers",
    "Origin",
    "Verdict",
    "arm_at",
    "judge",
    "limits_of",
]
_QUIET_LOOK_S = 0.02
_SECOND_LOOK_S = 0.2
"""A machine that stood still as a whole: its watchdog gets so long to be heard again."""
OPERATOR_STOP = "emergency stop: asked for by a person"
_TAKEN = "the watchdog has taken the arm"


class Gate:
    """Holds the arm and the lease. Control arms it and sends requests; the watchdog only `seize`s it.

    Owns: the arm connection, the latched fault. Doesn't own: what to ask for, when, or what a fault
    means for the episode.
    """

    def __init__(
        self,
        arm: Arm,
        limits: GateLimits,
        board: Board,
        owner: Owner,
        lease_s: float,
        *,
        now: Callable[[], float] | None = None,
        watchdog_silent_s: float = math.inf,
    ) -> None:
        """`now`: the loop's clock, for how long readings have been old (None: a period a command).
        `watchdog_silent_s`: a watchdog without a sign of life for longer is a fault."""
        self.arm, self.limits = arm, limits
        self._board, self._owner, self._lease_s = board, owner, lease_s
        self._now, self._commanded_s, self._written_s = now, math.nan, 0.0
        self._watchdog_silent_s, self._alone_from_s = watchdog_silent_s, math.nan
        self._epoch = 0
        self._force: InForce | None = None
        self._held = self._powering = False
        self.state = GateState()
        self.refusals = 0
        """Actions of another origin than the one in force, since the start."""

    @property
    def faulted(self) -> bool:
        """Latched, in FAULT or ESTOP."""
        return self.state.mode in LATCHED

    @property
    def moving(self) -> bool:
        """Whether braking within limits has something left to do, and can."""
        return (
            not self._held
            and any(self.state.velocity)
            and self._board.holds_lease(self._owner, self._epoch)
        )

    # -- before moving

    def require_quiet(
        self,
        for_s: float,
        units: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Watch an arm that nobody here commands yet. Raises `GateFault` naming the joint that moves."""
        names = self.arm.spec().names
        first = self.arm.read().positions
        until_s = now() + for_s
        while now() < until_s:
            sleep(_QUIET_LOOK_S)
            moved = np.abs(self.arm.read().positions - first)
            joint = int(np.argmax(moved))
            if not moved[joint] <= units:
                raise GateFault(
                    f"the arm moves though nothing here commands it: {names[joint]}",
                    expected=f"at most {units:g} in {for_s:g} s",
                    found=f"{float(moved[joint]):.1f}",
                    remedy="stop the other controller (or let the arm come to rest) and start again",
                )

    def take_arm(self) -> None:
        """Become the one writer. Raises `EntracteError` if somebody else is."""
        self._epoch = self._board.take_lease(self._owner, time.monotonic(), self._lease_s)
        self.arm.take(self._epoch)

    def power(self) -> bool:
        """Power the motors of the arm that was taken. May take longer than the watchdog waits, so the caller
        goes on with `rest` in another thread, which leaves the arm's connection alone until this is over.
        False: a stop was asked for or a fault latched, before or meanwhile: the caller's to carry out. Raises
        `DeviceError`."""
        self._powering = (
            True  # first: whoever asks for a stop from here on is seen below, or by `rest`
        )
        try:
            if self._stop_asked():
                return False
            self.arm.enable()
        except DeviceError:
            if self._stop_asked():
                return False
            raise
        finally:
            self._powering = False
        return not self._stop_asked()

    def prepare(self, reading: ArmState, age_s: float = 0.0) -> None:
        """ARMED at this reading, `age_s` old: before the first episode, and after somebody else moved the
        arm. Starts from the targets that the arm has, where it stands at them: the first command then moves
        nothing, and a closed gripper keeps its grip. A latched fault stays. Raises `GateFault`."""
        if self.faulted:
            raise GateFault("the gate is latched", found=self.state.reason, remedy="start again")
        if not age_s <= self.limits.max_state_age_s:
            raise GateFault(
                "the arm's pose is not known",
                expected=f"a reading at most {self.limits.max_state_age_s:g} s old",
                found=f"{age_s:.2f} s",
                remedy="see that the arm answers, and start again",
            )
        aims = reading.targets if reading.torque else None
        grippers = tuple(map(is_gripper, self.arm.spec().names))
        self.state = arm_at(
            self.limits, reading.positions.tolist(), () if aims is None else aims.tolist(), grippers
        )
        self._force, self._held, self._commanded_s = None, False, math.nan

    def begin_episode(self, episode: int, policy_version: int) -> None:
        """From here on only actions computed in this episode, with these weights, are followed."""
        self._force = InForce(episode, policy_version)

    # -- a tick

    def command(
        self,
        request: Sequence[float] | None,
        state_age_s: float,
        frame_age_s: float,
        origin: Origin | None = None,
        at_s: float = 0.0,
    ) -> Verdict:
        """Judge and write. Never raises: what goes wrong is a latched fault and the arm in hold. `origin` of
        a policy's action (None: a person's or the bench's), `at_s`: now, on its clock."""
        if self._board.estop_requested and self.state.mode is not LoopState.ESTOP:
            self.estop(OPERATOR_STOP)
        self._require_watchdog()
        if self.faulted:
            return self._go_on_stopping()
        refused = self._refusal(request, origin, at_s)
        self.state, verdict = judge(
            self.limits, self.state, request, state_age_s, frame_age_s, refused, self._elapsed_s()
        )
        if verdict.fault:
            self._note_stop()
            self._finish_stop(verdict)
            return verdict
        self._write(verdict)
        if self.faulted:
            return Verdict(self.state.position, verdict.bits | GateBit.HELD, self.state.reason)
        if origin is not None and request is not None and not refused and self._force is not None:
            self._force = replace(self._force, chunk=origin.chunk)
        return verdict

    def brake(self) -> Verdict:
        """A tick of coming to rest within limits; call it while `moving`."""
        return self.command(None, 0.0, 0.0)

    def rest(self) -> bool:
        """A tick without a command (between episodes, the arm in hold): keeps the lease. False: lost, or an
        emergency stop was asked for."""
        if self._powering:  # a stop is carried out right after, and meanwhile by the watchdog
            return self._board.renew_lease(
                self._owner, self._epoch, time.monotonic(), self._lease_s
            )
        if self._board.estop_requested and self.state.mode is not LoopState.ESTOP:
            self.estop(OPERATOR_STOP)
        self._require_watchdog()
        renewed = self._board.renew_lease(self._owner, self._epoch, time.monotonic(), self._lease_s)
        if not renewed and not self.faulted:
            self._lose(_TAKEN)
        return renewed and self.state.mode is not LoopState.ESTOP

    # -- stops

    def hold(self, reason: str) -> None:
        """Stop where the arm stands; no fault unless it was taken away. The next episode needs `prepare`."""
        if self._epoch and not (self.faulted or self._board.holds_lease(self._owner, self._epoch)):
            self._lose(_TAKEN)
            return
        self._stop()
        if not self.faulted:
            still = (0.0,) * len(self.state.velocity)
            self.state = replace(
                self.state,
                mode=LoopState.HOLD,
                velocity=still,
                acceleration=still,
                reason=reason,
                resumable=False,
            )

    def fault(self, reason: str) -> None:
        """Latch a fault that was found elsewhere (a policy that failed, a lost camera). An arm that moves
        brakes within limits from the next `command` or `brake` on, which must follow, or stops at `hold`."""
        if self.faulted:
            return
        self.state = replace(
            self.state, mode=LoopState.FAULT, request=(), reason=reason, resumable=False
        )
        self._note_stop()
        if any(self.state.velocity):
            # The watchdog waits for the next one from here.
            self._board.braking_at_s = self._written_s
        else:
            self._stop()

    def estop(self, reason: str) -> None:
        """Latch an emergency stop: the arm stops where it stands, at once and not along braking's path."""
        if self.state.mode is LoopState.ESTOP:
            return
        if self.faulted:
            reason = f"{reason}, after a fault: {self.state.reason}"
        self.state, _ = latched(self.limits, self.state, LoopState.ESTOP, reason, 0)
        self._note_stop()
        self._stop()

    def seize(self, now_s: float) -> bool:
        """Watchdog: take the lease, whoever had it, and put the arm in hold. False: no hold from the arm.

        The new epoch fences off whatever the old owner still sends.
        """
        self._board.lease_expiry_s = -math.inf
        self._epoch = self._board.take_lease(Owner.WATCHDOG, now_s, math.inf)
        try:
            self.arm.take(self._epoch)
            self.arm.hold()
        except EntracteError:
            return False
        return True

    def close(self) -> None:
        """The lease is given back only with the arm in hold: nobody watches it from then on."""
        if self._board.holds_lease(self._owner, self._epoch) and not self._held:
            self._stop()
        self._board.release_lease(self._owner)
        self.arm.close()

    # -- inside

    def _refusal(self, request: Sequence[float] | None, origin: Origin | None, at_s: float) -> str:
        if request is None or origin is None or self._force is None:
            return ""
        refused = wrong_origin(self._force, origin, at_s, self.limits.max_action_age_s)
        if refused:
            self.refusals += 1
            self._board.gate_refusals += 1
        return refused

    def _stop_asked(self) -> bool:
        return bool(self._board.estop_requested or self._board.stop_requested or self.faulted)

    def _elapsed_s(self) -> float:
        """Since the last command, by the loop's clock: a tick that came late counts as long as it took."""
        if self._now is None:
            return self.limits.period_s
        now_s, before_s = self._now(), self._commanded_s
        self._commanded_s = now_s
        return self.limits.period_s if math.isnan(before_s) else max(0.0, now_s - before_s)

    def _require_watchdog(self) -> None:
        """A fault where nobody would stop the arm if this loop hung."""
        if self._watchdog_silent_s == math.inf or self.faulted:
            return
        now_s = time.monotonic()
        if now_s - self._board.watchdog_beat_s <= self._watchdog_silent_s:
            self._alone_from_s = math.nan
        elif math.isnan(self._alone_from_s):
            self._alone_from_s = now_s
        elif now_s - self._alone_from_s > _SECOND_LOOK_S:
            self.fault(f"the watchdog gave no sign of life for {self._watchdog_silent_s:g} s")

    def _go_on_stopping(self) -> Verdict:
        """Another tick after a latched fault: whatever is asked, braking goes on, then the arm holds."""
        before = self.state
        self.state, verdict = judge(self.limits, self.state, None)
        if not self._held:
            self._finish_stop(verdict if any(before.velocity) else Verdict(before.position))
        return verdict

    def _finish_stop(self, verdict: Verdict) -> None:
        """Write the next pose of braking; once nothing moves, or when it can't be written: hold."""
        if any(self.state.velocity) and self._written(verdict.command):
            self._board.braking_at_s = self._written_s
            return
        self._stop()

    def _write(self, verdict: Verdict) -> None:
        now_s = time.monotonic()
        if not self._board.renew_lease(self._owner, self._epoch, now_s, self._lease_s):
            self._lose(_TAKEN)
            return
        try:
            if not self._wrote(verdict.command):
                self._lose("the arm refused the command: it was taken, or went into hold by itself")
        except DeviceError as error:
            self._lose(str(error))

    def _written(self, command: Numbers) -> bool:
        if not self._board.renew_lease(self._owner, self._epoch, time.monotonic(), self._lease_s):
            return False
        try:
            return self._wrote(command)
        except DeviceError:
            return False

    def _wrote(self, command: Numbers) -> bool:
        if not self.arm.write(np.array(command, np.float64)):
            return False
        self._written_s = time.monotonic()
        return True

    def _lose(self, why: str) -> None:
        """A fault in which braking along its path is not ours to do any more."""
        still = (0.0,) * len(self.state.velocity)
        self.state = replace(self.state, velocity=still, acceleration=still)
        self.state, _ = latched(self.limits, self.state, LoopState.FAULT, why, 0)
        self._note_stop()
        self._stop()

    def _note_stop(self) -> None:
        board = self._board
        self._held = False
        if board.watchdog_tripped_at_s:
            return  # the arm is the watchdog's, and so is what is said of its stop
        # A later, graver stop counts from its own time.
        board.stopped_at_s, board.held_at_s, board.still_at_s = time.monotonic(), 0.0, 0.0
        board.braking_at_s = 0.0
        board.stop_check = int(StopCheck.PENDING)
        board.loop_state = int(self.state.mode)

    def _stop(self) -> None:
        # Not ours any more: the watchdog holds the arm, and a hold of ours could only disturb it.
        still = (0.0,) * len(self.state.velocity)
        self.state = replace(self.state, velocity=still, acceleration=still)
        self._held = True
        if self._board.holds_lease(self._owner, self._epoch):
            try:
                self.arm.hold()
            except DeviceError as error:
                self._board.braking_at_s = 0.0  # nothing more will come of it
                if not self.faulted:
                    self.state, _ = latched(self.limits, self.state, LoopState.FAULT, str(error), 0)
                    self._note_stop()
                    self._held = True
                return
            if self.faulted and not self._board.held_at_s:
                self._board.held_at_s = time.monotonic()
