"""What goes out to viewers: each has a bounded queue, and one that stops reading loses events, nobody else.

Owns the queues and their counters; `runtime.operator.web` sends what `Viewer.next` gives.
"""

from __future__ import annotations

import queue
import threading

QUEUE = 4
"""Events that wait for one viewer: less than a second's worth."""


class Viewer:
    """One connection. `dropped`: events that it was too slow for."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes] = queue.Queue(QUEUE)
        self.dropped = 0

    def offer(self, event: bytes) -> None:
        """Never waits: the oldest goes when there is no room."""
        while True:
            try:
                self._queue.put_nowait(event)
                return
            except queue.Full:
                self.dropped += 1
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    continue

    def next(self, timeout_s: float) -> bytes | None:
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Feed:
    """All viewers. `publish` from one thread, `join` and `leave` from theirs."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._viewers: set[Viewer] = set()
        self._gone_dropped = 0
        self._lock = threading.Lock()

    def join(self) -> Viewer | None:
        """None: there are too many already."""
        with self._lock:
            if len(self._viewers) >= self._most:
                return None
            viewer = Viewer()
            self._viewers.add(viewer)
            return viewer

    def leave(self, viewer: Viewer) -> None:
        with self._lock:
            self._viewers.discard(viewer)
            self._gone_dropped += viewer.dropped

    def publish(self, event: bytes) -> None:
        with self._lock:
            viewers = list(self._viewers)
        for viewer in viewers:
            viewer.offer(event)

    @property
    def viewers(self) -> int:
        return len(self._viewers)

    @property
    def dropped(self) -> int:
        with self._lock:
            return self._gone_dropped + sum(viewer.dropped for viewer in self._viewers)
