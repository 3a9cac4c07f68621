"""The watchdog process: sees that the control loop lives, and puts the arm in hold when it doesn't.

`python -m runtime.watchdog --run-dir <dir>`. Watches the tick counter and the process itself; on a stall
or a death it takes the lease and holds the arm through a connection of its own. Latched: it keeps the
arm until `robot-run` ends. Imports neither OpenCV nor an inference runtime.
"""

from __future__ import annotations

import argparse
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
from runtime.priority import run_first

PERIOD_S = 0.004
_RETRY_S = 0.01


class Watchdog:
    """Judges in `check`; `forever` is the loop around it."""

    def __init__(self, run: Run, board: Board) -> None:
        config = run.config
        self._board = board
        self._timeout_s = config.loop.watchdog_timeout_s
        arm = open_arm(run, "watchdog")
        limits = limits_of(arm.spec(), config.gate, config.loop.rate_hz)
        self._gate = Gate(arm, limits, board, Owner.WATCHDOG, config.loop.lease_s)
        self._tick = -1
        self._tick_seen_s = time.monotonic()
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
        tick = board.tick
        if tick != self._tick or board.lease_owner != Owner.CONTROL:
            self._tick, self._tick_seen_s = tick, now_s
        if board.lease_owner != Owner.CONTROL or board.loop_state == LoopState.DONE:
            return TripReason.NONE
        if died:
            return TripReason.CONTROL_DIED
        if now_s - self._tick_seen_s > self._timeout_s:
            return TripReason.TICK_STALLED
        return TripReason.NONE

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
            f"watchdog: {reason.name.lower().replace('_', ' ')}; the arm is in hold "
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
                run_first()
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
