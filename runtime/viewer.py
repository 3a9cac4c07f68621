"""A live view in Rerun, fed by a process of its own: `python -m runtime.viewer --run-dir <dir>`.

One thread reads the window and the pictures in shared memory and puts what it finds in a bounded queue;
another hands it to Rerun. Where Rerun or the network stalls, the queue fills, what is newest is dropped and
counted, and control, which knows nothing of this process, goes on.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError, EntracteError, MissingDependency
from contracts.messages import GateBit
from runtime.board import Board, LoopState
from runtime.operator.status import Looker
from runtime.operator.window import Row
from runtime.run import Run
from runtime.system.side_process import run_beside

QUEUE = 64
"""Ticks and pictures that wait for Rerun: a second or so."""
PICTURES_HZ = 10.0
QUALITY = 75
FLUSH_EVERY_S = 0.25
FLUSH_S = 2.0
COUNTS_FILE = "viewer.json"
_LOOK_S = 0.05
_COUNT_S = 1.0
_BITS = [(n, v) for n, v in vars(GateBit).items() if n.isupper() and isinstance(v, int)]


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a camera with the time of its capture."""

    camera: str
    rgb: np.ndarray
    depth: np.ndarray | None
    captured_s: float


Seen = Row | Picture


class Sampler:
    """Reads shared memory and offers what is new; never waits for who takes it."""

    def __init__(self, looker: Looker, waiting: queue.Queue[Seen]) -> None:
        self._looker, self._waiting = looker, waiting
        self._row = -1
        self._numbers: dict[str, int] = {}
        self._pictures_at_s = 0.0
        self.offered = self.dropped = 0
        self.overwritten = 0
        """Ticks that were gone before this process looked."""

    def look(self, now_s: float) -> None:
        """Everything that is new."""
        window = self._looker.window()
        if window is not None:
            if self._row < 0:
                self._row = max(0, window.newest - 1)  # what was before this viewer is history
            rows, lost = window.since(self._row)
            self.overwritten += lost
            for row in rows:
                self._row = row.number
                self._offer(row)
        if now_s - self._pictures_at_s >= 1.0 / PICTURES_HZ:
            self._pictures_at_s = now_s
            self._pictures(now_s)

    def _pictures(self, now_s: float) -> None:
        for camera in self._looker.run.config.cameras:
            slots = self._looker.slots(camera)
            if slots is None or slots.pictures in (0, self._numbers.get(camera)):
                continue
            if self._waiting.full():
                self.dropped += 1  # not even copied
                continue
            try:
                frame = slots.newest(now_s)
            except EntracteError:
                continue
            if frame is not None:
                self._numbers[camera] = frame.number
                self._offer(Picture(camera, frame.rgb, frame.depth, frame.captured_s))

    def _offer(self, seen: Seen) -> None:
        self.offered += 1
        try:
            self._waiting.put_nowait(seen)
        except queue.Full:
            self.dropped += 1


class RerunSink:
    """Hands ticks and pictures to Rerun. May block in any call: it has a thread of its own."""

    def __init__(self, run: Run, names: tuple[str, ...], url: str) -> None:
        self._rr = rr = _rerun()
        self._flushed_s = time.monotonic()
        self._names = [name.removesuffix(".pos") for name in names]
        self._recording = rr.RecordingStream("entracte", recording_id=run.session_id)
        if url.endswith(".rrd"):
            self._recording.save(url)
        elif url:
            self._recording.connect_grpc(url)
        else:
            try:
                self._recording.spawn()
            except RuntimeError as error:
                raise ConfigError(
                    "Rerun's viewer could not be started here",
                    found=str(error),
                    remedy="set operator.view_url to a viewer elsewhere, or to a file.rrd",
                ) from error

    def __call__(self, seen: Seen) -> None:
        """Hand it over; every now and then wait until all of it has left. Rerun's own queue has no end, and
        would hold all that a viewer that stalls doesn't take."""
        now_s = time.monotonic()
        if now_s - self._flushed_s > FLUSH_EVERY_S:
            while not self._flushed():
                pass
            self._flushed_s = time.monotonic()
        if isinstance(seen, Picture):
            self._picture(seen)
        else:
            self._tick(seen)

    def close(self) -> None:
        self._recording.disconnect()

    def _flushed(self) -> bool:
        try:
            self._recording.flush(timeout_sec=FLUSH_S)
        except RuntimeError:  # not all was taken in time
            return False
        return True

    def _picture(self, seen: Picture) -> None:
        rr, log = self._rr, self._recording.log
        self._recording.set_time("time", duration=seen.captured_s)
        log(f"cameras/{seen.camera}/colour", rr.Image(seen.rgb).compress(jpeg_quality=QUALITY))
        if seen.depth is not None:
            log(f"cameras/{seen.camera}/depth", rr.DepthImage(seen.depth, meter=1000.0))

    def _tick(self, row: Row) -> None:
        rr, log = self._rr, self._recording.log
        self._recording.set_time("time", duration=row.at_s)
        self._recording.set_time("tick", sequence=row.number)
        for joint, name in enumerate(self._names):
            for what in ("state", "action", "requested"):
                log(f"joints/{name}/{what}", rr.Scalars(float(getattr(row, what)[joint])))
        for what in ("process", "completion", "contrastive"):
            if not np.isnan(value := getattr(row, what)):
                log(f"signals/{what}", rr.Scalars(value))
        log("loop/lateness_ms", rr.Scalars(1e3 * row.lateness_s))
        log("loop/intervention", rr.Scalars(float(row.intervention)))
        log("gate/bits", rr.Scalars(float(row.gate)))
        if row.gate:
            words = ", ".join(name.lower() for name, bit in _BITS if row.gate & bit)
            mode = LoopState(row.mode).name.lower()
            log(
                "gate/verdicts",
                rr.TextLog(f"episode {row.episode} step {row.step} {mode}: {words}"),
            )


def _rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise MissingDependency(
            "the live view needs Rerun", remedy="pip install 'entracte[viewer]'"
        ) from error
    return rerun


def feed(sink: Callable[[Seen], None], waiting: queue.Queue[Seen], stop: threading.Event) -> None:
    """Give the sink one after another until `stop`; what the sink raises ends it."""
    while not stop.is_set():
        try:
            seen = waiting.get(timeout=0.1)
        except queue.Empty:
            continue
        sink(seen)


def serve(run: Run, board: Board, stop: threading.Event) -> None:
    """Until `stop`. Raises `EntracteError` where Rerun can't be had."""
    looker = Looker(run, board)
    waiting: queue.Queue[Seen] = queue.Queue(QUEUE)
    while looker.window() is None:
        if stop.wait(_LOOK_S):
            return
    window = looker.window()
    assert window is not None
    sink = RerunSink(run, window.about().names, run.config.operator.view_url)
    sampler = Sampler(looker, waiting)
    sender = threading.Thread(target=feed, args=(sink, waiting, stop), daemon=True)
    sender.start()
    counted_s = 0.0
    while not stop.wait(_LOOK_S):
        now_s = time.monotonic()
        sampler.look(now_s)
        if now_s - counted_s > _COUNT_S:
            counted_s = now_s
            _write_counts(run, sampler, waiting)
    sender.join(1.0)
    _write_counts(run, sampler, waiting)
    if not sender.is_alive():
        sink.close()


def _write_counts(run: Run, sampler: Sampler, waiting: queue.Queue[Seen]) -> None:
    counts = {
        "offered": sampler.offered,
        "dropped": sampler.dropped,
        "ticks_overwritten": sampler.overwritten,
        "waiting": waiting.qsize(),
    }
    (Path(run.run_dir) / COUNTS_FILE).write_text(json.dumps(counts))


if __name__ == "__main__":
    sys.exit(run_beside("viewer", "runtime.viewer", serve, niceness=5))
