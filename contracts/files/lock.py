"""One process at a time: locks that the system releases when their holder ends, however it does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import EntracteError


class FolderLock:
    """Held from the start on. Raises `EntracteError` if another process holds it: `what` says of what. Each
    `name` is a lock of its own."""

    def __init__(self, folder: Path, what: str, name: str = "lock") -> None:
        path = folder / name
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EntracteError(f"{path} can't be opened", found=str(error)) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            if isinstance(error, BlockingIOError):
                raise EntracteError(
                    f"{folder} is in use by another {what}",
                    remedy="end that one, or name another folder",
                ) from error
            raise EntracteError(
                f"{path} can't be locked",
                found=str(error),
                remedy="name a folder on a disk of this machine",
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
