"""What goes wrong with a camera while the robot runs: real processes, librealsense's software device."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from rehearsals import Rehearsed, make
from robots import until

from runtime.board import LoopState
from runtime.frames import CaptureState, FrameSlots


def _goes_on(robot: Rehearsed) -> None:
    """Pictures come and the loop runs on them."""
    seen = robot.slots.pictures
    until(lambda: robot.slots.state == CaptureState.LIVE and robot.slots.pictures > seen + 10)
    until(lambda: robot.board.loop_state == LoopState.RUNNING)
    before = robot.board.step
    until(lambda: robot.board.step > before + 10)


def _holds(robot: Rehearsed) -> None:
    """Because the newest picture is old (without an action at hand it holds for a moment, too)."""
    oldest_s = robot.run.config.gate.max_frame_age_s + 0.1
    until(lambda: time.monotonic() - robot.slots.newest(0.0).captured_s > oldest_s)
    until(lambda: robot.board.loop_state == LoopState.HOLD)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsed]:
    with pytest.MonkeyPatch.context() as patch:
        # The fixture that does this is per test.
        plugin = Path(__file__).resolve().parents[2] / "plugin"

        patch.syspath_prepend(str(plugin))
        patch.setenv("PYTHONPATH", str(plugin))
        robot = Rehearsed(make(tmp_path_factory.mktemp("robot")))
        with robot:
            until(lambda: robot.board.loop_state == LoopState.RUNNING)
            yield robot


def test_unplugged_the_arm_holds_and_replugged_the_run_goes_on(robot: Rehearsed) -> None:
    opened = robot.count("opened")
    robot.tell("unplug")
    _holds(robot)
    until(lambda: robot.count("silences") > 0 and robot.slots.state == CaptureState.LOST)
    assert robot.board.loop_state != LoopState.FAULT
    robot.tell("")
    _goes_on(robot)
    assert robot.count("opened") == opened + 1


def test_a_picture_that_stands_still_is_no_fresh_picture_and_a_reset_cures_it(
    robot: Rehearsed,
) -> None:
    robot.tell("freeze")
    _holds(robot)
    _goes_on(robot)
    assert robot.count("frozen") > 10
    assert robot.count("resets") == 1


def test_a_device_time_that_stands_still_is_no_fresh_picture(robot: Rehearsed) -> None:
    frozen = robot.count("frozen")
    robot.tell("stopped")
    _holds(robot)
    assert robot.count("frozen") > frozen + 3
    robot.tell("")
    _goes_on(robot)


def test_late_pictures_say_how_late_they_are(robot: Rehearsed) -> None:
    late = robot.count("late")
    robot.tell("late")
    until(lambda: robot.count("late") > late + 10)
    assert robot.slots.time("latency_max_s") > 0.25
    assert robot.slots.newest(0.0).captured_s < time.monotonic() - 0.25
    robot.tell("")
    _goes_on(robot)


def test_pictures_that_never_came_are_counted(robot: Rehearsed) -> None:
    dropped = robot.count("dropped")
    robot.tell("gaps")
    until(lambda: robot.count("dropped") > dropped + 5)
    robot.tell("")
    _goes_on(robot)


def test_an_exception_of_the_driver_is_survived(robot: Rehearsed) -> None:
    errors = robot.count("errors")
    robot.tell("raise")
    until(lambda: robot.count("errors") > errors + 1)
    _holds(robot)
    robot.tell("")
    _goes_on(robot)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGSEGV])
def test_a_capture_process_that_dies_is_started_again(
    robot: Rehearsed, kill: signal.Signals
) -> None:
    pictures, processes = robot.slots.pictures, robot.count("processes")
    child = robot.child("camera-front")
    if kill == signal.SIGSEGV:
        robot.tell("crash")
        until(lambda: child.process.poll() is not None)
        robot.tell("")
    else:
        os.kill(child.process.pid, kill)
        until(lambda: child.process.poll() is not None)
    robot._look_after()
    _goes_on(robot)
    assert robot.count("processes") == processes + 1
    assert robot.slots.pictures > pictures


def test_a_camera_that_stays_away_is_a_fault_after_the_stated_time(tmp_path: Path) -> None:
    with Rehearsed(make(tmp_path, None, "gate.stale_fault_s=1.5")) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        robot.tell("unplug")
        outcome = robot.wait()
    assert outcome.code == 3
    assert "old for 1.5 s" in outcome.what  # and which camera, and why:
    assert "camera 'front' gives nothing (camera 'front' is not there" in outcome.what
    assert outcome.report["cameras"]["front"]["state"] == "lost"


def test_one_of_two_cameras_may_fail_alone(tmp_path: Path) -> None:
    video = str(tmp_path / "wrist.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (96, 128))
    for grey in range(0, 250, 10):
        writer.write(np.full((128, 96, 3), grey, np.uint8))
    writer.release()
    wrist = {"kind": "opencv", "width": 128, "height": 96, "rate_hz": 30, "depth": False}
    wrist |= {"rotation": 90, "options": {"index_or_path": video}}
    with Rehearsed(make(tmp_path, None, f"cameras.wrist={json.dumps(wrist)}")) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        slots = FrameSlots.open(robot.run.frames_path("wrist"))
        robot.tell("silent")
        until(lambda: robot.count("silences") > 0)
        before = slots.pictures
        until(lambda: slots.pictures > before + 20)
        robot.tell("")
        _goes_on(robot)
        report = robot.report()["cameras"]
    assert report["wrist"]["opened"] == 1 and report["wrist"]["silences"] == 0
    assert report["front"]["opened"] == 2 and report["front"]["silences"] == 1
    assert 0.0 < report["front"]["processor_s"] < 60.0


@pytest.mark.slow  # a driver has 20 s to come back
def test_a_driver_that_hangs_ends_its_process_and_is_started_again(tmp_path: Path) -> None:
    with Rehearsed(make(tmp_path, None, "gate.stale_fault_s=60")) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        robot.tell("hang")
        child = robot.child("camera-front")
        first = child.process
        until(lambda: first.poll() is not None, 40.0)
        robot.tell("")
        robot._look_after()
        _goes_on(robot)
        assert robot.count("processes") == 2
    assert "Timeout" in (tmp_path / "logs/camera-front.log").read_text()
