"""Makes complete logs stored ones, in threads of its own: hash, sync, rename, index. Robots that send little
must not wait for the disk of one that sends much. Owns the way between receiver and store, and the
threads for whatever else must wait for the disk.
"""

from __future__ import annotations

import hashlib
import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from trainer.interfaces import EpisodeKey
from trainer.store import Store

Found = TypeVar("Found")

THREADS = 3
"""Logs hashed and synced at a time. The receiver has one under way of each robot, so that order is kept."""


class Keeper:
    """`keep` puts a log in line; `wake` is called from another thread when there are `results`, or something
    is `done`."""

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self._store, self._wake = store, wake
        self._threads = ThreadPoolExecutor(THREADS, "keep")
        self.results: queue.SimpleQueue[tuple[EpisodeKey, str | None, str]] = queue.SimpleQueue()
        """(key, its hash where it is stored, else why the disk did not take it)."""
        self.done: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """What is to be called of what was done aside."""

    def keep(self, key: EpisodeKey, partial: Path, sha256: str) -> None:
        self._threads.submit(self._keep, key, partial, sha256)

    def aside(self, task: Callable[[], Found], then: Callable[[Found | Exception], None]) -> None:
        """Run `task` here; `done` then holds a call of `then` with what it returned or raised."""
        self._threads.submit(self._aside, task, then)

    def stop(self) -> None:
        """Finish what waits, and end."""
        self._threads.shutdown()

    def _keep(self, key: EpisodeKey, partial: Path, sha256: str) -> None:
        try:
            whole = keep(self._store, key, partial, sha256)
            self.results.put((key, sha256 if whole else None, ""))
        except Exception as error:  # whatever it was, the robot still has it and offers it again
            self.results.put((key, None, f"{type(error).__name__}: {error}"))
        self._wake()

    def _aside(self, task: Callable[[], Found], then: Callable[[Found | Exception], None]) -> None:
        self.done.put(partial(then, caught(task)))
        self._wake()


def caught(task: Callable[[], Found]) -> Found | Exception:
    """What `task` returns or raises."""
    try:
        return task()
    except Exception as error:  # whoever asked for it judges it
        return error


def keep(store: Store, key: EpisodeKey, partial: Path, sha256: str) -> bool:
    """Store the log if its bytes have that hash; False and gone if they don't. Raises `OSError`."""
    digest = hashlib.sha256()
    with partial.open("rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
        os.fsync(file.fileno())
    if digest.hexdigest() != sha256:
        # Bytes from before a crash that never reached the disk, or a broken sender: from the start.
        partial.unlink()
        return False
    store.accept(key, partial, sha256)
    return True
