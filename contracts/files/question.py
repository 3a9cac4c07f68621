"""A question that waits for a yes: at the terminal, or from another command through a private file.

Owns the two files beside the keys; knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.files.keys import check_private, make_private, read_secret, write_secret

ASKED, ANSWERED = "enrolling", "enrolling.answer"
LOOK_S = 0.2


def ask(folder: Path, code: str, patience_s: float) -> bool:
    """Whether a person says that `code` is what the other end shows: "y" or the code itself at the terminal,
    or the code through `answer`. Anything else, and silence, is no. Call it once the code is shown: what was
    typed at the terminal before is no answer."""
    _forget_typed()
    with _asked(folder, code):
        until_s = time.monotonic() + patience_s
        terminal = _can_be_read()
        while time.monotonic() < until_s:
            path = folder / ANSWERED
            if path.exists():
                return read_secret(path).decode("ascii", "replace").strip() == code
            if not terminal:
                time.sleep(LOOK_S)
                continue
            ready = select.select([sys.stdin], [], [], LOOK_S)[0]
            if ready:
                said = sys.stdin.readline()
                if said:
                    return said.strip().lower().replace(" ", "") in ("y", "yes", code)
                terminal = False  # its end: only the file is left
    return False


def _forget_typed() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError, termios.error):
        terminal = sys.stdin.fileno()
        # In the background we would be stopped for it.
        if os.isatty(terminal) and os.tcgetpgrp(terminal) == os.getpgrp():
            termios.tcflush(terminal, termios.TCIFLUSH)


def _can_be_read() -> bool:
    try:
        return sys.stdin.fileno() >= 0
    except (AttributeError, OSError, ValueError):  # none, closed, or no real file
        return False


def answer(folder: Path, code: str) -> bool:
    """Answer the question that a command in another terminal asks; whether the code is the one that it shows.
    Raises `ConfigError` if nobody asks."""
    check_private(folder)
    if not (folder / ASKED).exists():
        raise ConfigError(
            f"nobody waits for a code at {folder}", remedy="start enroll without --yes-code first"
        )
    right = read_secret(folder / ASKED).decode("ascii", "replace").strip() == code
    write_secret(folder / ANSWERED, code.encode("ascii", "replace")[:64])
    return right


@contextlib.contextmanager
def _asked(folder: Path, code: str) -> Iterator[None]:
    make_private(folder)
    (folder / ANSWERED).unlink(missing_ok=True)
    write_secret(folder / ASKED, code.encode("ascii"))
    try:
        yield
    finally:
        for name in (ASKED, ANSWERED):
            (folder / name).unlink(missing_ok=True)
        atomic.sync(folder)
