"""One episode being recorded: its steps in a table, its pictures through one encoder thread each.

Owns the threads and their bounded queues. A picture is copied out of the ring once and never waits for
another camera's. A full queue makes the recorder leave the ring alone until there is room; control then
drops pictures by its own rule (`runtime.recording.stream`), never records, and each loss is counted.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from contracts import wire
from contracts.errors import WireError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import CAMERA_PREFIX, depth_keys, video_keys
from contracts.files.dataset_stream import EpisodeFiles, PictureFile
from contracts.files.log_to_dataset import COLOUR, DEPTH, DEPTH_PREFIX, arrived, record_of
from contracts.files.step_table import StepTable
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart, Step

_LOOK_S = 0.05


class Lane:
    """A thread that encodes one feature's pictures, in order. `error`: what stopped it."""

    def __init__(self, file: PictureFile, capacity: int) -> None:
        self._file = file
        self._waiting: queue.Queue[np.ndarray | None] = queue.Queue(capacity)
        self._closed = threading.Event()
        self.error: Exception | None = None
        self._missed = 0
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._waiting.qsize()

    @property
    def saw_nothing(self) -> bool:
        """Whether no picture came."""
        return self._missed >= 0

    def show(self, picture: np.ndarray | None) -> None:
        """The picture of the next row; None: the row before shows it too. Rows before the first picture
        show that one. Waits while the queue is full. Raises what the encoder or the disk raised."""
        if picture is None and self._missed >= 0:
            self._missed += 1
            return
        rows, self._missed = max(0, self._missed), -1
        self._put(picture)
        for _ in range(rows):
            self._put(None)

    def finish(self) -> None:
        """Wait until every row is encoded. Raises what the encoder or the disk raised."""
        self._closed.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        """Leave what waits."""
        self.error = self.error or WireError("recording was given up")
        self._closed.set()
        self._thread.join()

    def _put(self, picture: np.ndarray | None) -> None:
        while True:
            if self.error is not None:
                raise self.error
            with contextlib.suppress(queue.Full):
                self._waiting.put(picture, timeout=_LOOK_S)
                return

    def _work(self) -> None:
        while self.error is None:
            try:
                picture = self._waiting.get(timeout=_LOOK_S)
            except queue.Empty:
                if self._closed.is_set() and self._waiting.empty():
                    return
                continue
            try:
                if picture is None:
                    self._file.repeat()
                else:
                    self._file.add(picture)
            except Exception as error:  # raised again in the recorder's own thread
                self.error = error


class Recording:
    """From an episode's start to its place in the data set."""

    def __init__(
        self,
        writer: DatasetWriter,
        session: SessionStart,
        start: EpisodeStart,
        *,
        reserve: int,
        queue_frames: int,
    ) -> None:
        """`reserve`: the most steps it will have. Raises `OSError` from the disk."""
        self._session, self.start = session, start
        self._table = StepTable(session, f"episode {start.episode_seq}")
        self._files: EpisodeFiles = writer.begin(reserve)
        self._writer = writer
        self._lanes = {key: Lane(file, queue_frames) for key, file in self._files.files.items()}
        features = writer.features
        self._sources: Mapping[str, str] = {
            **{key: key.removeprefix(CAMERA_PREFIX) + COLOUR for key in video_keys(features)},
            **{key: key.removeprefix(DEPTH_PREFIX) + DEPTH for key in depth_keys(features)},
        }

    @property
    def waiting(self) -> int:
        """Pictures in the queues."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def lost(self) -> int:
        """Rows whose picture was lost on the way."""
        return self._table.lost

    def lacks(self) -> str:
        """Features of which no picture came: no data set can do without. "" where there is none such."""
        return ", ".join(key for key, lane in self._lanes.items() if lane.saw_nothing)

    def missing(self, end: EpisodeEnd) -> int:
        """Steps that the episode had and that never came: its rows are fewer than its ticks."""
        return self._table.missing(end.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of its pictures on disk so far."""
        return sum(file.nbytes for file in self._files.files.values())

    def step(self, packet: wire.Packet) -> None:
        """One step; what it needs of the packet is copied. Raises `WireError` for a malformed one and what
        the encoders or the disk raised."""
        assert isinstance(packet.message, Step)
        self._table.add(packet.message, arrived(packet))
        for key, lane in self._lanes.items():
            source = self._sources[key]
            lane.show(packet.array(source).copy() if source in packet.descriptors else None)

    def keep(self, end: EpisodeEnd) -> int:
        """Finish the pictures and append the episode, durably; its index in the data set. Raises
        `DatasetError` or `OSError`; nothing is left of it then."""
        try:
            for lane in self._lanes.values():
                lane.finish()
            return self._writer.keep(
                self._files,
                self._table.columns(),
                self.start.instruction,
                record_of(self._session, self.start, end, self.lost, self.missing(end)),
            )
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget it and free its space. Safe to call twice."""
        for lane in self._lanes.values():
            lane.stop()
        self._files.discard()


def shapes_of(
    session: SessionStart, depth: bool
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """(colour, depth): camera -> shape of its pictures, as the session declares them."""
    cameras = session.observation.cameras
    colour: dict[str, Any] = {c.name: (c.height, c.width, 3) for c in cameras}
    return colour, {c.name: (c.height, c.width) for c in cameras if depth and c.depth}
