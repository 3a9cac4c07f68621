"""The process of a teleoperator: `python -m runtime.teleoperation.server --run-dir <dir>`.

Reads the device and writes its page; gives the commands of its buttons at a desk of its own. A device that is
lost is opened again, with pauses; the arm holds meanwhile, because its page grows old.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from contracts.errors import DeviceError, EntracteError
from contracts.specs import ActionSpec
from runtime.arms import Glitch
from runtime.board import Board
from runtime.operator.commands import Command, Desk
from runtime.operator.floor import Flag, read_phase
from runtime.operator.window import About, Window
from runtime.run import Run
from runtime.system.side_process import run_beside
from runtime.teleoperation import Reading, Teleoperator, open_teleoperator
from runtime.teleoperation.page import JOG, LEADER, HandPage

AGAIN_S = 1.0
JOG_S = 0.15
_LOOK_S = 0.05


class Hand:
    """One device at work."""

    def __init__(self, run: Run, board: Board, device: Teleoperator) -> None:
        self._board, self._device = board, device
        self._page = HandPage.open(run.hand_path("device"))
        self._desk = Desk(board, "device", run.desk_path("device"))
        self._patience_s = run.config.operator.leader_timeout_s

    def forever(self, stop: threading.Event) -> None:
        """Until `stop`. Raises `DeviceError` when the device is lost: at once, or after readings that failed
        for as long as the arm would follow the last one."""
        period_s = 1.0 / self._device.rate_hz
        due_s = read_s = time.monotonic()
        while not stop.is_set():
            try:
                self.take(self._device.read(), time.monotonic())
                read_s = time.monotonic()
            except Glitch:
                if time.monotonic() - read_s > self._patience_s:
                    raise
            self._desk.pump()
            due_s = max(due_s + period_s, time.monotonic())
            stop.wait(due_s - time.monotonic())

    def take(self, reading: Reading, now_s: float) -> None:
        """One reading to the page and to the desk."""
        if reading.targets is not None:
            self._page.write(LEADER, reading.targets, now_s, now_s)
        elif reading.shares is not None:
            self._page.write(JOG, reading.shares, now_s, now_s + JOG_S)
        for command in reading.commands:
            paused = Flag.PAUSED in read_phase(self._board)[1]
            again = command is Command.PAUSE and paused
            try:
                self._desk.send(Command.RESUME if again else command)
            except EntracteError as error:
                print(f"teleoperator: {error}", file=sys.stderr)

    def close(self) -> None:
        self._desk.close()
        self._device.close()


def spec_of(about: About) -> ActionSpec:
    """The arm's spec as far as a teleoperator needs it."""
    ones = (1.0,) * len(about.names)
    return ActionSpec(about.names, about.units, about.low, about.high, ones, ones, about.rate_hz)


def _await_robot(run: Run, stop: threading.Event) -> ActionSpec | None:
    """What control shows of its arm, once it has opened it: a first start may build engines for many minutes
    before. None: the run ended first."""
    while not stop.wait(_LOOK_S):
        with contextlib.suppress(EntracteError):
            return spec_of(Window.open(run.window_path).about())
    return None


def serve(run: Run, board: Board, stop: threading.Event) -> None:
    """Until `stop`; `EntracteError` for what waiting does not mend."""
    section = run.config.operator
    spec = _await_robot(run, stop)
    while spec is not None and not stop.is_set():
        hand: Hand | None = None
        try:
            device = open_teleoperator(section.teleoperator, section.teleoperator_options, spec)
            hand = Hand(run, board, device)
            hand.forever(stop)
        except DeviceError as error:
            print(f"teleoperator: {error}; trying again", file=sys.stderr, flush=True)
            stop.wait(AGAIN_S)
        finally:
            if hand is not None:
                hand.close()


if __name__ == "__main__":
    sys.exit(run_beside("teleoperator", "runtime.teleoperation.server", serve))
