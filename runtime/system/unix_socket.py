"""Connections to a process of the same robot, over a Unix socket that keeps messages apart."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from contracts.errors import DeviceError

_AGAIN_S = 0.01


def connect(address: Path, give_up_s: float, who: str) -> socket.socket:
    """Connected; tried until the moment `give_up_s` (monotonic), since the other process may still be
    starting. Raises `DeviceError`: `who` does not answer."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    while True:
        try:
            line.connect(str(address))
            return line
        except OSError as error:
            if time.monotonic() > give_up_s:
                line.close()
                raise DeviceError(
                    f"{who} does not answer", found=f"{error.strerror} at {address}"
                ) from error
        time.sleep(_AGAIN_S)
