"""The trainer's second thread: scores and refines in order of arrival, and in between looks at live frames
and catches up with the data set. Owns the two queues into it; the work itself is `trainer.work`."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from contracts.errors import EntracteError
from trainer.config import TrainerConfig
from trainer.interfaces import EpisodeKey
from trainer.live_frames import LiveFrames
from trainer.metrics import Metrics
from trainer.store import IndexEntry, Store, UnreadableLog
from trainer.work import Work

FLUSH_DATASET_S = 60.0
DISK_AGAIN_S, READ_TIMES = 5.0, 3
"""So long is waited after the disk failed; so often it may fail to give the same log."""


class Worker(threading.Thread):
    """Ends when `stopping` is set and what it had begun is done."""

    def __init__(
        self,
        config: TrainerConfig,
        store: Store,
        metrics: Metrics,
        work: Work,
        live: LiveFrames,
        stopping: threading.Event,
        full: Callable[[], str] = lambda: "",
    ) -> None:
        """`full`: why the disk takes nothing more in, "" while it does."""
        super().__init__(name="work")
        self._full = full
        self._config, self._store, self._metrics = config, store, metrics
        self._work, self._live, self._stopping = work, live, stopping
        self._episodes: queue.SimpleQueue[IndexEntry | None] = queue.SimpleQueue()
        self._backlog: dict[str, deque[IndexEntry]] = {}
        """Of each robot: one whose data set the disk does not take must not hold up the others."""
        self._disk_again_s: dict[str, float] = {}
        self._looked = False
        """A live picture had its turn before the data set."""
        self._needed: list[IndexEntry] = []
        """In the data set, with a log that stays until an update has learned from it."""
        self._times_unread: Counter[EpisodeKey] = Counter()
        self.malformed = 0
        self.aside = 0
        """Logs that the disk did not give: not in the data set before the next start."""
        self.failure = ""
        """Why it ended before it was asked to."""

    def put(self, entry: IndexEntry | None) -> None:
        """A stored episode, in order of arrival; None only wakes the worker."""
        self._episodes.put(entry)

    def run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self.failure = f"{type(error).__name__}: {error}"
            if not isinstance(error, OSError | EntracteError):
                raise

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                entry = self._episodes.get(timeout=0.02)
            except queue.Empty:
                self._idle()
                continue
            if entry is not None:
                self._work.take(entry)
                self._backlog.setdefault(entry.robot_id, deque()).append(entry)
        self._let_go()
        deadline = time.monotonic() + FLUSH_DATASET_S
        self._disk_again_s.clear()
        while time.monotonic() < deadline and (due := self._due()):
            self._write_dataset(due)

    def _idle(self) -> None:
        """Nothing to score: hear what people said, look at a live frame, or catch up with the data set: in
        turns, since frames may come faster than they can be looked at."""
        self._work.look()
        self._work.renew()
        self._let_go()
        due = self._due()
        if self._live and not (due and self._looked):
            self._looked = True
            try:
                seen = self._live.next()
            except EntracteError:
                self.malformed += 1
                return
            if seen is not None:
                self._work.scorer.watch(*seen)
        elif due:
            self._looked = False
            self._write_dataset(due)

    def _let_go(self) -> None:
        """Logs that were needed and are not any more go the way of the others."""
        waiting, self._needed = self._needed, []
        for entry in waiting:
            if self._needs(entry):
                self._needed.append(entry)
            else:
                self._backlog.setdefault(entry.robot_id, deque()).append(entry)

    def _needs(self, entry: IndexEntry) -> bool:
        """Whether an update to come learns from that episode, and there is room to wait for it: where there
        is none, the episodes that it waits for would never come."""
        work = self._work
        if self._full() or not work.learns_from(entry) or work.done:
            return False
        return entry.arrival > work.state.consumed_arrival

    def _due(self) -> str:
        """A robot whose data set lacks an episode and may be tried now; "" if there is none."""
        now_s = time.monotonic()
        return next((r for r in self._backlog if now_s >= self._disk_again_s.get(r, 0.0)), "")

    def _write_dataset(self, robot_id: str) -> None:
        """Its oldest episode that is not in it; afterwards it is the others' turn."""
        waiting = self._backlog.pop(robot_id)
        if self._written(waiting[0]):
            waiting.popleft()
        elif not self._stopping.is_set():
            self._disk_again_s[robot_id] = time.monotonic() + DISK_AGAIN_S
        else:
            return  # the next start takes them up again
        if waiting:
            self._backlog[robot_id] = waiting

    def _written(self, entry: IndexEntry) -> bool:
        """Whether that episode is done with; False: the disk may take or give it later."""
        if not self._config.store.dataset:
            return True
        keep = self._config.store.keep_logs
        try:
            # A data set's pictures are not the log's to the bit, which a trainer that is started again needs.
            needed = not keep and self._needs(entry)
            self._store.write_dataset(entry, keep_log=keep or needed)
            if needed:
                self._needed.append(entry)
        except UnreadableLog as error:
            return self._not_read(entry, str(error))
        except OSError as error:
            # A full disk: the log has it, and the data set will once there is room.
            self._metrics.add("dataset_failure", key=str(entry.key), problem=str(error))
            return False
        except Exception as error:  # one episode must not end the trainer, at every start again
            known = isinstance(error, EntracteError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            self._metrics.add("dataset_failure", key=str(entry.key), problem=problem)
        del self._times_unread[entry.key]
        return True

    def _not_read(self, entry: IndexEntry, problem: str) -> bool:
        """Whether it is left out: a log that the disk gives to nobody must not hold up the others."""
        self._times_unread[entry.key] += 1
        aside = self._times_unread[entry.key] >= READ_TIMES or self._stopping.is_set()
        self._metrics.add("dataset_failure", key=str(entry.key), problem=problem, aside=aside)
        if not aside:
            return False
        del self._times_unread[entry.key]
        self.aside += 1
        with contextlib.suppress(OSError):  # what it is printed to may lie on the same disk
            print(
                f"robot-trainer: {problem}; it stays, and is left out of the data set until the next start",
                file=sys.stderr,
                flush=True,
            )
        return True
