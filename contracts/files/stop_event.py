"""An event that a signal handler may set: an `eventfd`, hence behind the door to disk.

`threading.Event` is not one: its lock isn't re-entrant, and a handler runs in the main thread between two of
its instructions. Where the main thread was inside `wait` or `set` then, the handler waits for a lock that
only its own caller can let go, for ever, and so does the process (seen: a watchdog that had to be killed).
"""

from __future__ import annotations

import contextlib
import os
import select
import threading


class StopEvent(threading.Event):
    """Without a lock: a flag, and an `eventfd` that wakes whoever waits. Any thread may wait or set it."""

    def __init__(self) -> None:
        super().__init__()
        self._set = False
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def set(self) -> None:
        self._set = True
        with contextlib.suppress(BlockingIOError):  # its counter is full: it wakes them already
            os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """At most `timeout` seconds; without it, until it is set."""
        if not self._set:
            # Not `poll`, whose milliseconds are too coarse for a teleoperator.
            select.select([self._fd], [], [], None if timeout is None else max(0.0, timeout))
        return self._set

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._fd)
