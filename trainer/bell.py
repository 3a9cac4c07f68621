"""Wakes the thread that waits for sockets when another has something for it."""

from __future__ import annotations

import contextlib
import os


class Bell:
    """`fileno` is readable from `ring` until `hush`."""

    def __init__(self) -> None:
        self._heard, self._rung = os.pipe()
        for end in (self._heard, self._rung):
            os.set_blocking(end, False)

    def fileno(self) -> int:
        return self._heard

    def ring(self) -> None:
        """From any thread; rung already is as good."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._rung, b"!")

    def hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._heard, 4096):
                pass

    def close(self) -> None:
        os.close(self._heard)
        os.close(self._rung)
