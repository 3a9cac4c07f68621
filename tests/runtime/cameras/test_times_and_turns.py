"""A device's clock on the robot's, and pictures of cameras that are mounted turned."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contracts.specs import CameraSpec
from runtime.cameras.device_clock import DeviceClock
from runtime.cameras.rotation import turn, turned

PERIOD_S, PATH_S, ZERO_S = 1 / 30, 0.02, 5000.0


def _mapped(clock: DeviceClock, delays_s: np.ndarray, drift: float = 0.0) -> np.ndarray:
    """float64[n]: by how much each picture was dated after the moment it was taken."""
    true_s = ZERO_S + np.arange(len(delays_s)) * PERIOD_S
    device_s = (true_s - ZERO_S) * (1.0 + drift)
    return np.array(
        [
            clock.captured_s(float(d), float(t + PATH_S + late)) - t
            for t, d, late in zip(true_s, device_s, delays_s, strict=True)
        ]
    )


def test_lateness_on_the_way_does_not_move_the_time_of_capture() -> None:
    delays_s = np.random.default_rng(0).exponential(0.004, 900)
    delays_s[500:520] = 0.4
    error_s = _mapped(DeviceClock(), delays_s)[30:] - PATH_S
    assert error_s.min() >= 0.0 and error_s.max() < 0.001


@pytest.mark.parametrize("drift", [-5e-5, 0.0, 5e-5])
def test_lateness_that_lasts_is_lateness_still(drift: float) -> None:
    """A queue that is full for two minutes is no longer way: what seemed fresh was old."""
    delays_s = np.random.default_rng(0).exponential(0.004, 30 * 150)
    full = slice(30 * 15, 30 * 135)
    delays_s[full] += 0.4
    error_s = _mapped(DeviceClock(), delays_s, drift) - PATH_S
    assert (
        np.abs(error_s[full]).max() < 0.035
    )  # it can't be told from clocks that part: 0.2 ms a second
    assert np.abs(error_s[30 * 136 :]).max() < 2e-3


@pytest.mark.parametrize("by_the_monotonic_clock", [True, False])
@pytest.mark.parametrize("bend", [-2e-3, 2e-3])
def test_pictures_on_time_are_not_late_while_ntp_bends_the_monotonic_clock(
    bend: float, by_the_monotonic_clock: bool
) -> None:
    raw_s = np.arange(30 * 120) * PERIOD_S
    monotonic_s = ZERO_S + raw_s * (1.0 + bend)
    now_s = ZERO_S, 0.0
    clock = DeviceClock(lambda: now_s[0] - now_s[1])
    late_s = []
    for now_s in zip(monotonic_s.tolist(), raw_s.tolist(), strict=True):
        device_s = now_s[0] if by_the_monotonic_clock else now_s[1]
        late_s.append(now_s[0] - clock.captured_s(device_s, now_s[0]))
    assert max(late_s) < 1e-6


@pytest.mark.parametrize("drift", [-5e-5, 5e-5])
def test_a_crystal_that_drifts_is_followed(drift: float) -> None:
    error_s = _mapped(DeviceClock(), np.zeros(30 * 600), drift) - PATH_S
    assert np.abs(error_s).max() < 1e-6  # of 30 ms in these ten minutes


def test_a_clock_that_starts_again_costs_one_picture_s_lateness_at_most() -> None:
    clock = DeviceClock()
    assert clock.captured_s(4000.0, 10.0) == 10.0
    assert clock.captured_s(4000.5, 10.7) == pytest.approx(10.5, abs=2e-4)  # as clocks may part
    assert clock.captured_s(0.1, 11.0) == 11.0  # 32 bits of microseconds, or a reset
    assert clock.captured_s(0.6, 11.6) == pytest.approx(11.5, abs=2e-4)
    assert clock.restarts == 1
    for none in (math.nan, math.inf, -math.inf):
        assert clock.captured_s(none, 12.0) == 12.0
    assert clock.captured_s(1.0, 12.1) == pytest.approx(
        11.9, abs=4e-4
    )  # and nothing is left of them


@pytest.mark.parametrize("step_s", [3600.0, -3600.0])
def test_a_driver_that_dates_by_the_wall_clock_survives_its_being_set(step_s: float) -> None:
    """Without metadata from the kernel librealsense has nothing else."""
    clock, wall_s = DeviceClock(), 1.8e9
    for number in range(200):
        at_s = number * PERIOD_S
        stamp_s = wall_s + at_s + (step_s if number >= 100 else 0.0)
        error_s = clock.captured_s(stamp_s, ZERO_S + at_s + PATH_S) - (ZERO_S + at_s + PATH_S)
        assert -1e-6 < error_s <= 0.0


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_a_turned_camera_s_spec_projects_to_where_its_picture_is(degrees: int) -> None:
    spec = CameraSpec("wrist", 64, 48, 30.0, fx=70.0, fy=66.0, cx=30.0, cy=25.0)
    x, y, z = 0.1, -0.05, 0.5
    column, row = round(spec.fx * x / z + spec.cx), round(spec.fy * y / z + spec.cy)
    picture = np.zeros((48, 64), np.uint8)
    picture[row, column] = 255
    seen = turn(picture, degrees)
    after = turned(spec, degrees)
    assert (after.height, after.width) == seen.shape
    right, down = {0: (x, y), 90: (-y, x), 180: (-x, -y), -90: (y, -x)}[degrees]
    found_row, found_column = np.argwhere(seen)[0]
    assert after.fx * right / z + after.cx == pytest.approx(found_column, abs=0.51)
    assert after.fy * down / z + after.cy == pytest.approx(found_row, abs=0.51)
