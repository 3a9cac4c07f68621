"""What a process is given that must not outlive the one that starts it."""

from __future__ import annotations

import ctypes
import signal
import sys

# Loaded before any fork.
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """In the child (`preexec_fn`): SIGTERM when who started it is gone, however it went (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
