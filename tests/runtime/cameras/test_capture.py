"""What the capture process does with each picture: a source that plays a script, without a device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contracts.errors import ConfigError, DeviceError
from contracts.specs import CameraSpec
from runtime.cameras import Picture
from runtime.cameras.capture import Capture
from runtime.cameras.from_slots import announced
from runtime.config import CameraSection, load_config
from runtime.frames import FrameSlots
from runtime.run import Run, RunPlan

HEIGHT, WIDTH, PERIOD_S = 48, 64, 1 / 30
SPEC = CameraSpec("front", WIDTH, HEIGHT, 30.0)


def picture(number: int, seed: int | None = None, depth: str = "noise", **times: float) -> Picture:
    random = np.random.default_rng(number if seed is None else seed)
    rgb = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    depths = {
        "noise": random.integers(400, 2000, (HEIGHT, WIDTH), np.uint16),
        "still": np.full((HEIGHT, WIDTH), 700, np.uint16),
        "none": np.zeros((HEIGHT, WIDTH), np.uint16),
    }
    at_s = times.get("device_s", number * PERIOD_S)
    received_s = 1000.0 + times.get("received_s", at_s)
    return Picture(rgb, depths[depth], received_s, at_s, number=number if number < 1000 else 0)


class Script:
    """`Source` that delivers these and then asks for the end."""

    noisy = True

    def __init__(self, pictures: list[Picture], stop: threading.Event) -> None:
        self._pictures, self._stop = list(pictures), stop

    def spec(self) -> CameraSpec:
        return SPEC

    def wait(self, timeout_s: float) -> Picture | None:
        del timeout_s
        if self._pictures:
            return self._pictures.pop(0)
        self._stop.set()
        return None

    def reset(self) -> None: ...

    def close(self) -> None: ...


def a_run(folder: Path, **keys: object) -> Run:
    camera = CameraSection(kind="scripted", width=WIDTH, height=HEIGHT, rate_hz=30.0, **keys)  # type: ignore[arg-type]
    config = msgspec.structs.replace(
        load_config(None, ["pace=realtime"]), cameras={"front": camera}
    )
    return Run(config, RunPlan(), str(folder), str(folder), "test")


def capture(folder: Path, *pictures: Picture, **keys: object) -> FrameSlots:
    stop = threading.Event()
    run = a_run(folder, **keys)
    process = Capture(run, "front", lambda: Script(list(pictures), stop), stop)
    process.forever()
    return FrameSlots.open(run.frames_path("front"))


def test_pictures_dated_by_the_wall_clock_are_refused(tmp_path: Path) -> None:
    """None of them would ever be too old."""
    with pytest.raises(ConfigError, match=r"another clock .*time\.monotonic"):
        capture(tmp_path, picture(1, received_s=time.time()))


def test_a_picture_keeps_its_times_and_its_latency_is_taken_off(tmp_path: Path) -> None:
    slots = capture(tmp_path, picture(1), picture(2), latency_s=0.015)
    frame = slots.newest(5.0)
    assert frame is not None and np.array_equal(frame.rgb, picture(2).rgb)
    assert frame.captured_s == pytest.approx(1000.0 + 2 * PERIOD_S - 0.015)
    assert frame.device_s == pytest.approx(2 * PERIOD_S)
    assert not any(v for k, v in slots.counters().items() if k not in ("opened", "processes"))


def test_a_picture_that_was_overtaken_is_not_published(tmp_path: Path) -> None:
    slots = capture(tmp_path, picture(1), picture(3), picture(2), picture(4))
    assert slots.pictures == 3 and slots.counters()["out_of_order"] == 1


def test_a_device_that_counts_anew_is_believed(tmp_path: Path) -> None:
    """It was reset: a lower number, and a clock that starts again."""
    slots = capture(
        tmp_path,
        *(picture(n, device_s=500.0 + n * PERIOD_S, received_s=n * PERIOD_S) for n in (7, 8)),
        *(picture(n, device_s=n * PERIOD_S, received_s=(8 + n) * PERIOD_S) for n in (1, 2)),
    )
    assert slots.pictures == 4 and slots.counters()["out_of_order"] == 0


@pytest.mark.parametrize("numbered", [True, False])
def test_missing_pictures_are_counted_by_number_or_else_by_time(
    tmp_path: Path, numbered: bool
) -> None:
    base = 1 if numbered else 1001  # above 1000: without numbers
    slots = capture(tmp_path, *(picture(base + n) for n in (0, 1, 5, 6)))
    assert slots.pictures == 4 and slots.counters()["dropped"] == 3


@pytest.mark.parametrize(
    ("repeated", "counted"),
    [
        (lambda: picture(2, seed=1), 1),  # all of it
        (lambda: picture(2, depth="still"), 0),
        (lambda: picture(2, device_s=PERIOD_S), 1),  # new content, the same time
    ],
)
def test_what_repeats_is_not_fresh(
    tmp_path: Path, repeated: Callable[[], Picture], counted: int
) -> None:
    slots = capture(tmp_path, picture(1), repeated(), picture(3))
    assert slots.counters()["frozen"] == counted
    assert slots.counters()["dropped"] == 0, "it came"
    assert slots.pictures == 3 - counted


def test_depth_alone_may_freeze_but_not_where_there_is_none(tmp_path: Path) -> None:
    frozen = capture(tmp_path, *(picture(n, depth="still") for n in (1, 2, 3)))
    assert (frozen.pictures, frozen.counters()["frozen"]) == (1, 2)
    other = tmp_path / "covered"
    other.mkdir()
    covered = capture(other, *(picture(n, depth="none") for n in (1, 2, 3)))
    assert (covered.pictures, covered.counters()["frozen"]) == (3, 0)


def test_a_process_that_is_started_again_knows_the_picture_its_predecessor_saw(
    tmp_path: Path,
) -> None:
    """A frozen camera must not pass for a fresh one because the process was killed."""
    capture(tmp_path, picture(1))
    slots = capture(tmp_path, picture(1, device_s=9.0), picture(2, device_s=9.1))
    assert slots.pictures == 2
    assert (slots.counters()["frozen"], slots.counters()["processes"]) == (1, 2)


def test_pictures_of_the_warm_up_are_passed_over(tmp_path: Path) -> None:
    began_s = time.monotonic()

    class Slow(Script):
        def wait(self, timeout_s: float) -> Picture | None:
            time.sleep(0.02)
            if time.monotonic() - began_s > 0.5:
                self._stop.set()
            return picture(round((time.monotonic() - began_s) * 30) + 1)

    stop = threading.Event()
    run = a_run(tmp_path, warmup_s=0.3)
    Capture(run, "front", lambda: Slow([], stop), stop).forever()
    frame = FrameSlots.open(run.frames_path("front")).newest(0.0)
    assert frame is not None and frame.number < 13


def test_a_device_that_is_busy_is_tried_again_and_a_start_gives_up_in_the_end(
    tmp_path: Path,
) -> None:
    stop, tries = threading.Event(), [0]

    def busy_at_first() -> Script:
        tries[0] += 1
        if tries[0] < 3:
            raise DeviceError("busy")
        return Script([picture(1)], stop)

    run = a_run(tmp_path, start_timeout_s=2.0)
    Capture(run, "front", busy_at_first, stop).forever()
    assert FrameSlots.open(run.frames_path("front")).pictures == 1

    def broken() -> Script:
        raise RuntimeError("xioctl(VIDIOC_S_FMT) failed, errno=16\nDevice or resource busy")

    other = tmp_path / "other"
    other.mkdir()
    run = a_run(other, start_timeout_s=0.2)
    with pytest.raises(DeviceError, match=r"did not open: found xioctl.*errno=16 Device or"):
        Capture(run, "front", broken, threading.Event()).forever()
    assert FrameSlots.open(run.frames_path("front")).counters()["errors"] >= 2


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"serial": "B"}, "expected serial A, found serial B"),
        ({"serial": "B", "fx": 380.0}, "expected fx 600.0, serial A, found fx 380.0, serial B"),
        ({"model": "D405"}, "expected model D435, found model D405"),
        ({"depth_scale_m": 0.0001}, "expected depth_scale_m 0.001, found depth_scale_m 0.0001"),
    ],
)
def test_another_device_in_the_place_of_the_one_that_went_away_is_waited_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], other: dict[str, object], named: str
) -> None:
    """What was announced is what control, calibration and the record go by."""
    stop, was_reset = threading.Event(), []
    own = msgspec.structs.replace(SPEC, model="D435", serial="A", fx=600.0, fy=600.0)

    class Device(Script):
        def __init__(self, spec: CameraSpec, *numbers: int) -> None:
            super().__init__([picture(number) for number in numbers], stop)
            self._spec = spec

        def spec(self) -> CameraSpec:
            return self._spec

        def wait(self, timeout_s: float) -> Picture | None:
            if not self._pictures and coming:
                raise OSError("unplugged")
            return super().wait(timeout_s)

        def reset(self) -> None:
            was_reset.append(self._spec.serial)

    another = msgspec.structs.replace(own, **other)
    coming = [
        Device(own, 1, 2),
        *(Device(another, 11, 12) for _ in range(2)),
        Device(own, 21, 22, 23),
    ]
    run = a_run(tmp_path)
    process = Capture(run, "front", lambda: coming.pop(0), stop)
    process.forever()
    slots, found = FrameSlots.open(run.frames_path("front")), announced(run.camera_path("front"))
    assert slots.pictures == 5, "of its own two and three"
    assert found == own
    assert named in capfd.readouterr().err
    assert not was_reset, "the other one may be somebody else's"


def test_a_process_that_is_started_again_takes_no_other_device_either(tmp_path: Path) -> None:
    capture(tmp_path, picture(1))
    stop, opened = threading.Event(), [0]

    class Other(Script):
        def spec(self) -> CameraSpec:
            return msgspec.structs.replace(SPEC, serial="B")

    def other() -> Other:
        opened[0] += 1
        if opened[0] == 2:
            stop.set()
        return Other([picture(2)], stop)

    run = a_run(tmp_path)
    Capture(run, "front", other, stop).forever()
    assert FrameSlots.open(run.frames_path("front")).pictures == 1
