"""Another program's answer within a limit, whatever it and its own children do. Owns no check."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

_BURY_S = 0.5


def answer(
    command: Sequence[str], asked: bytes = b"", *, limit_s: float
) -> subprocess.CompletedProcess[bytes]:
    """What `command` says to `asked`. Raises `subprocess.TimeoutExpired` (it and its children are then
    killed, but hardly waited for: what hangs in the kernel can't be) and `OSError` without such a program."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said, complained = process.communicate(asked, timeout=limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_BURY_S)
        raise
    return subprocess.CompletedProcess(command, process.returncode, said, complained)
