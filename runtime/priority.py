"""Asks the system to run the calling thread before others, where it allows that.

Only short-lived work belongs here: what holds a processor for long takes it from everybody else, and the
system then takes it back (Linux lets ordinary programs run for 50 ms of every second, before anybody).
"""

from __future__ import annotations

import os
from enum import IntEnum
from pathlib import Path

_AUTOGROUP = Path("/proc/self/autogroup")
_NICE = -10
"""Ten times a program's usual share of a busy processor."""


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
