"""What quantising is at, on standard error: minutes without a word look like a hang. Owns no stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

Tell = Callable[[str, int, int], None]
"""Called with a stage, how many of its steps are done, and of how many (0: not counted)."""


def silent(what: str, done: int = 0, of: int = 0) -> None:
    """Tells nobody."""


class Progress:
    """A line a stage with the seconds since the start; a counted one is rewritten on a terminal and told by
    quarters elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._begin_s = time.monotonic()
        self._told: tuple[str, int] = ("", 0)

    def __call__(self, what: str, done: int = 0, of: int = 0) -> None:
        step = (what, done if self._terminal else 4 * done // of if of else 0)
        if step == self._told:
            return
        count = f" ({done} of {of})" if of else ""
        line = f"{time.monotonic() - self._begin_s:4.0f} s  {what}{count}"
        if self._terminal:
            self._stream.write(
                ("\n" if self._told[0] not in ("", what) else "") + f"\r\x1b[K{line}"
            )
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._told = step

    def end(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._terminal and self._told[0]:
            self._stream.write("\n")
            self._stream.flush()
        self._told = ("", 0)
