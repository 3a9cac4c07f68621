"""One process at a time: a lock on a folder, released by the system when its holder ends, however it does."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from contracts.errors import EntracteError


class FolderLock:
    """Held from the start on. Raises `EntracteError` if another process holds it: `what` says of what."""

    def __init__(self, folder: Path, what: str) -> None:
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise EntracteError(
                f"{folder} is in use by another {what}",
                remedy="end that one, or name another folder",
            ) from error

    def release(self) -> None:
        os.close(self._descriptor)
