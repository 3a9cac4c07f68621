"""The log of a process that must outlive its disk: what can't be written there is lost, and nothing else.

Python raises `OSError` from `print` and from `traceback.print_exc` where a log's disk is full or gone; a
watchdog that says that the arm does not answer has to go on trying all the same.
"""

from __future__ import annotations

import sys
from typing import Any, TextIO, cast


class Log:
    """A stream without errors of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            return

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def log_without_errors() -> None:
    """For a process, first of all: what it says to stderr from here on can't end it."""
    sys.stderr = cast(TextIO, Log(sys.stderr))
