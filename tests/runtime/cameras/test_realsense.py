"""Our RealSense source on librealsense's software device, against librealsense itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyrealsense2 as rs
import pytest
from soft_realsense import BASELINE_M, SERIAL, SoftD435, noise

from contracts.errors import ConfigError, DeviceError, EntracteError
from runtime.cameras import Picture
from runtime.cameras.examine import examine
from runtime.cameras.realsense import RealSense, one_at_a_time
from runtime.config import CameraSection, load_config
from runtime.run import Run, RunPlan

SIZE = (640, 480)


def a_run(folder: Path, kind: str = "realsense", **keys: Any) -> Run:
    camera = {"kind": kind, "width": SIZE[0], "height": SIZE[1], "rate_hz": 30.0} | keys
    config = msgspec.structs.replace(
        load_config(None, ["pace=realtime"]), cameras={"front": CameraSection(**camera)}
    )
    return Run(config, RunPlan(), str(folder), str(folder), "test")


def stream(source: RealSense, soft: SoftD435, count: int) -> list[tuple[int, Picture]]:
    """Feed pictures by number until `count` of them came out, each with its number."""
    found: list[tuple[int, Picture]] = []
    for number in range(1, 100):
        soft.feed(number, *noise(soft.size, number), 1.7e9 + number / 30, number / 30)
        picture = source.wait(0.05)
        if picture is not None:
            found.append((picture.number, picture))
        if len(found) == count:
            return found
    raise AssertionError("the device's pictures don't come through")


def test_depth_is_aligned_bit_for_bit_as_librealsense_aligns_it(tmp_path: Path) -> None:
    soft, reference = SoftD435(*SIZE, 30), SoftD435(*SIZE, 30)
    source = RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    ours = stream(source, soft, 6)
    source.close()

    syncer, align = rs.syncer(4), rs.align(rs.stream.color)
    for sensor in reference.device.query_sensors():
        sensor.open(sensor.get_stream_profiles())
        sensor.start(syncer)
    theirs: dict[int, Any] = {}
    for number in range(1, ours[-1][0] + 1):
        reference.feed(number, *noise(soft.size, number), 1.7e9 + number / 30, number / 30)
        there, frames = syncer.try_wait_for_frames(200)
        if there and frames.get_color_frame() and frames.get_depth_frame():
            theirs[frames.get_color_frame().get_frame_number()] = align.process(frames)
    for sensor in reference.device.query_sensors():
        sensor.stop()
        sensor.close()

    both = [(number, picture) for number, picture in ours if number in theirs]
    assert len(both) >= 3  # the first sets of a syncer may lack a frame
    for number, picture in both:
        rgb, depth = noise(soft.size, number)
        aligned = np.asanyarray(theirs[number].get_depth_frame().get_data())
        assert np.array_equal(picture.rgb, rgb)
        assert picture.depth is not None and np.array_equal(picture.depth, aligned)
        assert np.count_nonzero(aligned) and not np.array_equal(aligned, depth)
        assert picture.device_s == pytest.approx(number / 30, abs=1e-6)
        assert picture.global_s == pytest.approx(1.7e9 + number / 30, abs=1e-3)


def test_the_spec_says_what_the_device_is(tmp_path: Path) -> None:
    soft = SoftD435(*SIZE, 30)
    source = RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    spec = source.spec()
    source.close()
    assert (spec.width, spec.height, spec.rate_hz) == (*SIZE, 30.0)
    assert (spec.fx, spec.cx, spec.cy) == pytest.approx((0.95 * 640, 320, 240))
    assert spec.depth_scale_m == pytest.approx(0.001)
    assert (spec.model, spec.serial) == ("Intel RealSense D435", SERIAL)


def test_a_d405_gives_both_streams_from_one_sensor(tmp_path: Path) -> None:
    soft = SoftD435(*SIZE, 30, d405=True)
    source = RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    [(number, picture)] = stream(source, soft, 1)
    source.close()
    assert np.array_equal(picture.rgb, noise(soft.size, number)[0])
    assert picture.depth is not None and picture.depth.any()
    assert source.spec().depth_scale_m == pytest.approx(1e-4)


def test_an_exposure_by_hand_turns_the_automatism_off(tmp_path: Path) -> None:
    soft = SoftD435(*SIZE, 30)
    RealSense(
        a_run(tmp_path), "front", color_options={"exposure": 120}, devices=lambda: [soft.device]
    ).close()
    colour = soft.device.query_sensors()[1]
    assert colour.get_option(rs.option.exposure) == 120
    assert colour.get_option(rs.option.enable_auto_exposure) == 0


def test_filters_do_what_librealsense_does_before_it_aligns(tmp_path: Path) -> None:
    soft = SoftD435(*SIZE, 30)
    filters = {"hole_filling": {"holes_fill": 1}, "spatial": {"filter_magnitude": 3}}
    source = RealSense(a_run(tmp_path), "front", filters=filters, devices=lambda: [soft.device])
    [(_, filtered)] = stream(source, soft, 1)
    source.close()
    plain = RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    [(_, unfiltered)] = stream(plain, soft, 1)
    plain.close()
    assert filtered.depth is not None and unfiltered.depth is not None
    assert (filtered.depth == 0).sum() < (unfiltered.depth == 0).sum()


def _twins() -> list[Any]:
    return [SoftD435(64, 48, 30, serial).device for serial in ("111", "222")]


@pytest.mark.parametrize(
    ("attached", "options", "keys", "kind", "sentence"),
    [
        (lambda: [], {}, {}, DeviceError, "'front' is not there.*none attached.*check the cable"),
        (
            _twins,
            {"serial_number_or_name": "333"},
            {},
            DeviceError,
            "expected RealSense 333, found Intel RealSense D435 111, .* 222",
        ),
        (_twins, {}, {}, ConfigError, "could be any of several.*111.*222.*serial_number_or_name"),
        (
            _twins,
            {"serial_number_or_name": "111"},
            {"width": 640},
            ConfigError,
            "no such color mode: expected 640x48 at 30 Hz, found 64x48 at 30 Hz",
        ),
        (
            _twins,
            {"serial_number_or_name": "111", "color_options": {"exposure": 1e6}},
            {},
            ConfigError,
            "exposure of camera 'front': expected 1 to 10000, found 1000000",
        ),
        (
            _twins,
            {"serial_number_or_name": "111", "color_options": {"exposur": 1}},
            {},
            ConfigError,
            "no option 'exposur': expected one of .*'exposure'",
        ),
        (
            _twins,
            {"serial_number_or_name": "111", "filters": {"spacial": {}}},
            {},
            ConfigError,
            "no depth filter 'spacial'.*'spatial'",
        ),
    ],
)
def test_what_is_wrong_is_one_clear_sentence(
    tmp_path: Path,
    attached: Callable[[], list[Any]],
    options: dict[str, Any],
    keys: dict[str, Any],
    kind: type[EntracteError],
    sentence: str,
) -> None:
    run = a_run(tmp_path, **({"width": 64, "height": 48} | keys))
    with pytest.raises(kind, match=sentence):
        RealSense(run, "front", devices=attached, **options)


def test_a_device_that_another_program_has_is_said_so(tmp_path: Path) -> None:
    soft = SoftD435(*SIZE, 30)
    first = RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    with pytest.raises(DeviceError, match=f"{SERIAL}.* does not start"):
        RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    first.close()


def test_the_doctor_names_serial_firmware_and_usb_with_the_fix(tmp_path: Path) -> None:
    soft = SoftD435(*SIZE, 30)
    section = a_run(tmp_path).config.cameras["front"]
    [line] = examine("front", section, lambda: [soft.device])
    assert (line.what, line.status) == ("camera front", "warn")
    assert f"{SERIAL}, 640x480 at 30 Hz, firmware 5.13.0.50, USB 2.1" in line.found
    assert "USB 3 port" in line.fix and "5.16.0.1" in line.fix
    [absent] = examine("front", section, lambda: [])
    assert absent.status == "fail" and "check the cable" in absent.found
    wanted = msgspec.structs.replace(section, options={"serial_number_or_name": "111"})
    [absent, attached] = examine("front", wanted, lambda: [soft.device])
    assert absent.status == "fail" and attached.what == f"Intel RealSense D435 {SERIAL}"


def test_the_baseline_shows_in_what_is_aligned(tmp_path: Path) -> None:
    """A plane at 1 m: its depth lands where the colour camera sees it."""
    soft = SoftD435(*SIZE, 30)
    source = RealSense(a_run(tmp_path), "front", devices=lambda: [soft.device])
    depth = np.zeros(soft.size, np.uint16)
    depth[230:250, 310:330] = 1000
    for number in range(1, 10):
        soft.feed(number, noise(soft.size, number)[0], depth, 1.7e9 + number / 30, number / 30)
        if (picture := source.wait(0.05)) is not None:
            break
    source.close()
    assert picture is not None and picture.depth is not None
    _, columns = np.nonzero(picture.depth)
    k = source.spec()
    assert columns.mean() == pytest.approx(k.cx + k.fx * BASELINE_M / 1.0, abs=1.5)


def test_cameras_are_opened_one_after_the_other(tmp_path: Path) -> None:
    order: list[str] = []

    def open_one(name: str) -> None:
        with one_at_a_time(tmp_path / "realsense.lock", name):
            order.append(name)
            time.sleep(0.1)
            order.append(name)

    threads = [threading.Thread(target=open_one, args=(name,)) for name in ("front", "wrist")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert order[0] == order[1] and order[2] == order[3] and len(set(order)) == 2
