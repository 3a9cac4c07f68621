"""Asks the system to run the calling thread before others, where it allows that.

Only short-lived work belongs here: what holds a processor for long takes it from everybody else, and the
system then takes it back (Linux lets ordinary programs run for 50 ms of every second, before anybody).
"""

from __future__ import annotations

import contextlib
import os
from enum import IntEnum
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_NICE = -10
"""Ten times a program's usual share of a busy processor."""
_PROCESSORS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
"""That this process began with: a thread that is started later has those of the thread that starts it."""


class Rank(IntEnum):
    """Who runs before whom. Whoever judges the loop, or carries out its end, must not wait for it."""

    PROBE = 35
    WATCHDOG = 30
    BUS = 25
    LOOP = 20
    INFERENCE = 15
    AHEAD = 10


def run_first(rank: Rank = Rank.LOOP) -> str:
    """For the calling thread and those it starts from here on; returns what was granted: "fifo",
    "nice" or "" (no rights: give the user rtprio in /etc/security/limits.conf). A thread that shares the
    loop's interpreter must run ahead of other programs too: preempted while it holds the interpreter's
    lock, it would stop the loop as well."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(rank))
        return "fifo"
    except (OSError, AttributeError):
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return "nice"
    except (OSError, AttributeError):
        return ""


def stand_back() -> None:
    """For the calling thread, which the loop's own started: behind it, and on every processor. With its rank,
    and on the one processor that is the loop's, a thread that computes keeps the loop from running at all."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, _PROCESSORS)
    with contextlib.suppress(OSError, AttributeError):
        if os.sched_getscheduler(0) == os.SCHED_FIFO:
            run_first(Rank.AHEAD)


def take_more() -> bool:
    """For the calling process: a larger share than other programs get, where they compete, and never all
    of it. False: not granted."""
    try:
        os.nice(_NICE)
        # Where Linux groups by session, niceness counts within a group only, and the group has its own.
        if _AUTOGROUP.exists():
            _AUTOGROUP.write_text(str(_NICE))
    except OSError:
        return False
    return True
