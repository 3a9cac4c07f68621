"""What all connections to the operator's page share: the desk, the pictures, the feed. No HTTP."""

from __future__ import annotations

import json
import math
import threading
import time

from contracts.errors import EntracteError
from runtime.board import Board
from runtime.operator.commands import Answer, Command, Desk
from runtime.operator.feed import Feed
from runtime.operator.pictures import Pictures
from runtime.operator.status import Looker
from runtime.operator.turns import Sent, Turns
from runtime.run import Run
from runtime.teleoperation.page import JOG, HandPage

EVENTS_S = 0.2
MOST_VIEWERS = 16
ANSWER_S = 1.5
JOG_S = 0.25
TOO_LATE_S = 1.5
"""A page that has heard nothing for so long says "no connection", and has nothing done either: what a network
held up is sent on when it goes again, whoever has given it up or let go of the key long before."""
STOPPING = frozenset({Command.STOP, Command.PAUSE})
"""Never too late, nor overtaken: done whenever they come."""
_PUMP_S = 0.02
_KEPT = 32


class Hub:
    """Called from the threads of all connections; `forever` from one of its own."""

    def __init__(self, run: Run, board: Board) -> None:
        operator = run.config.operator
        self.run, self.board = run, board
        self.looker = Looker(run, board)
        self.pictures = Pictures(self.looker, operator.picture_rate_hz, operator.picture_width)
        self.feed = Feed(MOST_VIEWERS)
        self.stop = threading.Event()
        self._desk = Desk(board, "web", run.desk_path("web"))
        self._lock = threading.Condition()
        self._answers: dict[int, Answer] = {}
        self._page: HandPage | None = None
        self._turns = Turns()

    def ask(self, command: Command, sent: Sent | None) -> str:
        """Give a command and wait a moment for control's answer: "done", "refused" or "waiting". `sent`: None
        for one of `STOPPING` whose page says nothing. Raises `EntracteError`."""
        what, may_wait = command.name.lower().replace("_", " "), command in STOPPING
        if not may_wait:
            _require_in_time(sent, f"for '{what}'", "press it again")
        with self._lock:
            is_newer = sent is not None and self._turns.is_newer("command", sent)
            if not (is_newer or may_wait):
                raise EntracteError(
                    f"'{what}' came again, or after what was pressed later, and is not done",
                    remedy="press it again if it is still wanted",
                )
            number = self._desk.send(command)
            self._pump()
            self._lock.wait_for(lambda: number in self._answers, ANSWER_S)
            answer = self._answers.pop(number, None)
        return answer.name.lower() if answer else "waiting"

    def jog(self, shares: tuple[float, ...], sent: Sent) -> str:
        """Move joints for a moment: "done", or "overtaken" by a later one, and nothing is moved. Raises
        `EntracteError`."""
        _require_in_time(sent, "to move the arm", "hold the key again")
        with self._lock:
            if not self._turns.is_newer("jog", sent):
                return "overtaken"
            if self._page is None:
                self._page = HandPage.open(self.run.hand_path("web"))
            now_s = time.monotonic()
            self._page.write(JOG, shares, now_s, now_s + JOG_S)
        return "done"

    def event(self, name: str = "status", seconds: float = 3.0) -> bytes:
        """Everything as one server-sent event; signals of the last seconds, so that one that was dropped
        leaves no gap."""
        status = self.looker.look() | {
            "robot_s": time.monotonic(),
            "signals": self.looker.recent(seconds),
            "viewers": self.feed.viewers,
            "viewer_events_dropped": self.feed.dropped,
            "viewer_pictures_skipped": self.pictures.skipped,
        }
        return f"event: {name}\ndata: {json.dumps(status, allow_nan=False)}\n\n".encode()

    def forever(self) -> None:
        """Look and tell, until the end; the last event says how it ended."""
        due_s = time.monotonic()
        while not self.stop.wait(_PUMP_S):
            with self._lock:
                self._pump()
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + EVENTS_S
                self.feed.publish(self.event())
        self.feed.publish(self.event("ended"))

    def close(self) -> None:
        self._desk.close()

    def _pump(self) -> None:
        """Post what waits and hand out the answers that came, whoever asked. With the lock held."""
        for answered in self._desk.pump():
            self._answers = dict(list(self._answers.items())[1 - _KEPT :])
            self._answers[answered.number] = answered.answer
            self._lock.notify_all()


def _require_in_time(sent: Sent | None, what: str, remedy: str) -> None:
    age_s = time.monotonic() - sent.heard_s if sent else math.inf
    if not age_s <= TOO_LATE_S:
        raise EntracteError(
            f"this came too late {what}",
            expected=f"from a page that heard of the robot within {TOO_LATE_S:g} s",
            found=f"{age_s:.1f} s ago"
            if sent and sent.heard_s > 0
            else "one that has heard nothing yet",
            remedy=f"{remedy} once the page is connected",
        )
