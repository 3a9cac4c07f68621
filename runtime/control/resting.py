"""What takes its time while the arm is in hold: the loop goes on ticking. Owns no state of the robot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from contracts.errors import EntracteError
from runtime.control.robot import STOPPING_S, Robot
from runtime.system.priority import stand_back

T = TypeVar("T")
JOB_PATIENCE_S = 300.0
"""How long anything between two episodes may take: weights may have to be built for an accelerator."""
PAUSE_S = 0.002


class Resting:
    """`resting(job)` runs it in a thread of its own; `resting.until(...)` waits for something."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot

    def __call__(self, job: Callable[[], T], what: str = "what is done between episodes") -> T:
        """Do something slow while the loop goes on ticking in hold (in lockstep no time passes). Raises
        `EntracteError` if it hangs."""
        if self._robot.clock.lockstep:
            result = job()
            self._robot.rest()
            return result
        results: list[T] = []
        errors: list[Exception] = []

        def work() -> None:
            stand_back()
            try:
                results.append(job())
            except Exception as error:  # raised again below, in the loop's own thread
                errors.append(error)

        thread = threading.Thread(target=work, name="boundary", daemon=True)
        thread.start()
        give_up_s = time.monotonic() + JOB_PATIENCE_S
        while thread.is_alive():
            if not self._robot.rest() or self._robot.gate.faulted:
                give_up_s = min(give_up_s, time.monotonic() + STOPPING_S)
            if time.monotonic() > give_up_s:
                raise EntracteError(f"{what} hangs", remedy="see logs/control.log")
        if errors:
            raise errors[0]
        return results[0]

    def until(self, ready: Callable[[], bool], patience_s: float) -> bool:
        """Tick in hold until ready or out of patience (wall time); False: stop was asked for, the arm was
        lost, or a fault is latched."""
        give_up_s = time.monotonic() + patience_s
        while not ready() and time.monotonic() < give_up_s:
            if not self._robot.rest() or self._robot.gate.faulted:
                return False
            if self._robot.clock.lockstep:
                time.sleep(PAUSE_S)
        return True
