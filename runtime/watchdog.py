"""The watchdog process: sees that the control loop lives, and puts the arm in hold when it doesn't.

`python -m runtime.watchdog --run-dir <dir>`. Watches the loop's signs of life and the process itself; on a
stall, a death or a stop that control could not carry out it takes the lease and holds the arm through a
connection of its own, reads back whether the arm stands, and dumps the black box. Latched: it keeps the arm
until `robot-run` ends. Imports neither OpenCV nor an inference runtime.
"""

from __future__ import annotations

import math
import os
import select
import signal
import sys
import threading
import time

from contracts.errors import DeviceError, EntracteError
from contracts.files.stop_event import StopEvent
from runtime.arms import ArmState, open_arm
from runtime.blackbox.dump import dump
from runtime.board import Board, LoopState, Owner, StopCheck, TripReason
from runtime.gate.gate import Gate, limits_of
from runtime.run import Run, run_of_process
from runtime.standstill import Finding, Standstill
from runtime.system.log import log_without_errors
from runtime.system.priority import Rank, run_first

PERIOD_S = 0.004
LATE_S = 0.004
SECOND_LOOK_S = 0.012
"""When the watchdog itself was kept from running, so was perhaps the loop (in a virtual machine that its
host stops, say). What the watchdog lost is added to the loop's time, up to an allowance; and a verdict that
falls on a late look is put off, once, by this. Hold comes at most their sum later."""
STOP_PATIENCE_S = 0.05
"""How long control may take from latching a fault, or from the last command of braking that the arm
acknowledged, to its next acknowledgement; braking goes by the tick, so there a tick more."""
_RETRY_S = 0.01
_SAY_AFTER_S = 0.5
"""An arm that has not acknowledged hold by then is reported; the attempts go on."""
_LOOK_S = 0.01
_DUMP_AFTER_S = 3.0


class Pulse:
    """Whether a loop lives, from its counters and the time at which they were looked at."""

    def __init__(self, timeout_s: float, allowance_s: float, period_s: float, now_s: float) -> None:
        self._timeout_s, self._allowance_s, self._period_s = timeout_s, allowance_s, period_s
        self._tick = self._beats = -1
        self._ticked_s = self._looked_s = self.alive_s = now_s
        self._verdict_from_s = math.inf
        self._lost_s = 0.0
        self.late_s = 0.0

    def stalled(self, now_s: float, tick: int, beats: int, watched: bool = True) -> bool:
        """No sign of life for the timeout; or beats, but no tick for that and two periods of the loop.
        Beats prove that the loop outlived a pause, so the watchdog's own is taken off that second time."""
        self.late_s, self._looked_s = max(0.0, now_s - self._looked_s - PERIOD_S), now_s
        self._ticked_s += self.late_s
        self._lost_s += self.late_s
        ticked = tick != self._tick or not watched
        if ticked:
            self._ticked_s = now_s
        if ticked or beats != self._beats:
            self.alive_s, self._verdict_from_s, self._lost_s = now_s, math.inf, 0.0
        self._tick, self._beats = tick, beats
        silent = now_s - self.alive_s > self._timeout_s + min(self._lost_s, self._allowance_s)
        if not silent and now_s - self._ticked_s <= self._timeout_s + 2 * self._period_s:
            return False
        patience_s = SECOND_LOOK_S if self.late_s > LATE_S else 0.0
        self._verdict_from_s = min(self._verdict_from_s, now_s + patience_s)
        return now_s >= self._verdict_from_s


class Watchdog:
    """Judges in `check`; `forever` is the loop around it."""

    def __init__(self, run: Run, board: Board) -> None:
        config = run.config
        self._run, self._board = run, board
        arm = open_arm(run, "watchdog")
        self._names = arm.spec().names
        limits = limits_of(arm.spec(), config.gate, config.loop.rate_hz)
        self._gate = Gate(arm, limits, board, Owner.WATCHDOG, config.loop.lease_s)
        self._timeout_s = config.loop.watchdog_timeout_s
        self._pulse = Pulse(
            self._timeout_s,
            config.loop.pause_allowance_s,
            1.0 / config.loop.rate_hz,
            time.monotonic(),
        )
        self._braking_patience_s = STOP_PATIENCE_S + (
            2.0 / config.loop.rate_hz if config.pace == "realtime" else self._timeout_s
        )
        self._process = -1
        self._asked_s = math.inf
        """When an emergency stop was first seen that control had not carried out."""

    def forever(self, stop: threading.Event) -> None:
        self._board.watchdog_ready = 1
        while not stop.is_set():
            died = self._wait()
            now_s = time.monotonic()
            self._board.watchdog_beat_s = now_s
            reason = self.check(now_s, died)
            if reason:
                self._trip(reason, now_s, stop)
                stop.wait()
                return
            if self._stop_is_over(now_s, died):
                dump(self._run, self._board, "watchdog")
                stop.wait()
                return
            if died:
                stop.wait(PERIOD_S)  # control left in good order or never had the arm

    def check(self, now_s: float, died: bool) -> TripReason:
        """Why the arm must be taken now, if it must. A loop that has not armed yet, or has handed the
        lease back, isn't watched; a fault whose stop the arm did not acknowledge is nobody's but ours."""
        board = self._board
        watched = board.lease_owner == Owner.CONTROL
        stalled = self._pulse.stalled(now_s, board.tick, board.beats, watched)
        if self._stop_failed(now_s):
            return TripReason.STOP_FAILED
        if not watched or board.loop_state == LoopState.DONE:
            return TripReason.NONE
        if died:
            return TripReason.CONTROL_DIED
        if self._unserved(now_s):
            return TripReason.ESTOP_UNSERVED
        return TripReason.TICK_STALLED if stalled else TripReason.NONE

    def close(self) -> None:
        if self._process >= 0:
            os.close(self._process)
        self._gate.arm.close()  # the lease stays ours: nobody takes the arm again in this run

    def _stop_failed(self, now_s: float) -> bool:
        board = self._board
        braking_s = board.braking_at_s
        patience_s = self._braking_patience_s if braking_s else STOP_PATIENCE_S
        return (
            board.loop_state in (LoopState.FAULT, LoopState.ESTOP)
            and board.lease_epoch > 0  # control had the arm once
            and board.stopped_at_s > 0.0
            and board.held_at_s == 0.0
            and now_s - max(board.stopped_at_s, braking_s) > patience_s
        )

    def _unserved(self, now_s: float) -> bool:
        if not self._board.estop_requested or self._board.loop_state == LoopState.ESTOP:
            self._asked_s = math.inf
            return False
        self._asked_s = min(self._asked_s, now_s)
        return now_s - self._asked_s > self._timeout_s

    def _stop_is_over(self, now_s: float, died: bool) -> bool:
        """Control latched a fault, and what it had to say of it is in the box."""
        board = self._board
        stopped = board.loop_state in (LoopState.FAULT, LoopState.ESTOP) and board.stopped_at_s
        if not stopped or not board.lease_epoch:
            return False
        if board.stop_check or (died and board.held_at_s):  # gone and not held: ours in a moment
            return True
        # It may brake for long: until that is over its stop may still fail.
        return now_s - max(board.stopped_at_s, board.braking_at_s) > _DUMP_AFTER_S

    def _wait(self) -> bool:
        """One period, cut short by the death of control; returns whether it is dead."""
        if self._process < 0 and self._board.control_pid:
            try:
                self._process = os.pidfd_open(self._board.control_pid)
            except OSError:
                time.sleep(PERIOD_S)
                return True
        if self._process < 0:
            time.sleep(PERIOD_S)
            return False
        ready, _, _ = select.select([self._process], [], [], PERIOD_S)
        return bool(ready)

    def _trip(self, reason: TripReason, now_s: float, stop: threading.Event) -> None:
        board = self._board
        board.watchdog_tripped_at_s = now_s
        held = False
        dumping: threading.Thread | None = None
        while not held and not stop.is_set():
            try:
                held = self._gate.seize(time.monotonic())
            except EntracteError:
                held = False  # the other side renewed in this very moment: again
            if not held and not board.watchdog_tripped and time.monotonic() > now_s + _SAY_AFTER_S:
                board.watchdog_tripped = int(reason)
                board.stop_check = int(StopCheck.UNREADABLE)
                what = "the arm does NOT acknowledge hold; going on trying"
                print(f"watchdog: {_word(reason)}: {what}", file=sys.stderr, flush=True)
                # A disk may take its time: the next attempt doesn't wait for it.
                about = (self._run, board, "watchdog", (), what)
                dumping = threading.Thread(target=dump, args=about)
                dumping.start()
            if not held:
                stop.wait(_RETRY_S)
        if held:
            board.watchdog_held_at_s = time.monotonic()
            board.watchdog_tripped = int(reason)
            print(
                f"watchdog: {_word(reason)} at {now_s:.3f} s, "
                f"{(now_s - self._pulse.alive_s) * 1e3:.1f} ms after the last sign of life (this process "
                f"was {self._pulse.late_s * 1e3:.1f} ms late); the arm is in hold "
                f"{(board.watchdog_held_at_s - now_s) * 1e3:.1f} ms after that was seen",
                file=sys.stderr,
                flush=True,
            )
            after, found = self._look_back()
        if dumping is not None:
            dumping.join()
        if held:
            dump(self._run, board, "watchdog", after, found.note)

    def _look_back(self) -> tuple[list[ArmState], Finding]:
        """Read from the arm whether it stands, and say so on the board and on stderr."""
        board, within_s = self._board, self._run.config.gate.standstill_s
        after: list[ArmState] = []
        check: Standstill | None = None
        found: Finding | None = None
        while found is None:
            try:
                reading = self._gate.arm.read()
                # The arm's own clock: in `asap` pace time may stand still for good.
                check = check or Standstill(self._names, reading.at_s, within_s)
                after.append(reading)
                found = check.add(reading)
            except DeviceError as error:
                check = check or Standstill(self._names, time.monotonic(), within_s)
                found = check.lost(time.monotonic(), error)
            found = found or check.silent(time.monotonic() - board.watchdog_held_at_s)
            time.sleep(_LOOK_S)
        board.still_at_s = found.still_at_s
        board.stop_check = int(found.check)
        print(f"watchdog: {found.note}", file=sys.stderr, flush=True)
        return after, found


def _word(reason: TripReason) -> str:
    return reason.name.lower().replace("_", " ")


def main() -> int:
    run = run_of_process("runtime.watchdog")
    stop = StopEvent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Board.open(run.board_path) as board:
            watchdog = Watchdog(run, board)
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            if run.config.pace == "realtime":
                run_first(Rank.WATCHDOG)
            try:
                watchdog.forever(stop)
            finally:
                watchdog.close()
    except EntracteError as error:
        print(f"watchdog: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    log_without_errors()
    sys.exit(main())
