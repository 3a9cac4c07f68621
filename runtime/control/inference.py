"""Lanes: how an inference is run beside the loop. Owns when a result arrives, not what is inferred.

One job at a time. In `realtime` a worker thread does it; in `asap` it is done at once and handed over as
many ticks late as a real one would be, so that splicing meets the same delays.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from contracts.errors import EntracteError
from runtime.system.priority import Rank, run_first

T = TypeVar("T")
_CLOSE_S = 2.0
_traced: set[str] = set()


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """`value`, or the exception that the job raised. `step`: when the job was submitted."""

    step: int
    value: T | None
    error: Exception | None


class Lane(Protocol[T]):
    """Runs jobs beside the loop, one at a time."""

    @property
    def busy(self) -> bool: ...

    def submit(self, job: Callable[[], T], step: int) -> None:
        """Start a job; only when not busy."""
        ...

    def poll(self, step: int) -> Outcome[T] | None:
        """The result once it is there (then the lane is free again)."""
        ...

    def drain(self) -> bool:
        """Forget the result of the last job; False: it is still at work. Never waits."""
        ...

    def close(self) -> None: ...


def _do(job: Callable[[], T], step: int) -> Outcome[T]:
    try:
        return Outcome(step, job(), None)
    except (
        Exception
    ) as error:  # carried to the loop, which decides: a policy faults, a reward abstains
        _leave_trace(error)
        return Outcome(step, None, error)


def _leave_trace(error: Exception) -> None:
    """Of an error that nobody declared, in the log: nobody downstream has it. Once of each place: a reward
    that fails, fails at every scoring."""
    if isinstance(error, EntracteError):
        return
    place = "".join(traceback.format_tb(error.__traceback__))
    if place not in _traced:
        _traced.add(place)
        traceback.print_exception(error)


class LockstepLane(Generic[T]):
    """Done at once, delivered `latency_ticks` later."""

    def __init__(self, latency_ticks: int) -> None:
        self._latency_ticks = latency_ticks
        self._pending: Outcome[T] | None = None

    @property
    def busy(self) -> bool:
        return self._pending is not None

    def submit(self, job: Callable[[], T], step: int) -> None:
        self._pending = _do(job, step)

    def poll(self, step: int) -> Outcome[T] | None:
        pending = self._pending
        if pending is None or step < pending.step + self._latency_ticks:
            return None
        self._pending = None
        return pending

    def drain(self) -> bool:
        self._pending = None
        return True

    def close(self) -> None:
        pass


class ThreadLane(Generic[T]):
    """A worker thread; ONNX Runtime and TensorRT let the loop run while they compute."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], T], int] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Outcome[T]] = queue.SimpleQueue()
        self._in_flight = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        return self._in_flight > 0

    def submit(self, job: Callable[[], T], step: int) -> None:
        self._in_flight += 1
        self._jobs.put((job, step))

    def poll(self, step: int) -> Outcome[T] | None:
        del step
        try:
            result = self._results.get_nowait()
        except queue.Empty:
            return None
        self._in_flight -= 1
        return result

    def drain(self) -> bool:
        while self.poll(0) is not None:
            pass
        return not self.busy

    def close(self) -> None:
        """Waits a little for a job; one that hangs is left behind, and the lane stays busy."""
        self._jobs.put(None)
        self._thread.join(_CLOSE_S)
        self.drain()

    def _work(self) -> None:
        run_first(Rank.INFERENCE)
        while True:
            job: Any = self._jobs.get()
            if job is None:
                return
            self._results.put(_do(*job))


def make_lane(lockstep: bool, latency_ticks: int, name: str) -> Lane[Any]:
    return LockstepLane(latency_ticks) if lockstep else ThreadLane(name)
