"""What the control process asks of the system so that it runs on time, and what of it was granted.

Everything is optional: what is refused is said in the run report and by `robot-run doctor` as a warning, and
the loop runs without it. Owns no thread.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys
from collections.abc import Sequence

from runtime.config import LoopSection
from runtime.findings import Line
from runtime.system.priority import run_first

NOT_ASKED, GRANTED = "not asked for", "granted"
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_CAP_IPC_LOCK = 14


def ask(section: LoopSection) -> dict[str, str]:
    """For the calling thread and those it starts from here on (memory and garbage: the process). By name of
    the option: granted, not asked for, or why not."""
    return {
        "fifo": _fifo(section.fifo),
        "lock_memory": _locked(section.lock_memory),
        "cpus": _pinned(section.cpus),
        "freeze_gc": _frozen(section.freeze_gc),
    }


def finding(section: LoopSection) -> list[Line]:
    """Whether the processors of `loop.cpus` are there; the rights are `runtime.doctor.machine`'s."""
    if not section.cpus:
        return []
    missing = sorted(set(section.cpus) - _processors())
    found = f"processors {missing} are not there" if missing else f"{list(section.cpus)}"
    fix = f"set loop.cpus to some of {sorted(_processors())}"
    return [Line.advised("loop's processors", not missing, found, fix)]


def _fifo(wanted: bool) -> str:
    if not wanted:
        return NOT_ASKED
    got = run_first()
    if got == "fifo":
        return GRANTED
    return f"refused (no rtprio for this user; {'nice instead' if got else 'normal priority'})"


def _locked(wanted: bool) -> str:
    if not wanted:
        return NOT_ASKED
    why = _lock_refused()
    if why:
        return f"refused ({why})"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        return f"refused ({os.strerror(ctypes.get_errno())})"
    return GRANTED


def _lock_refused() -> str:
    """Why locking must not even be tried: under a limit, a later allocation would fail, not the lock."""
    if not _has_limits():
        return "only on Linux"
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit < 0 or _may_lock():
        return ""
    return f"memory limit of {limit >> 10} KiB"


def _may_lock() -> bool:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_IPC_LOCK & 1)
    return False


def _pinned(cpus: Sequence[int]) -> str:
    if not cpus:
        return NOT_ASKED
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, AttributeError) as error:
        return f"refused ({error})"
    return GRANTED


def _frozen(wanted: bool) -> str:
    """A full collection over everything imported would stop the loop for tens of milliseconds."""
    if not wanted:
        return NOT_ASKED
    gc.collect()
    gc.freeze()
    gc.disable()
    return GRANTED


def _processors() -> set[int]:
    return os.sched_getaffinity(0) if _has_limits() else set(range(os.cpu_count() or 1))


def _has_limits() -> bool:
    return sys.platform.startswith("linux")
