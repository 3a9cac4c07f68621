"""Asks the system to run the calling thread before others, where it allows that."""

from __future__ import annotations

import os

_FIFO_PRIORITY = 20
_NICE = -10


def run_first(behind: int = 0) -> str:
    """For the calling thread and those it starts from here on; returns what was granted: "fifo",
    "nice" or "" (no rights: give the user rtprio in /etc/security/limits.conf). `behind`: how many steps
    after the loop itself. A thread that shares the loop's interpreter must run ahead of other programs
    too: preempted while it holds the interpreter's lock, it would stop the loop as well."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_FIFO_PRIORITY - behind))
        return "fifo"
    except (OSError, AttributeError):
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return "nice"
    except (OSError, AttributeError):
        return ""
