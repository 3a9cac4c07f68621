"""Memory that processes share: how it is made, opened and told apart, and the barrier between writes.

What lies in it, and who may write when, is its owner's affair (`runtime.frames`, `runtime.operator.window`).
"""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path

import numpy as np

from contracts.errors import EntracteError


class Barrier:
    """Called, it keeps what was written before from being seen after what is written next. Python offers no
    memory barrier but its locks, and one taking is none: on aarch64 what comes before may move behind the
    taking, what comes after before the letting go, and inside they pass one another. Nothing passes a letting
    go and the taking that follows it: so it is taken twice."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            pass
        with self._lock:
            pass


def create(path: Path, size: int) -> mmap.mmap:
    """`size` zero bytes that nobody but this user may read, in place of whatever was there. Raises
    `EntracteError` where there is no room for them."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        reserve(file, size, path)
        return mmap.mmap(file, size)
    finally:
        os.close(file)


def reserve(file: int, size: int, path: Path) -> None:
    """Make the file so large, and all of it there: memory that is found to be missing when it is first
    written to ends the process (SIGBUS), in the middle of a tick. Raises `EntracteError`."""
    os.ftruncate(file, size)
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        raise EntracteError(
            f"no room for {size / (1 << 20):.1f} MiB of shared memory in {path.parent}",
            found=error.strerror,
            remedy="free some, shorten recording.ring_s, or in a container: docker run --shm-size=1g",
        ) from error


def open_existing(
    path: Path, magic: int, head_bytes: int, what: str, error: type[EntracteError] = EntracteError
) -> mmap.mmap:
    """What another process created: a `what` that begins with `magic` and has at least a head. Raises
    `error`; the head says how large the whole must be (`require_size`)."""
    try:
        file = os.open(path, os.O_RDWR)
    except OSError as cause:
        raise error(f"no {what} at {path}", found=cause.strerror) from cause
    try:
        if os.fstat(file).st_size < head_bytes:
            raise error(f"{path} is no {what} of this layout", found="too small for its head")
        memory = mmap.mmap(file, 0)
    finally:
        os.close(file)
    if np.frombuffer(memory, np.int64, 1)[0] != magic:
        raise error(f"{path} is no {what} of this layout", found="another version's, or none")
    return memory


def require_size(
    memory: mmap.mmap, size: int, what: str, error: type[EntracteError] = EntracteError
) -> None:
    """Raise `error` if there is less than what the head promises."""
    if not 0 < size <= len(memory):
        raise error(f"a {what} was cut off", expected=f"{size} bytes", found=len(memory))
