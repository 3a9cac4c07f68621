"""An observation is of one moment: nearest pictures, joints in between, the chunk carried out from there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ConfigError
from contracts.specs import CameraSpec
from runtime.arms import ArmState
from runtime.config import load_config
from runtime.control.alignment import JointHistory
from runtime.control.scheduler import Chunk, Scheduler
from runtime.control.senses import Senses
from runtime.frames import Frame, FrameSlots


class Camera:
    """Slots of a picture whose every pixel is its number."""

    def __init__(self, folder: Path, name: str, rate_hz: float = 30.0) -> None:
        self._spec = CameraSpec(name, 4, 4, rate_hz)
        self._writer = FrameSlots.create(folder / name, 4, 4, True)
        self._slots = FrameSlots.open(folder / name)

    def show(self, captured_s: float) -> None:
        number = self._writer.pictures + 1
        self._writer.write(
            np.full((4, 4, 3), number, np.uint8), np.full((4, 4), number, np.uint16), captured_s
        )

    def spec(self) -> CameraSpec:
        return self._spec

    def newest(self, now_s: float) -> Frame | None:
        return self._slots.newest(now_s)

    def nearest(self, now_s: float, at_s: float) -> Frame | None:
        return self._slots.nearest(now_s, at_s)


def senses_of(cameras: dict[str, Camera], *overrides: str) -> tuple[Senses, list[ArmState]]:
    readings: list[ArmState] = []
    arm: Any = SimpleNamespace(read=lambda: readings[-1])
    return Senses(cameras, arm, load_config(None, overrides)), readings  # type: ignore[arg-type]


def reading(at_s: float) -> ArmState:
    """A joint that moves 10 deg a second."""
    return ArmState(np.array([10.0 * at_s], np.float32), at_s)


def test_pictures_and_joints_are_of_the_moment_of_the_latest_camera(tmp_path: Path) -> None:
    front, wrist = Camera(tmp_path, "front"), Camera(tmp_path, "wrist")
    senses, readings = senses_of(
        {"front": front, "wrist": wrist}, "cameras.front.latency_s=0.01", "arm.state_latency_s=0.02"
    )
    for tick in range(30):
        now_s = 1.0 + 0.01 * tick
        if tick % 3 == 0:
            front.show(now_s)
            wrist.show(now_s - 0.065)  # a camera that is two pictures behind
        readings.append(reading(now_s))
        seen = senses.observe(now_s)
    newest_s = 1.27
    assert seen.true_s == pytest.approx(newest_s - 0.065)
    assert seen.frames["wrist"].captured_s == pytest.approx(newest_s - 0.065)
    assert seen.frames["front"].captured_s == pytest.approx(newest_s - 0.06)
    assert (seen.frames["front"].rgb == 8).all() and (seen.frames["front"].depth == 8).all()
    # A reading of time t says how the joints stood at t - 0.02.
    assert seen.posture.at_s == seen.true_s
    assert seen.posture.positions[0] == pytest.approx(10.0 * (seen.true_s + 0.02), abs=1e-3)
    # The gate judges the newest of everything.
    assert seen.joints is readings[-1] and seen.state_age_s == 0.0
    assert seen.frame_age_s == pytest.approx(1.29 - newest_s + 0.065)


def _complete_at(
    folder: Path, rates_hz: dict[str, float], *overrides: str, stalls_s: float = 99.0
) -> tuple[list[float], list[float]]:
    """Two cameras at their rates for three seconds, as late as configured; `wrist` stalls at `stalls_s`. The
    times at which the observation was complete, and those at which it was not."""
    cameras = {name: Camera(folder, name, rate_hz) for name, rate_hz in rates_hz.items()}
    senses, readings = senses_of(cameras, *overrides)
    late_s = {name: load_config(None, overrides).cameras[name].latency_s for name in cameras}
    shown = dict.fromkeys(cameras, 0)
    whole: list[float] = []
    broken: list[float] = []
    for tick in range(300):
        now_s = 1.0 + 0.01 * tick
        for name, camera in cameras.items():
            due = int((now_s - 1.0 - late_s[name]) * rates_hz[name] + 1e-6)
            if due > shown[name] and (name != "wrist" or now_s < stalls_s):
                shown[name] = due
                camera.show(1.0 + due / rates_hz[name])
        readings.append(reading(now_s))
        seen = senses.observe(now_s)
        if all(shown.values()):
            (whole if seen.complete else broken).append(now_s)
    return whole, broken


@pytest.mark.parametrize(
    ("front_hz", "wrist_hz", "front_s", "wrist_s"),
    [
        (30.0, 30.0, 0.01, 0.01),
        (30.0, 30.0, 0.0, 0.15),  # over a network: always further back than the other's slots
        (60.0, 5.0, 0.01, 0.05),
        (5.0, 60.0, 0.01, 0.05),
        (60.0, 5.0, 0.3, 0.0),
    ],
)
def test_cameras_that_are_well_are_complete_whatever_their_rates(
    tmp_path: Path, front_hz: float, wrist_hz: float, front_s: float, wrist_s: float
) -> None:
    rates = {"front": front_hz, "wrist": wrist_hz}
    latencies = (f"cameras.front.latency_s={front_s}", f"cameras.wrist.latency_s={wrist_s}")
    whole, broken = _complete_at(tmp_path, rates, *latencies)
    assert not broken and len(whole) > 200


def test_of_pictures_that_came_long_after_a_stalled_camera_s_last_nothing_is_inferred(
    tmp_path: Path,
) -> None:
    latencies = ("cameras.front.latency_s=0.01", "cameras.wrist.latency_s=0.01")
    whole, broken = _complete_at(tmp_path, {"front": 30.0, "wrist": 30.0}, *latencies, stalls_s=2.0)
    assert 2.0 < max(whole) < 2.0 + 6 / 30, "a picture that is late by a few is waited for"
    assert min(broken) > 2.0 and len(broken) > 170
    assert max(whole) < min(broken)


def test_cameras_that_give_less_than_their_rate_are_complete(tmp_path: Path) -> None:
    """In the dark a webcam halves its rate: the pictures that there are lie about the moment."""
    front, wrist = Camera(tmp_path, "front"), Camera(tmp_path, "wrist")
    senses, readings = senses_of({"front": front, "wrist": wrist}, "cameras.front.latency_s=0.01")
    for tick in range(100):
        now_s = 1.0 + 0.01 * tick
        if tick % 10 == 0:
            front.show(now_s)
        if tick % 10 == 5:
            wrist.show(now_s)
        readings.append(reading(now_s))
        seen = senses.observe(now_s)
        assert seen.complete == (tick >= 5)


def test_without_latencies_nothing_is_changed(tmp_path: Path) -> None:
    front, wrist = Camera(tmp_path, "front"), Camera(tmp_path, "wrist")
    senses, readings = senses_of({"front": front, "wrist": wrist})
    for now_s in (1.0, 1.1, 1.2):
        front.show(now_s)
        wrist.show(now_s - 0.05)
        readings.append(reading(now_s))
        seen = senses.observe(now_s)
        assert [frame.captured_s for frame in seen.frames.values()] == [now_s, now_s - 0.05]
        assert seen.posture is seen.joints is readings[-1]
        assert seen.true_s == seen.at_s == now_s


def test_a_picture_is_copied_once_and_given_again_until_there_is_a_newer(tmp_path: Path) -> None:
    camera = Camera(tmp_path, "front")
    assert camera.newest(0.0) is None and camera.nearest(0.0, 0.0) is None
    camera.show(1.0)
    first = camera.newest(1.1)
    assert first is not None and camera.newest(1.2) is first and first.received_s == 1.1
    with pytest.raises(ValueError, match="read-only"):
        first.rgb[0, 0] = 9
    camera.show(2.0)
    second = camera.newest(2.1)
    assert second is not None and second is not first and (first.rgb == 1).all()
    assert [camera.nearest(9.0, s).number for s in (0.0, 1.4, 1.6, 9.0)] == [1, 1, 2, 2]  # type: ignore[union-attr]
    for at_s in (3.0, 4.0, 5.0):
        camera.show(at_s)
    # Of four slots the oldest may be overwritten at any moment: three are looked at.
    assert camera.nearest(9.0, 0.0).captured_s == 3.0  # type: ignore[union-attr]


@given(
    # Engines in this process may have switched subnormal numbers off, which Hypothesis will not have.
    st.lists(st.floats(0.001, 0.1, allow_subnormal=False), min_size=1, max_size=40),
    st.floats(-0.5, 5.0, allow_subnormal=False),
)
def test_joints_are_interpolated_and_never_extrapolated(steps_s: list[float], at_s: float) -> None:
    history = JointHistory(16)
    times_s = np.cumsum(steps_s)
    for time_s in times_s:
        history.add(float(time_s), np.array([7.0 * time_s], np.float32))
    kept_s = times_s[-16:]
    positions, of_s = history.at(at_s)
    assert of_s == pytest.approx(float(np.clip(at_s, kept_s[0], kept_s[-1])))
    assert positions[0] == pytest.approx(7.0 * of_s, rel=1e-4, abs=1e-3)


def test_a_chunk_is_carried_out_from_its_observations_true_time() -> None:
    """Entry k is of the time k periods after the moment that was seen, not after the tick that saw it."""
    for lag in (0.0, 0.5, 1.75):
        scheduler = Scheduler(ratio=2, execute=4)
        actions = [
            (float(2 * k) - lag,) for k in range(10)
        ]  # the tick it belongs to, counted from step 5
        scheduler.accept(Chunk(0, 5, actions, lag=lag), 6)
        for step in range(6, 20):
            assert scheduler.choose(step).action == (pytest.approx(step - 5.0),)


def test_latencies_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"arm\.state_latency_s"):
        load_config(None, ["arm.state_latency_s=-0.1"])
