"""The trainer's second thread: scores and refines in order of arrival, and in between looks at live frames
and catches up with the data set. Owns the two queues into it; the work itself is `trainer.work`."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque

import numpy as np

from contracts import images, wire
from contracts.errors import EntracteError
from contracts.messages import EpisodeStart, Step
from contracts.wire import Packet
from trainer.config import TrainerConfig
from trainer.metrics import Metrics
from trainer.store import IndexEntry, Store
from trainer.work import Work

LIVE_WAITING = 8
MAX_SPEAKERS = 1024
FLUSH_DATASET_S = 60.0
DISK_AGAIN_S = 5.0

Encoded = dict[str, tuple[wire.Buffer, bytes]]


class LiveFrames:
    """Pictures of episodes under way: the newest few, taken in by the I/O thread, looked at by the worker."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._instructions: OrderedDict[bytes, str] = OrderedDict()
        self._waiting: deque[tuple[str, int, Encoded]] = deque(maxlen=LIVE_WAITING)
        self.frames = self.skipped = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self, peer: bytes, packet: Packet) -> None:
        message = packet.message
        if isinstance(message, EpisodeStart):
            self._instructions[peer] = message.instruction
            self._instructions.move_to_end(peer)
            if len(self._instructions) > MAX_SPEAKERS:
                self._instructions.popitem(last=False)
        elif isinstance(message, Step) and peer in self._instructions:
            self.frames += 1
            if not self._wanted:
                return
            encoded = {
                name.removesuffix(".colour"): (packet.descriptors[name], bytes(data))
                for name, data in packet.data.items()
                if name.endswith(".colour")
            }
            self.skipped += len(self._waiting) == self._waiting.maxlen
            self._waiting.append((self._instructions[peer], message.index, encoded))

    def next(self) -> tuple[str, int, dict[str, np.ndarray]]:
        """(instruction, step, decoded pictures by camera). Raises `EntracteError` if they are damaged."""
        instruction, step, encoded = self._waiting.popleft()
        return instruction, step, {name: _decode(*item) for name, item in encoded.items()}


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
    ) -> None:
        super().__init__(name="work")
        self._config, self._store, self._metrics = config, store, metrics
        self._work, self._live, self._stopping = work, live, stopping
        self._episodes: queue.SimpleQueue[IndexEntry | None] = queue.SimpleQueue()
        self._backlog: deque[IndexEntry] = deque()
        self._disk_again_s = 0.0
        self.malformed = 0
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
                self._backlog.append(entry)
        deadline = time.monotonic() + FLUSH_DATASET_S
        self._disk_again_s = 0.0
        while self._backlog and time.monotonic() < min(deadline, self._disk_again_s or deadline):
            self._write_dataset()

    def _idle(self) -> None:
        """Nothing to score: look at a live frame, or catch up with the data set."""
        if self._live:
            try:
                seen = self._live.next()
            except EntracteError:
                self.malformed += 1
                return
            self._work.scorer.watch(*seen)
        elif self._backlog and time.monotonic() >= self._disk_again_s:
            self._write_dataset()

    def _write_dataset(self) -> None:
        entry = self._backlog.popleft()
        if not self._config.store.dataset:
            return
        try:
            self._store.write_dataset(entry, keep_log=self._config.store.keep_logs)
        except OSError as error:
            # A full disk: the log has it, and the data set will once there is room.
            self._metrics.add("dataset_failure", key=str(entry.key), problem=str(error))
            self._backlog.appendleft(entry)
            self._disk_again_s = time.monotonic() + DISK_AGAIN_S
        except Exception as error:  # one episode must not end the trainer, at every start again
            known = isinstance(error, EntracteError)
            problem = str(error) if known else f"{type(error).__name__}: {error}"
            self._metrics.add("dataset_failure", key=str(entry.key), problem=problem)


def _decode(descriptor: wire.Buffer, data: bytes) -> np.ndarray:
    if descriptor.codec == "raw":
        return np.frombuffer(data, descriptor.dtype).reshape(descriptor.shape)
    return images.decode(descriptor.codec, data, descriptor.shape)
