"""The capture process of one camera: opens its source, publishes pictures, opens it again when it goes.

`python -m runtime.cameras.capture --run-dir <dir> --camera <name>`. Owns reconnection, the detection of
frozen streams, the counters and the mapping of time, for every kind alike. Exit code 2: there never was a
picture, the last line says why. A driver that hangs ends the process, which the supervisor starts again; the
slots and their counters outlive it.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import ConfigError, DeviceError, EntracteError
from contracts.files.stop_event import StopEvent
from contracts.specs import CameraSpec
from runtime.cameras import Picture, Source, load, make_one
from runtime.cameras.device_clock import DRIFT, DeviceClock
from runtime.cameras.from_slots import announce, announced
from runtime.cameras.rotation import turn, turned
from runtime.frames import CaptureState, FrameSlots
from runtime.run import Run
from runtime.system.log import log_without_errors
from runtime.system.priority import take_more

EXIT_CANNOT_START = 2
WAIT_S = 0.1
SILENT_S = 1.0
"""Without a picture for this (and `SILENT_PERIODS`): the device is opened again. Half a policy's patience."""
SILENT_PERIODS = 5
FIRST_S = 5.0
"""A device that was just opened may take this long to its first picture."""
FROZEN_S = 1.0
LATE_PERIODS = 2.0
BACK_OFF_S, MOST_BACK_OFF_S = 0.1, 2.0
HANG_S = 20.0
"""A call into a driver that takes longer ends the process: nothing else gets it out of there."""
OTHER_CLOCK_S = 86400.0
"""A picture received so far ahead of now was not dated by the monotonic clock: it would never be too old."""
_HEALTHY = 30
_SAMPLE = 16


class Capture:
    """`forever` is the process. `opener` makes the source, opened."""

    def __init__(
        self, run: Run, name: str, opener: Callable[[], Source], stop: threading.Event
    ) -> None:
        self._name, self._opener, self._stop = name, opener, stop
        self._section = section = run.config.cameras[name]
        self._period_s = 1.0 / section.rate_hz
        self._silent_s = max(SILENT_S, SILENT_PERIODS * self._period_s)
        self._announcement = run.camera_path(name)
        self._spec = announced(self._announcement)  # a predecessor that died may have been ready
        self.slots = (
            FrameSlots.open(run.frames_path(name))
            if run.frames_path(name).exists()
            else FrameSlots.create(
                run.frames_path(name), section.height, section.width, section.depth
            )
        )
        self.slots.count("processes")
        if self._spec is not None:
            self.slots.state = CaptureState.LOST
        self._processor_s = self.slots.time("processor_s")
        self._start_by_s = time.monotonic() + section.start_timeout_s
        self._failures = self._healthy = 0
        self._said = ""
        self._published_s = 0.0
        self._armed_s = 0.0

    def forever(self) -> None:
        """Until `stop`. Raises `EntracteError` only if there never was a picture."""
        try:
            while not self._stop.is_set():
                source = self._open()
                if source is not None:
                    self._lost(self._use(source))
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _lost(self, why: str) -> None:
        if not self._stop.is_set():
            self.slots.state = CaptureState.LOST
            self._say(why)
            self._failed(DeviceError(f"camera '{self._name}' failed", found=why))

    # -- opening

    def _open(self) -> Source | None:
        """The opened source, or None after a pause."""
        self._feed_hang_alarm()
        try:
            source = self._opener()
        except Exception as error:
            if not isinstance(error, EntracteError):
                self.slots.count("errors")
                error = DeviceError(f"camera '{self._name}' did not open", found=_line(error))
            self._say(str(error))
            self._failed(error)
            return None
        self.slots.count("opened")
        return source

    def _failed(self, error: Exception) -> None:
        """Wait a little longer after each failure in a row; at a start, not for ever."""
        hopeless = isinstance(error, ConfigError) or time.monotonic() > self._start_by_s
        if self._spec is None and hopeless:
            raise error
        pause_s = min(BACK_OFF_S * 2**self._failures, MOST_BACK_OFF_S)
        self._failures += 1
        self._stop.wait(pause_s)

    def _use(self, source: Source) -> str:
        """Stream until something is wrong; returns what. Raises `ConfigError` at a start only."""
        reset = self._failures > 0  # opening it again alone did not help
        try:
            self._check(source.spec())
            return self._stream(source)
        except EntracteError as error:
            if isinstance(error, ConfigError):
                reset = False  # cures no such thing, and the device may be somebody else's
                if self._spec is None:
                    raise
            return str(error)
        except (
            Exception
        ) as error:  # a driver may raise anything: counted, and the device is opened again
            self.slots.count("errors")
            return f"the driver failed: {_line(error)}"
        finally:
            self._let_go(source, reset and not self._stop.is_set())

    def _let_go(self, source: Source, reset: bool) -> None:
        if reset:
            self.slots.count("resets")
        for leave in (source.reset, source.close) if reset else (source.close,):
            self._feed_hang_alarm()
            try:
                leave()
            except Exception as error:
                self.slots.count("errors")
                self._say(f"{leave.__name__} failed: {_line(error)}")

    def _check(self, spec: CameraSpec) -> None:
        spec = turned(spec, self._section.rotation)
        section = self._section
        found = (spec.width, spec.height, spec.depth)
        if found != (section.width, section.height, section.depth):
            raise ConfigError(
                f"camera '{self._name}' gives other pictures than configured",
                expected=_size(section.width, section.height, section.depth),
                found=_size(*found),
                remedy="set width, height and depth under cameras: to what it gives",
            )
        if self._spec is not None and (others := _differences(self._spec, spec)):
            raise ConfigError(
                f"camera '{self._name}' came back as another device",
                expected=", ".join(f"{name} {before}" for name, before, _ in others),
                found=", ".join(f"{name} {now}" for name, _, now in others),
                remedy="plug in the one that the run began with, or start it anew with this one",
            )
        self._candidate = spec

    # -- streaming

    def _stream(self, source: Source) -> str:
        clock = DeviceClock(drift=getattr(source, "clock_drift", DRIFT))
        last: Picture | None = None
        came: Picture | None = None  # fresh or not
        opened_s = heard_s = fresh_s = time.monotonic()
        patience_s = max(FIRST_S, self._silent_s)
        while not self._stop.is_set():
            self._feed_hang_alarm()
            picture = source.wait(WAIT_S)
            now_s = time.monotonic()
            if picture is None:
                if now_s - heard_s > patience_s:
                    self.slots.count("silences")
                    return f"no picture for {now_s - heard_s:.1f} s"
                continue
            self._require_our_clock(picture, now_s)
            heard_s, patience_s = now_s, self._silent_s
            if now_s - opened_s < self._section.warmup_s:
                fresh_s = now_s
                continue
            if self._is_older(picture, last):
                self.slots.count("out_of_order")
                continue
            rgb = turn(picture.rgb, self._section.rotation)
            depth = None if picture.depth is None else turn(picture.depth, self._section.rotation)
            if self._repeats(picture, last, rgb, depth, source.noisy):
                self.slots.count("frozen")
                came = picture
                if now_s - fresh_s > SILENT_PERIODS * self._period_s:
                    self.slots.state = CaptureState.LOST
                if now_s - fresh_s > FROZEN_S:
                    return f"frozen: the same picture for {now_s - fresh_s:.1f} s"
                continue
            fresh_s = now_s
            self._publish(picture, came, rgb, depth, clock)
            last = came = picture
        return f"stopped after {time.monotonic() - opened_s:.1f} s"

    def _require_our_clock(self, picture: Picture, now_s: float) -> None:
        ahead_s = picture.received_s - now_s
        if not ahead_s <= OTHER_CLOCK_S:
            raise ConfigError(
                f"camera '{self._name}' dates its pictures by another clock than the robot's",
                expected="Picture.received_s from time.monotonic()",
                found=f"{ahead_s:.0f} s ahead of it",
                remedy="correct its driver",
            )

    @staticmethod
    def _is_older(picture: Picture, last: Picture | None) -> bool:
        """It was overtaken on its way. (A device that was reset counts anew, and its clock jumps.)"""
        if last is None or not 0 < picture.number < last.number:
            return False
        return 0.0 < last.device_s - picture.device_s < 1.0

    def _repeats(
        self,
        picture: Picture,
        last: Picture | None,
        rgb: np.ndarray,
        depth: np.ndarray | None,
        noisy: bool,
    ) -> bool:
        if last is not None and picture.device_s == last.device_s:
            return True
        before = self.slots.last() if noisy else None
        if before is None:
            return False
        if _equal(rgb, before[0]):
            return True
        # Where nothing is in range, or the lens is covered, there is no depth and none that could differ.
        same_depth = depth is not None and before[1] is not None and _equal(depth, before[1])
        return same_depth and bool(depth.any())  # type: ignore[union-attr]

    def _publish(
        self,
        picture: Picture,
        before: Picture | None,
        rgb: np.ndarray,
        depth: np.ndarray | None,
        clock: DeviceClock,
    ) -> None:
        slots, received_s = self.slots, picture.received_s
        arrived_s = clock.captured_s(picture.device_s, received_s)
        captured_s = arrived_s - self._section.latency_s
        slots.write(rgb, depth, captured_s, picture.device_s, picture.global_s)
        now_s = time.monotonic()
        if received_s - arrived_s > LATE_PERIODS * self._period_s:
            slots.count("late")
        if before is not None:
            slots.count("dropped", self._missing(picture, before))
        if self._published_s:
            slots.set_time(
                "interval_max_s", max(slots.time("interval_max_s"), now_s - self._published_s)
            )
        self._published_s = now_s
        latency_s = now_s - captured_s
        mean_s = slots.time("latency_mean_s") or latency_s
        slots.set_time("latency_mean_s", mean_s + (latency_s - mean_s) / 100.0)
        slots.set_time("latency_max_s", max(slots.time("latency_max_s"), latency_s))
        slots.set_time("processor_s", self._processor_s + time.process_time())
        self._well()

    def _missing(self, picture: Picture, before: Picture) -> int:
        """Pictures between two, by the device's counter or else by time."""
        if picture.number and before.number:
            return max(0, picture.number - before.number - 1)
        from_s, to_s = (
            (p.received_s if np.isnan(p.device_s) else p.device_s) for p in (before, picture)
        )
        return max(0, round((to_s - from_s) / self._period_s) - 1)

    def _well(self) -> None:
        if self.slots.state != CaptureState.LIVE:
            if self._said:
                self._say("pictures come")
            self.slots.state = CaptureState.LIVE
            self._healthy = 0
        self._healthy += 1
        if self._healthy == _HEALTHY:
            self._failures = 0
        if self._spec is None:
            self._spec = self._candidate
            announce(self._announcement, self._candidate)

    def _say(self, what: str) -> None:
        if what != self._said:
            self._said = what
            print(f"camera {self._name}: {what}", file=sys.stderr, flush=True)

    def _feed_hang_alarm(self) -> None:
        now_s = time.monotonic()
        if now_s - self._armed_s > 1.0:
            self._armed_s = now_s
            faulthandler.dump_traceback_later(HANG_S, exit=True)


def _differences(announced: CameraSpec, found: CameraSpec) -> list[tuple[str, object, object]]:
    """(what, as it was announced, as it is): control and the record go by what was announced."""
    pairs = [
        (name, getattr(announced, name), getattr(found, name))
        for name in CameraSpec.__struct_fields__
    ]
    return [(name, before, now) for name, before, now in pairs if before != now]


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """A sample first: two pictures of a sensor differ in it all but always."""
    sample = slice(None, None, _SAMPLE)
    return np.array_equal(one[sample, sample], other[sample, sample]) and np.array_equal(one, other)


def _size(width: int, height: int, depth: bool) -> str:
    return f"{width}x{height} {'with' if depth else 'without'} depth"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def main() -> None:
    parser = argparse.ArgumentParser(prog="runtime.cameras.capture", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--camera", required=True)
    arguments = parser.parse_args()
    run, name = Run.load(arguments.run_dir), arguments.camera
    stop = StopEvent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # OpenCV's own patience with a silent V4L2 device is 10 s.
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    take_more()
    code = 0
    try:
        make, _ = load(run.config.cameras[name].kind)
        Capture(run, name, lambda: make_one(make, run, name), stop).forever()
    except (EntracteError, msgspec.MsgspecError) as error:
        print(f"camera {name}: {error}", file=sys.stderr)
        code = EXIT_CANNOT_START
    sys.stderr.flush()
    os._exit(
        code
    )  # a driver's own threads can hang or crash in their teardown, and nothing is left to save


if __name__ == "__main__":
    log_without_errors()
    main()
