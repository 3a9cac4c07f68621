"""What a RealSense says beyond its spec, of librealsense's software device: firmware, its factory's lens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import pyrealsense2 as rs
import pytest
from typer.testing import CliRunner

from calibration import drift, measured, shots
from calibration.app import app
from calibration.boards import Board
from calibration.capture import devices, factory
from calibration.capture.taking import Capture, Left, Picture
from calibration.lenses import Lens
from contracts.calibration import VERSION, Calibration, CameraCalibration, HandEye
from contracts.specs import CameraSpec
from tests.plugin.soft_realsense import SERIAL, SoftD435

SECTIONS = {"wrist": {"kind": "realsense"}, "front": {"kind": "sim"}}
BENT = (-0.055, 0.066, -0.0008, 0.0004, -0.021)


@pytest.fixture
def soft() -> SoftD435:
    """With one more mode of its colour, whose lens is bent as a D455's is."""
    device = SoftD435(640, 480, 30)
    k = rs.intrinsics()
    k.width, k.height, k.fx, k.fy, k.ppx, k.ppy = 1280, 720, 640.5, 639.5, 642.0, 361.0
    k.model, k.coeffs = rs.distortion.inverse_brown_conrady, list(BENT)
    stream = rs.video_stream()
    stream.type, stream.fmt, stream.index, stream.uid = rs.stream.color, rs.format.rgb8, 0, 9
    stream.width, stream.height, stream.fps, stream.bpp = 1280, 720, 30, 3
    stream.intrinsics = k
    device.colour.add_video_stream(stream)
    return device


def spec(width: int, height: int, **lens: float) -> CameraSpec:
    return CameraSpec("wrist", width, height, 30.0, **lens, serial=SERIAL)


LARGE = spec(1280, 720, fx=640.5, fy=639.5, cx=642.0, cy=361.0)


def test_firmware_and_distortion_come_from_the_device(soft: SoftD435) -> None:
    found = factory.attached(SECTIONS, lambda: [soft.device])
    assert list(found.devices) == [SERIAL] and found.cameras == {"wrist"}
    cameras, said = devices.shot_cameras({"wrist": LARGE}, "hand", Board(), None, found)
    wrist = cameras["wrist"]
    assert not said and wrist.firmware == "5.13.0.50" and wrist.serial == SERIAL
    assert wrist.lens.model == "inverse_brown_conrady"
    assert wrist.lens.distortion == pytest.approx(BENT)
    # As librealsense itself undoes it, at a corner of the picture.
    k = rs.intrinsics()
    k.width, k.height, k.fx, k.fy, k.ppx, k.ppy = 1280, 720, 640.5, 639.5, 642.0, 361.0
    k.model, k.coeffs = rs.distortion.inverse_brown_conrady, list(BENT)
    x, y, _ = rs.rs2_deproject_pixel_to_point(k, [1200.0, 40.0], 1.0)
    straight = wrist.lens.straighten(np.array([[1200.0, 40.0]]))
    assert straight[0] == pytest.approx([640.5 * x + 642.0, 639.5 * y + 361.0], abs=0.02)
    assert np.abs(straight[0] - [1200.0, 40.0]).max() > 2.0
    # What the robot's calibration.json will hold.
    empty = Calibration(version=VERSION, robot_id="bench-0", arm="sim", date="")
    assert measured.with_device(empty, "wrist", wrist).cameras["wrist"].firmware == "5.13.0.50"

    small = spec(640, 480, fx=0.95 * 640, fy=0.95 * 640, cx=320.0, cy=240.0)
    plain, said = devices.shot_cameras({"wrist": small}, "hand", Board(), None, found)
    assert not said and plain["wrist"].lens.model == "none"


def test_a_camera_that_is_turned_is_told_that_its_distortion_is_left_out(soft: SoftD435) -> None:
    found = factory.attached(SECTIONS, lambda: [soft.device])
    turned = spec(1280, 720, fx=640.5, fy=639.5, cx=1279 - 642.0, cy=719 - 361.0)
    cameras, said = devices.shot_cameras({"wrist": turned}, "hand", Board(), None, found)
    assert cameras["wrist"].lens.model == "none" and cameras["wrist"].firmware == "5.13.0.50"
    assert len(said) == 1 and "its factory's distortion is left out" in said[0]


def test_a_lens_that_lies_on_its_side_is_turned_and_not_unread(soft: SoftD435) -> None:
    found = factory.attached(SECTIONS, lambda: [soft.device])
    side = spec(720, 1280, fx=639.5, fy=640.5, cx=719 - 361.0, cy=642.0)
    cameras, said = devices.shot_cameras({"wrist": side}, "hand", Board(), None, found)
    assert cameras["wrist"].lens.model == "none"
    assert len(said) == 1 and "its factory's distortion is left out" in said[0]


def test_nobody_is_asked_where_there_is_no_realsense_and_silence_is_no_error_but_said() -> None:
    def broken() -> list[object]:
        raise RuntimeError("failed to set power state")

    assert factory.attached({"front": {"kind": "sim"}}, broken) == factory.Attached()
    silent, gone = factory.attached(SECTIONS, broken), factory.attached(SECTIONS, list)
    front = msgspec.structs.replace(LARGE, name="front")
    specs = {"wrist": LARGE, "front": front}
    for found, why in (
        (silent, "failed to set power state"),
        (gone, f"no device {SERIAL} answers"),
    ):
        cameras, said = devices.shot_cameras(specs, "hand", Board(), None, found)
        assert cameras["wrist"].firmware == "" and cameras["wrist"].lens.model == "none"
        assert said == [
            f"the factory's lens of camera 'wrist' can't be read ({why}): it is taken for a pinhole without "
            "distortion. Calibrate its lens: --lens, then robot-calibrate intrinsics"
        ]
        assert (cameras["wrist"].lens_doubt, cameras["front"].lens_doubt) == (said[0], "")


def test_a_lens_that_nobody_here_can_follow_is_said_and_stays_in_the_capture(
    soft: SoftD435, tmp_path: Path
) -> None:
    k = rs.intrinsics()
    k.width, k.height, k.fx, k.fy, k.ppx, k.ppy = 848, 480, 420.5, 419.5, 424.0, 241.0
    k.model, k.coeffs = rs.distortion.modified_brown_conrady, list(BENT)
    stream = rs.video_stream()
    stream.type, stream.fmt, stream.index, stream.uid = rs.stream.color, rs.format.rgb8, 0, 10
    stream.width, stream.height, stream.fps, stream.bpp = 848, 480, 30, 3
    stream.intrinsics = k
    soft.colour.add_video_stream(stream)
    found = factory.attached(SECTIONS, lambda: [soft.device])
    wide = spec(848, 480, fx=420.5, fy=419.5, cx=424.0, cy=241.0)
    cameras, (said,) = devices.shot_cameras({"wrist": wide}, "hand", Board(), None, found)
    assert "(its distortion is of the model modified_brown_conrady)" in said
    assert cameras["wrist"].firmware == "5.13.0.50" and cameras["wrist"].lens.model == "none"
    _, none = devices.shot_cameras({"wrist": LARGE}, "hand", Board(), None, found)
    assert none == [], "that of another size is known"

    capture = Capture(tmp_path / "capture", cameras)
    pixels = Picture(cv2.imencode(".png", np.zeros((480, 848), np.uint8))[1].tobytes())
    capture.take(np.eye(4), {}, {"wrist": pixels})
    assert shots.read(tmp_path / "capture").cameras["wrist"].lens_doubt == said
    again = ["capture", "--again", str(tmp_path / "capture"), "--output", str(tmp_path / "again")]
    assert said in CliRunner().invoke(app, again).stderr
    left = msgspec.json.decode(CliRunner().invoke(app, [*again, "--json"]).stdout, type=Left)
    assert left.doubts == (said,)

    # Until it is calibrated.
    lens = Lens(width=848, height=480, fx=420.5, fy=419.5, cx=424.0, cy=241.0)
    known = Calibration(
        version=VERSION,
        robot_id="bench-0",
        arm="sim",
        date="",
        cameras={"wrist": CameraCalibration(serial=SERIAL, lens=lens, lens_px=0.4)},
    )
    cameras, none = devices.shot_cameras({"wrist": wide}, "hand", Board(), known, found)
    assert none == [] and cameras["wrist"].lens_doubt == ""


def test_drift_looks_through_the_lens_that_the_place_was_found_by() -> None:
    """A factory's, too, which the camera's spec does not tell."""
    lens = Lens(
        width=1280, height=720, fx=640.5, fy=639.5, cx=642.0, cy=361.0,
        model="inverse_brown_conrady", distortion=BENT,
    )  # fmt: skip
    unit = tuple(np.eye(4).reshape(-1).tolist())
    place = HandEye(
        mount="hand", pose=unit, covariance=tuple((0.0,) * 6 for _ in range(6)), stands=12,
        corner_px=0.3, held_out_px=0.5, held_out_mm=1.0, interval_mm=1.0, interval_deg=0.1,
        verdict="pass", board=msgspec.to_builtins(Board()), board_pose=unit,
    )  # fmt: skip
    camera = CameraCalibration(serial=SERIAL, lens=lens, hand_eye=place)
    known = Calibration(
        version=VERSION, robot_id="bench-0", arm="sim", date="", cameras={"wrist": camera}
    )
    session = SimpleNamespace(cameras={"wrist": SimpleNamespace(spec=lambda: LARGE)})
    seen = drift._cameras(session, known, ["wrist"])  # type: ignore[arg-type]
    assert seen["wrist"].lens.distortion == pytest.approx(BENT)
