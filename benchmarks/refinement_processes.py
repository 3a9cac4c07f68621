"""The processes of a refinement experiment: run, waited for, and the cores that they share."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BIN = Path(sys.executable).parent
START_TIMEOUT_S = 120.0


class Cores:
    """Which of `total` are taken: a cell has one while it runs, an evaluation all that are idle beside it."""

    def __init__(self, total: int) -> None:
        self._idle, self._lock = total, threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """For a cell: there are as many cells at once as cores, so one is there."""
        with self._lock:
            self._idle -= 1
        try:
            yield
        finally:
            with self._lock:
                self._idle += 1

    @contextlib.contextmanager
    def idle_too(self) -> Iterator[int]:
        """For an evaluation within a cell: how many it may use, the cell's own one included."""
        with self._lock:
            taken = max(0, self._idle)
            self._idle -= taken
        try:
            yield 1 + taken
        finally:
            with self._lock:
                self._idle += taken


class CellFailed(RuntimeError):
    """A process of a cell ended with an error; the message holds the end of its log."""


def run_program(command: list[str], log: Path, timeout_s: float = 3600.0) -> None:
    with log.open("wb") as out:
        code = subprocess.run(
            command, stdout=out, stderr=out, timeout=timeout_s, check=False
        ).returncode
    if code:
        raise CellFailed(f"{Path(command[0]).name} {command[1]} exited {code}: {tail_of(log)}")


def wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if path.exists():
            return dict(json.loads(path.read_text()))
        if process.poll() is not None:
            raise CellFailed(f"robot-trainer exited {process.returncode}: {tail_of(log)}")
        time.sleep(0.1)
    raise CellFailed(f"robot-trainer did not start in {START_TIMEOUT_S:.0f} s: {tail_of(log)}")


def tail_of(log: Path, lines: int = 5) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-lines:])


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit() -> str:
    """The commit of the code, with a + where the tree holds more than that."""

    def git(*command: str) -> str:
        found = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
