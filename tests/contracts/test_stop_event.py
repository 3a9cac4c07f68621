"""The event of signal handlers: a signal at any instruction of a wait never leaves the process hanging."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from contracts.files.stop_event import StopEvent

ROOT = Path(__file__).parents[2]
STORM = """
import random, signal, sys, threading, time
from contracts.files.stop_event import StopEvent
made, seconds = {"plain": threading.Event, "ours": StopEvent}[sys.argv[1]], float(sys.argv[2])
begin_s = time.monotonic()
while time.monotonic() - begin_s < seconds:
    stop = made()
    signal.signal(signal.SIGALRM, lambda *_: stop.set())
    signal.setitimer(signal.ITIMER_REAL, 1e-6 + 3e-4 * random.random())
    while not stop.is_set():
        stop.wait(2e-5)
"""
HANGS_S = 30.0
ROOMS = ("benchmarks", "calibration", "contracts", "export", "runtime", "trainer")


def _storm(kind: str, seconds: float) -> None:
    subprocess.run(
        [sys.executable, "-c", STORM, kind, str(seconds)], cwd=ROOT, timeout=HANGS_S, check=True
    )


def test_signals_within_a_wait_hang_nobody() -> None:
    _storm("ours", 3.0)


@pytest.mark.slow
def test_the_library_s_event_does_hang() -> None:
    """Why there is one of our own. It hangs within a second or two, as a rule."""
    with pytest.raises(subprocess.TimeoutExpired):
        _storm("plain", HANGS_S + 10.0)


def test_it_is_an_event_for_threads_too() -> None:
    stop = StopEvent()
    assert not stop.wait(0.0) and not stop.wait(-1.0) and not stop.is_set()
    threads = [threading.Thread(target=stop.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    stop.set()
    stop.set()
    for thread in threads:
        thread.join(5.0)
    assert not any(thread.is_alive() for thread in threads)
    assert stop.wait() and stop.is_set()
    stop.clear()
    begin_s = time.monotonic()
    assert not stop.wait(0.02)
    assert time.monotonic() - begin_s >= 0.02


@pytest.mark.parametrize("room", ROOMS)
def test_no_handler_sets_an_event_with_a_lock(room: str) -> None:
    """A name that a module's signal handler calls `set` on is given a `StopEvent` in that module."""
    for path in (ROOT / room).rglob("*.py"):
        tree = ast.parse(path.read_text())
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        handlers = [c.args[1] for c in calls if ast.unparse(c.func) == "signal.signal"]
        handed_over = {
            inner.func.value.id
            for handler in handlers
            for inner in ast.walk(handler)
            if isinstance(inner, ast.Call)
            and isinstance(inner.func, ast.Attribute)
            and inner.func.attr == "set"
            and isinstance(inner.func.value, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in handed_over:
                assert ast.unparse(node.value) == "StopEvent()", f"{path}:{node.lineno}"
