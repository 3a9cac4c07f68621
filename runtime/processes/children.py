"""The processes of a robot: which ones a run has, and how one is started.

Owns what a process is given (its arguments, environment, log and signals); when it is started, watched and
ended is the supervisor's.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from contracts.files.orphans import die_with_parent
from runtime.arms import is_served
from runtime.cameras import captured
from runtime.config import RobotConfig
from runtime.run import Run

IN_ORDER = ("link", "recorder")
"""Processes with something to bring to an end: what lies in the ring."""

# One thread each for BLAS and friends: the loop's neighbours must not take its core. The memory of a picture
# is kept for the next one (glibc): mapped anew each time, it cost the link a quarter of its processor time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}


@dataclass
class Child:
    """One process. `restart`: start it again when it dies (only what can lose nothing by it). `optional`: the
    run goes on without it. `arguments` follow `--run-dir`."""

    name: str
    module: str
    restart: bool = False
    arguments: tuple[str, ...] = ()
    optional: bool = False
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restarted_s: list[float] = field(default_factory=list)
    rss_peak: int = 0

    @property
    def code(self) -> int | None:
        return self.process.poll() if self.process else None

    def start(self, run: Run) -> int:
        """Start it, with its log in the run's folder; returns its process id. Raises `OSError`."""
        begin = _begin_in_order if self.name in IN_ORDER else die_with_parent
        path = self._log(run)
        path.parent.mkdir(exist_ok=True)
        with path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", self.module),
                    *("--run-dir", run.run_dir, *self.arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_ENVIRONMENT, **os.environ},
                # A group of its own: Ctrl-C reaches the supervisor alone, which then stops them in order.
                start_new_session=True,
                preexec_fn=begin,  # noqa: PLW1509 a system call or two, no lock taken
            )
        if run.config.robot.nice:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self.process.pid, run.config.robot.nice)
        return self.process.pid

    def end(self, patience_s: float, *, asked: bool) -> None:
        """Wait until it has ended, at most `patience_s` each: unless it was asked already, after SIGTERM;
        then SIGTERM once more, then SIGKILL."""
        process = self.process
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

    def last_words(self, run: Run) -> str:
        """The last line of its log."""
        path = self._log(run)
        lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
        return lines[-1] if lines else f"see {path}"

    def _log(self, run: Run) -> Path:
        return Path(run.run_dir) / "logs" / f"{self.name}.log"


def children_of(run: Run) -> list[Child]:
    """Every process that `run` needs, in the order in which they are started."""
    config, sink = run.config, run.plan.sink
    return [
        *([Child("bench", _simulation(config))] if config.bench.enabled else []),
        *([Child("arm", "runtime.arms.server")] if is_served(config) else []),
        *(
            Child(f"camera-{name}", "runtime.cameras.capture", True, ("--camera", name))
            for name in captured(config)
        ),
        Child("control", "runtime.control.process"),
        Child("watchdog", "runtime.watchdog"),
        *([Child("link", "runtime.link.process", restart=True)] if sink == "link" else []),
        *([Child("recorder", "runtime.recording.recorder")] if sink == "dataset" else []),
        *_for_people(config),
    ]


def _simulation(config: RobotConfig) -> str:
    """The module of the bench's process."""
    return "runtime.bench.server" if config.bench.gymnasium is None else "runtime.gym.server"


def _for_people(config: RobotConfig) -> list[Child]:
    """The processes that people see and touch; none is worth stopping a run for."""
    operator = config.operator
    children = []
    if operator.web:
        children.append(Child("operator", "runtime.operator.web", restart=True, optional=True))
    if operator.teleoperator not in ("", "keyboard"):
        module = "runtime.teleoperation.server"
        children.append(Child("teleoperator", module, restart=True, optional=True))
    if operator.view:
        children.append(Child("viewer", "runtime.viewer", restart=True, optional=True))
    return children


def _begin_in_order() -> None:
    """In the child, too: it hears that it is to end once it has said how (`pthread_sigmask`). Told while it
    is still being imported, it would leave what is in the ring."""
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
