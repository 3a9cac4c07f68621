"""One process at a time: locks that the system releases when their holder ends, however it does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
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


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Alone among all that lock that file, in other threads and processes, too. The file is made, for its
    owner only. Without `wait` raises `BlockingIOError` where another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)
