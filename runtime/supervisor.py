"""Starts the robot's processes, watches them, stops them in order, cleans up and reports.

Owns processes, the shared-memory folder and the exit report; knows nothing of episodes. Ctrl-C at any
moment: the loop finishes its tick and holds, recordings are completed, nothing is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from contracts.errors import EntracteError
from runtime.board import Board, LoopState, TripReason
from runtime.config import RobotConfig, Run, RunPlan, new_shm_dir
from runtime.ring import Ring

_POLL_S = 0.02
_STOP_S = 10.0
_DRAIN_S = 30.0
_MAX_RESTARTS = 5
_MEMORY_EVERY_S = 1.0
EXIT_INTERRUPTED = 130
EXIT_PROCESS_DIED = 4
EXIT_WRONG = 2

# One thread each for BLAS and friends: the loop's neighbours must not take its core. The memory of a picture
# is kept for the next one (glibc): mapped anew each time, it cost the link a quarter of its processor time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}

# Loaded before any fork.
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


@dataclass
class Child:
    """One process. `restart`: start it again when it dies (only what can lose nothing by it)."""

    name: str
    module: str
    restart: bool = False
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    rss_peak: int = 0

    @property
    def code(self) -> int | None:
        return self.process.poll() if self.process else None


@dataclass
class Outcome:
    """How a run ended. `what`: one sentence, empty when all went well."""

    code: int
    what: str
    report: dict[str, Any] = field(default_factory=dict)


def make_run(config: RobotConfig, plan: RunPlan, run_dir: Path) -> Run:
    """A new start in `run_dir` (created if need be), with its own session id and shared memory."""
    session_id = f"{int(time.time()):x}-{secrets.token_hex(3)}"
    run_dir = run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "control.exit.json").unlink(missing_ok=True)
    run = Run(
        config=config,
        plan=plan,
        run_dir=str(run_dir),
        shm_dir=str(new_shm_dir(session_id)),
        session_id=session_id,
    )
    run.save()
    return run


class Supervisor:
    """`with Supervisor(run) as robot: robot.wait()`; leaving the block stops everything."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.board = Board.create(run.board_path)
        self._ring = (
            Ring.create(run.ring_path, run.ring_bytes()) if run.plan.sink != "none" else None
        )
        self.started_s = time.monotonic()
        self.interrupted = False
        self._handlers: dict[int, Any] = {}
        self._memory_at_s = 0.0
        self._what = ""
        config, sink = run.config, run.plan.sink
        self.children = [
            *([Child("bench", "runtime.bench.server")] if config.bench.enabled else []),
            Child("control", "runtime.control"),
            Child("watchdog", "runtime.watchdog"),
            *([Child("link", "runtime.link", restart=True)] if sink == "link" else []),
            *([Child("recorder", "runtime.recorder")] if sink == "dataset" else []),
        ]

    def __enter__(self) -> Supervisor:
        # Everything that must be undone happens after this point.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._interrupt)
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
        control = self.child("control")
        while control.code is None:
            watch(self.board)
            self._look_after()
            time.sleep(_POLL_S)
        watch(self.board)
        return self._outcome(control.code)

    def stop(self) -> None:
        """Ask control to hold and leave."""
        self.board.stop_requested = 1

    def close(self) -> None:
        """Stop what still runs, in order, and remove the shared memory. Safe to call twice."""
        if self._what == "closed":
            return
        self._measure_memory()
        self.stop()
        for name, patience_s in (
            ("control", _STOP_S),
            ("watchdog", 2.0),
            ("recorder", _DRAIN_S),
            ("link", _DRAIN_S),
            ("bench", 2.0),
        ):
            for child in self.children:
                if child.name == name:
                    self._end(child, patience_s, asked=name == "control")
        self._write_report()
        self.board.close()
        if self._ring is not None:
            self._ring.close()
        shutil.rmtree(self.run.shm_dir, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._what = "closed"

    # -- inside

    def _start(self, child: Child) -> None:
        logs = Path(self.run.run_dir) / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{child.name}.log").open("ab") as log:
            child.process = subprocess.Popen(
                [sys.executable, "-m", child.module, "--run-dir", self.run.run_dir],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_ENVIRONMENT, **os.environ},
                # A group of its own: Ctrl-C reaches the supervisor alone, which then stops them in order.
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 one system call, no lock taken
            )
        if self.run.config.robot.nice:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, child.process.pid, self.run.config.robot.nice)
        if child.name == "control":
            self.board.control_pid = child.process.pid
        if child.name == "watchdog":
            self.board.watchdog_pid = child.process.pid

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
            if child.restart and child.restarts < _MAX_RESTARTS:
                child.restarts += 1
                self._start(child)
                continue
            self._what = self._last_words(child)
            self.stop()
            control = self.child("control").process
            if not self.board.control_ready and control is not None:
                control.kill()  # it may be waiting for the dead one, and has not touched the arm

    def _outcome(self, code: int) -> Outcome:
        tripped = TripReason(self.board.watchdog_tripped)
        path = Path(self.run.run_dir) / "control.exit.json"
        if self._what:
            what, code = self._what, EXIT_PROCESS_DIED if self.board.control_ready else EXIT_WRONG
        elif path.exists():
            what = str(json.loads(path.read_text())["what"])
        elif code < 0:
            what, code = f"control was killed by signal {-code}", EXIT_PROCESS_DIED
            if not tripped:
                self._await_trip()
                tripped = TripReason(self.board.watchdog_tripped)
        else:
            what = self._last_words(self.child("control")) if code else ""
        if tripped:
            what += f"; the watchdog put the arm in hold ({tripped.name.lower().replace('_', ' ')})"
        if self.interrupted and code == 0:
            code, what = EXIT_INTERRUPTED, "interrupted"
        return Outcome(code, what, self.report())

    def _await_trip(self) -> None:
        give_up_s = time.monotonic() + 1.0
        while not self.board.watchdog_tripped and time.monotonic() < give_up_s:
            time.sleep(0.005)

    def report(self) -> dict[str, Any]:
        board = self.board
        started_s = board.first_action_at_s - self.started_s
        return {
            "session_id": self.run.session_id,
            "state": LoopState(board.loop_state).name.lower(),
            "episodes": board.episodes_done,
            "ticks": board.tick,
            "loop_rate_hz": round(board.loop_rate_hz, 3),
            "lateness_p99_s": board.lateness_p99_s,
            "missed_ticks": board.missed_ticks,
            "held_ticks": board.held_ticks,
            "gate_interventions": board.gate_interventions,
            "ring_frames_dropped": board.ring_frames_dropped,
            "ring_records_dropped": board.ring_records_dropped,
            "rewards_abstained": board.rewards_abstained,
            "policy_version": board.policy_version,
            "spooled": board.spooled,
            "watchdog": TripReason(board.watchdog_tripped).name.lower(),
            "watchdog_tripped_at_s": board.watchdog_tripped_at_s or None,
            "start_to_first_action_s": round(started_s, 3) if board.first_action_at_s else None,
            "rss_mb": {c.name: round(c.rss_peak / 1e6, 1) for c in self.children},
            "exit_codes": {c.name: c.code for c in self.children},
            "restarts": {c.name: c.restarts for c in self.children if c.restarts},
        }

    def _write_report(self) -> None:
        with contextlib.suppress(OSError):
            path = Path(self.run.run_dir) / "run_report.json"
            path.write_text(json.dumps(self.report(), indent=1))

    def _measure_memory(self) -> None:
        for child in self.children:
            if child.process and child.code is None:
                with contextlib.suppress(psutil.Error):
                    rss = psutil.Process(child.process.pid).memory_info().rss
                    child.rss_peak = max(child.rss_peak, rss)

    def _last_words(self, child: Child) -> str:
        path = Path(self.run.run_dir) / "logs" / f"{child.name}.log"
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return lines[-1] if lines else f"see {path}"

    def _end(self, child: Child, patience_s: float, *, asked: bool) -> None:
        process = child.process
        if process is None or process.poll() is not None:
            return
        if not asked:
            process.terminate()
        for escalate in (None, process.terminate, process.kill):
            if escalate is not None:
                escalate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                return

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupted = True
        self.stop()


def _die_with_parent() -> None:
    """In the child: SIGTERM when the supervisor is gone, however it went (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGTERM)


def supervise(
    config: RobotConfig,
    plan: RunPlan,
    run_dir: Path,
    watch: Callable[[Board], None] = lambda board: None,
) -> Outcome:
    """Make a run, run it to its end, clean up. Raises `EntracteError` if it could not even begin."""
    run = make_run(config, plan, run_dir)
    try:
        with Supervisor(run) as robot:
            outcome = robot.wait(watch)
    except OSError as error:
        raise EntracteError("could not start the robot's processes", found=str(error)) from error
    finally:
        shutil.rmtree(run.shm_dir, ignore_errors=True)
    report = Path(run.run_dir) / "run_report.json"
    if report.exists():
        outcome.report = json.loads(report.read_text())
    return outcome
