"""What a process is given that must not outlive the one that starts it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# Loaded before any fork.
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
_PR_SET_PDEATHSIG = 1
_starter = 0


def _note_starter() -> None:
    global _starter  # noqa: PLW0603 in the child there is nobody left to ask
    _starter = os.getpid()


os.register_at_fork(before=_note_starter)


def die_with_parent() -> None:
    """In the child (`preexec_fn`): SIGTERM when who started it is gone, however it went (Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != _starter:  # gone before it could be asked to tell
            os._exit(128 + signal.SIGTERM)
