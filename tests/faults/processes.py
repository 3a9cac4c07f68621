"""Our own modules as processes for chaos runs: killed, clocks stepped, started again when they end."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


class Process:
    """A module of ours in a process under a wall clock of its own; started again by whoever watches."""

    def __init__(self, module: str, folder: Path, *arguments: str) -> None:
        # Not in the folder, whose disk may be full: that is when its last words are wanted.
        self.log = folder.with_name(f"{folder.name}-{module}.log")
        self._clock = folder / "clock"
        self._clock.write_bytes(bytes(8))
        unsteady = Path(__file__).with_name("unsteady.py")
        self._command = [sys.executable, unsteady, self._clock, module, *arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = self.kills = 0
        self.deaths: list[str] = []
        """Of ends that nobody asked for, exit code and last words."""
        self._said = 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        path = os.pathsep.join([str(TESTS.parent), str(TESTS / "plugin")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self._said = log.tell()
            self._process = subprocess.Popen(self._command, stderr=log, env=environment)
        self.starts += 1

    def watch(self) -> None:
        """Start it again if it ended by itself, and note with what code and words."""
        if self._process is not None and self._process.poll() is not None:
            self.deaths.append(f"exit code {self._process.returncode}, {self._last_words()}")
            self.start()

    def _last_words(self) -> str:
        """The last line of this start in its log."""
        with self.log.open("rb") as log:
            log.seek(self._said)
            lines = log.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")

    def kill(self) -> None:
        """SIGKILL; waits until it is gone."""
        if self.alive:
            assert self._process is not None
            self._process.kill()
            self._process.wait()
            self._process = None
            self.kills += 1

    def end(self, timeout_s: float = 60.0) -> int:
        """SIGTERM, once it listens to it (one just started would die of it); its exit code."""
        assert self._process is not None
        until = time.monotonic() + timeout_s
        while self.alive and not catches(self._process.pid, signal.SIGTERM):
            if time.monotonic() > until:
                raise TimeoutError(f"no handler of SIGTERM within {timeout_s:g} s of its end")
            time.sleep(0.02)
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout_s)

    def step_clock(self, off_s: float) -> None:
        """From now on its wall clock is off by so much."""
        with self._clock.open("r+b") as file:
            file.write(struct.pack("d", off_s))


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal, as Linux tells it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False  # it has ended
