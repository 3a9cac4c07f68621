"""The watchdog process: sees that the control loop lives, and puts the arm in hold when it doesn't.

`python -m runtime.watchdog --run-dir <dir>`. Watches the loop's signs of life and the process itself; on a
stall or a death it takes the lease and holds the arm through a connection of its own. Latched: it keeps
the arm until `robot-run` ends. Imports neither OpenCV nor an inference runtime.
"""

from __future__ import annotations

import argparse
import math
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from contracts.errors import EntracteError
from runtime.arms import open_arm
from runtime.board import Board, LoopState, Owner, TripReason
from runtime.config import Run
from runtime.gate import Gate, limits_of
from runtime.priority import Rank, run_first

PERIOD_S = 0.004
LATE_S = 0.004
SECOND_LOOK_S = 0.012
"""When the watchdog itself was kept from running, so was perhaps the loop (in a virtual machine that its
host stops, say). What the watchdog lost is added to the loop's time, up to an allowance; and a verdict that
falls on a late look is put off, once, by this. Hold comes at most their sum later."""
_RETRY_S = 0.01


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
        self._board = board
        arm = open_arm(run, "watchdog")
        limits = limits_of(arm.spec(), config.gate, config.loop.rate_hz)
        self._gate = Gate(arm, limits, board, Owner.WATCHDOG, config.loop.lease_s)
        self._pulse = Pulse(
            config.loop.watchdog_timeout_s,
            config.loop.pause_allowance_s,
            1.0 / config.loop.rate_hz,
            time.monotonic(),
        )
        self._process = -1

    def forever(self, stop: threading.Event) -> None:
        self._board.watchdog_ready = 1
        while not stop.is_set():
            died = self._wait()
            now_s = time.monotonic()
            self._board.watchdog_beat_s = now_s
            reason = self.check(now_s, died)
            if reason:
                self._trip(reason, now_s)
                stop.wait()
                return
            if died:
                stop.wait(PERIOD_S)  # control left in good order or never had the arm

    def check(self, now_s: float, died: bool) -> TripReason:
        """Why the arm must be taken now, if it must. A loop that has not armed yet, or has handed the
        lease back, isn't watched."""
        board = self._board
        watched = board.lease_owner == Owner.CONTROL
        stalled = self._pulse.stalled(now_s, board.tick, board.beats, watched)
        if board.lease_owner != Owner.CONTROL or board.loop_state == LoopState.DONE:
            return TripReason.NONE
        if died:
            return TripReason.CONTROL_DIED
        return TripReason.TICK_STALLED if stalled else TripReason.NONE

    def close(self) -> None:
        if self._process >= 0:
            os.close(self._process)
        self._gate.arm.close()  # the lease stays ours: nobody takes the arm again in this run

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

    def _trip(self, reason: TripReason, now_s: float) -> None:
        board = self._board
        board.watchdog_tripped_at_s = now_s
        while True:
            try:
                held = self._gate.seize(time.monotonic())
            except EntracteError:
                held = False  # the other side renewed in this very moment: again
            if held:
                break
            time.sleep(_RETRY_S)
        board.watchdog_held_at_s = time.monotonic()
        board.watchdog_tripped = int(reason)
        print(
            f"watchdog: {reason.name.lower().replace('_', ' ')} at {now_s:.3f} s, "
            f"{(now_s - self._pulse.alive_s) * 1e3:.1f} ms after the last sign of life (this process was "
            f"{self._pulse.late_s * 1e3:.1f} ms late); the arm is in hold "
            f"{(board.watchdog_held_at_s - now_s) * 1e3:.1f} ms after that was seen",
            file=sys.stderr,
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="runtime.watchdog", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    run = Run.load(parser.parse_args().run_dir)
    stop = threading.Event()
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
    sys.exit(main())
