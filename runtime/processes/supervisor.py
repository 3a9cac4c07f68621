"""Starts the robot's processes, watches them, stops them in order, cleans up and reports.

Owns processes, the shared-memory folder and the exit report; knows nothing of episodes. Ctrl-C at any
moment: the loop finishes its tick and holds, recordings are completed, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.lock import FolderLock
from runtime import cautions
from runtime.blackbox.dump import cause_of, dump
from runtime.board import Board, LoopState, Owner, StopCheck
from runtime.cameras.report import away
from runtime.config import RobotConfig
from runtime.operator.attend import PAGE_FILE, Attendance, say
from runtime.operator.status import last_words
from runtime.processes.children import IN_ORDER, Child, children_of
from runtime.processes.run_report import robot_report
from runtime.processes.stop_report import how_it_stopped
from runtime.ring import Ring
from runtime.run import EXIT_FILE, LOOP_FILE, Run, RunPlan, forget_the_killed, new_shm_dir
from runtime.system.interrupts import Handlers, put_back, when_asked_to_end

_POLL_S = 0.02
_AFTER_TRIP_S, _AFTER_INTERRUPT_S = 15.0, 30.0
"""How long control may take to end by itself, then it is killed: the arm is in hold, or nobody holds it."""
_AFTER_END_S = 330.0
"""The same once its loop is over: longer than any job of its last boundary may take
(`runtime.control.resting`). What may hang then is an engine that is closed, or a reader of the ring."""
_OVER = (LoopState.FAULT, LoopState.ESTOP, LoopState.DONE)
_STOP_S = 10.0
_DRAIN_S = 30.0
_MAX_RESTARTS, _RESTARTS_WITHIN_S = 5, 60.0
_MEMORY_EVERY_S = 1.0
EXIT_INTERRUPTED = 130
EXIT_PROCESS_DIED = 4
EXIT_WRONG = 2


@dataclass
class Outcome:
    """How a run ended. `what`: one sentence, empty when all went well."""

    code: int
    what: str
    report: dict[str, Any] = field(default_factory=dict)


def new_session() -> str:
    """An id that no other start has."""
    return f"{int(time.time()):x}-{secrets.token_hex(3)}"


@contextlib.contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """One start at a time in a run folder (made if need be): a second would take the slots, and the
    description of what is started again, from the robot that acts. Raises `EntracteError`. The system lets
    go of it when this process ends, however it does."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(run_dir, "robot-run", "robot.lock")  # a trainer may have its own beside it
    try:
        yield
    finally:
        lock.release()


def make_run(config: RobotConfig, plan: RunPlan, run_dir: Path, session: str = "") -> Run:
    """A new start in `run_dir` (created if need be), with shared memory of its own. `session`: which it is
    part of, with others in folders of other names; empty for one of its own."""
    session_id = session or new_session()
    run_dir = run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    for left in (EXIT_FILE, LOOP_FILE, PAGE_FILE):
        (run_dir / left).unlink(missing_ok=True)
    run = Run(
        config=config,
        plan=plan,
        run_dir=str(run_dir),
        shm_dir=str(new_shm_dir(f"{session}-{run_dir.name}" if session else session_id)),
        session_id=session_id,
    )
    run.save()
    return run


class Supervisor:
    """`with Supervisor(run) as robot: robot.wait()`; leaving the block stops everything."""

    def __init__(self, run: Run, *, signals: bool = True) -> None:
        """`signals`: Ctrl-C is its own to handle; else whoever started it calls `interrupt`."""
        self.run = run
        self._signals = signals
        self.board = Board.create(run.board_path)
        self._ring = (
            Ring.create(run.ring_path, run.ring_bytes()) if run.plan.sink != "none" else None
        )
        self.started_s = time.monotonic()
        self.interrupted = False
        self._interrupted_s = self._over_s = math.inf
        self._handlers: Handlers = {}
        self._memory_at_s = 0.0
        self._what = ""
        self._without: set[str] = set()
        self._cautioned = False
        self.say = say
        self.children = children_of(run)

    def __enter__(self) -> Supervisor:
        # Everything that must be undone happens after this point.
        if self._signals and threading.current_thread() is threading.main_thread():
            self._handlers = when_asked_to_end(self._interrupt)
        try:
            for child in self.children:
                self._start(child)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def child(self, name: str) -> Child:
        return next(child for child in self.children if child.name == name)

    def wait(self, watch: Callable[[Board], None] = lambda board: None) -> Outcome:
        """Until control ends; `watch` is called with the board some times a second."""
        while (outcome := self.poll()) is None:
            watch(self.board)
            time.sleep(_POLL_S)
        watch(self.board)
        return outcome

    def poll(self) -> Outcome | None:
        """Look after the processes; None while control goes on."""
        control = self.child("control")
        if control.code is None:
            self._look_after()
            self._say_cautions()
            if not (hung := self._hung()):
                return None
            # Why it was to end comes first: that it then hung is news of the program, not of the arm.
            self._what = "; ".join(filter(None, (self._what or last_words(self.run), hung)))
            control.end(2.0, asked=False)
        return self._outcome(control.code or 0)

    def interrupt(self) -> None:
        """As Ctrl-C: control is asked to end, and killed where it doesn't in time."""
        self.interrupted = True
        self._interrupted_s = min(self._interrupted_s, time.monotonic())
        self.stop()

    def stop(self) -> None:
        """Ask control to hold and leave."""
        if self._what != "closed":  # Ctrl-C may come until the handlers are put back
            self.board.stop_requested = 1

    def close(self) -> None:
        """Stop what still runs, in order, and remove the shared memory. Safe to call twice."""
        if self._what == "closed":
            return
        self._measure_memory()
        self.stop()
        for name, patience_s in (
            ("control", _STOP_S),
            ("watchdog", 5.0),  # it may be reading back whether the arm stands
            ("recorder", _DRAIN_S),
            ("link", _DRAIN_S),
            *((f"camera-{name}", 2.0) for name in self.run.config.cameras),
            ("teleoperator", 2.0),
            ("viewer", 2.0),
            ("operator", 2.0),  # late: the page still says how it ended
            ("arm", 5.0),
            ("bench", 2.0),
        ):
            for child in self.children:
                if child.name == name:
                    child.end(patience_s, asked=name == "control")
        if not self.board.blackbox_dumps and self._ended_badly():
            dump(self.run, self.board, "supervisor")
        self._write_report()
        self._what = "closed"
        self.board.close()
        if self._ring is not None:
            self._ring.close()
        shutil.rmtree(self.run.shm_dir, ignore_errors=True)
        put_back(self._handlers)

    def seen_out(self, outcome: Outcome) -> Outcome:
        """`outcome` once all processes have ended (after `close`), with those that died when there was only
        left for them to bring the last episode to its end."""
        died = [
            (c.name, c.last_words(self.run)) for c in self.children if c.name in IN_ORDER and c.code
        ]
        new = [f"the {name} did not finish: {w}" for name, w in died if w not in outcome.what]
        if not new or outcome.code == EXIT_WRONG:
            return outcome
        code = outcome.code if outcome.code not in {0, EXIT_INTERRUPTED} else EXIT_PROCESS_DIED
        return Outcome(code, "; ".join(filter(None, (outcome.what, *new))), outcome.report)

    # -- inside

    def _ended_badly(self) -> bool:
        code = self.child("control").code
        return bool(self.board.lease_epoch and (cause_of(self.board) or (code and code < 0)))

    def _hung(self) -> str:
        """That control does not end though it must; empty while it may go on."""
        now_s, tripped_s = time.monotonic(), self.board.watchdog_tripped_at_s
        if self.board.loop_state in _OVER:
            self._over_s = min(self._over_s, now_s)
        if tripped_s and now_s - tripped_s > _AFTER_TRIP_S:
            return "control hangs and was killed"
        if now_s - self._interrupted_s > _AFTER_INTERRUPT_S:
            return (
                f"control did not end {_AFTER_INTERRUPT_S:g} s after the interrupt and was killed"
            )
        if now_s - self._over_s > _AFTER_END_S:
            return f"control did not end {_AFTER_END_S:g} s after its loop and was killed"
        return ""

    def _start(self, child: Child) -> None:
        if child.name == "link":
            self.board.link_ready = 0
        pid = child.start(self.run)
        if child.name == "control":
            self.board.control_pid = pid

    def _look_after(self) -> None:
        """Deaths: what may be restarted is, anything else stops the run."""
        now_s = time.monotonic()
        if now_s - self._memory_at_s > _MEMORY_EVERY_S:
            self._memory_at_s = now_s
            self._measure_memory()
        if self.board.stop_requested:
            return
        for child in self.children:
            if child.name == "control" or child.code is None:
                continue
            never = child.code == EXIT_WRONG  # it says that it could not begin
            recent_s = [s for s in child.restarted_s if now_s - s < _RESTARTS_WITHIN_S]
            if child.restart and len(recent_s) < _MAX_RESTARTS and not never:
                child.restarts, child.restarted_s = child.restarts + 1, [*recent_s, now_s]
                self._start(child)
                continue
            if child.optional:
                if child.name not in self._without:
                    self._without.add(child.name)
                    self.say(
                        f"the run goes on without its {child.name}: {child.last_words(self.run)}"
                    )
                continue
            self._what = self._what or child.last_words(self.run)  # of the first: others follow it
            self.stop()
            control = self.child("control").process
            if not self.board.lease_epoch and control is not None:
                control.kill()  # it may be waiting for the dead one, and has not touched the arm

    def _say_cautions(self) -> None:
        if not self._cautioned and (found := cautions.sentences(self.board)):
            self._cautioned = True
            for sentence in found:
                self.say(sentence)

    def _outcome(self, code: int) -> Outcome:
        board = self.board
        if board.watchdog_tripped_at_s or (code < 0 and board.lease_owner == Owner.CONTROL):
            self._await_watchdog()
        said = last_words(self.run)
        if self._what:
            what, code = self._what, EXIT_PROCESS_DIED if self.board.control_ready else EXIT_WRONG
        elif said:
            what = said
        elif code < 0:
            what, code = f"control was killed by signal {-code}", EXIT_PROCESS_DIED
        else:
            what = self.child("control").last_words(self.run) if code else ""
        what += how_it_stopped(board, told=bool(said and not self._what))
        if code and (lost := away(self.run)):
            what += f"; {lost}"
        if self.interrupted and code == 0:
            code, what = EXIT_INTERRUPTED, "interrupted"
        return Outcome(code, what, self.report())

    def _await_watchdog(self) -> None:
        """Until it has said what it did, and what it read back."""
        board, watchdog = self.board, self.child("watchdog")
        give_up_s = time.monotonic() + 1.0 + self.run.config.gate.standstill_s
        while time.monotonic() < give_up_s and watchdog.code is None:
            if board.watchdog_tripped and board.stop_check != StopCheck.PENDING:
                return
            time.sleep(0.005)

    def report(self) -> dict[str, Any]:
        """Of `run_report.json`."""
        board = self.board
        started_s = board.first_action_at_s - self.started_s
        return {
            **robot_report(self.run, board),
            "start_to_first_action_s": round(started_s, 3) if board.first_action_at_s else None,
            "rss_mb": {c.name: round(c.rss_peak / 1e6, 1) for c in self.children},
            "exit_codes": {c.name: c.code for c in self.children},
            "restarts": {c.name: c.restarts for c in self.children if c.restarts},
        }

    def _write_report(self) -> None:
        with contextlib.suppress(OSError):
            path = Path(self.run.run_dir) / "run_report.json"
            atomic.write_bytes(path, json.dumps(self.report(), indent=1).encode())

    def _measure_memory(self) -> None:
        for child in self.children:
            if child.process and child.code is None:
                with contextlib.suppress(psutil.Error):
                    rss = psutil.Process(child.process.pid).memory_info().rss
                    child.rss_peak = max(child.rss_peak, rss)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupt()


def supervise(
    config: RobotConfig,
    plan: RunPlan,
    run_dir: Path,
    watch: Callable[[Board], None] = lambda board: None,
    first: Callable[[], object] = lambda: None,
) -> Outcome:
    """Make a run, run it to its end, clean up; `first` before, when no other robot-run is at work in
    `run_dir`. Raises `EntracteError` if it could not even begin."""
    with alone_in(run_dir):
        first()
        forget_the_killed(run_dir)
        return _supervised(make_run(config, plan, run_dir), watch)


def _supervised(run: Run, watch: Callable[[Board], None]) -> Outcome:
    try:
        with Supervisor(run) as robot, Attendance(run, robot.board) as attend:

            def look(board: Board) -> None:
                attend()
                watch(board)

            outcome = robot.wait(look)
        outcome = robot.seen_out(outcome)
    except OSError as error:
        raise EntracteError(
            "the robot's processes can't be started or watched", found=str(error)
        ) from error
    finally:
        shutil.rmtree(run.shm_dir, ignore_errors=True)
    report = Path(run.run_dir) / "run_report.json"
    if report.exists():
        outcome.report = json.loads(report.read_text())
    return outcome
