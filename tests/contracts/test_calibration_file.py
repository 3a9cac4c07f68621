"""`calibration.json`: its id is its content's, its signature is checked, and what differs is named."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from contracts.calibration import (
    Calibration,
    CameraCalibration,
    DepthCheck,
    HandEye,
    Intrinsics,
    Latency,
    apart,
    calibration_id,
    differences,
)
from contracts.errors import ConfigError
from contracts.files import calibration_file
from contracts.key_rotation import hex_of

POSE = (*(1.0, 0.0, 0.0, 0.3), *(0.0, 1.0, 0.0, 0.1), *(0.0, 0.0, 1.0, 0.5), *(0.0, 0.0, 0.0, 1.0))
LENS = Intrinsics(width=640, height=480, fx=600.0, fy=600.0, cx=320.0, cy=240.0)
HAND_EYE = HandEye(
    mount="world",
    pose=POSE,
    covariance=tuple(tuple(row) for row in (1e-6 * np.eye(6)).tolist()),
    stands=15,
    corner_px=0.3,
    held_out_px=1.1,
    held_out_mm=1.4,
    interval_mm=2.0,
    interval_deg=0.3,
    verdict="pass",
    board={"kind": "charuco", "columns": 7},
    board_pose=POSE,
)
DEPTH = DepthCheck(scale=1.002, plane_mm=0.8, distance_m=0.4)
FRONT = CameraCalibration(serial="123", firmware="5.16", lens=LENS, hand_eye=HAND_EYE)
CALIBRATION = Calibration(
    version=1, robot_id="bench-0", arm="sim", date="2026-01-31T12:00:00Z", cameras={"front": FRONT}
)


def turned(degrees: float, by_m: float) -> tuple[float, ...]:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    pose = np.reshape(POSE, (4, 4)).copy()
    pose[:3, :3] = [[c, -s, 0], [s, c, 0], [0, 0, 1]]
    pose[0, 3] += by_m
    return tuple(pose.reshape(-1).tolist())


def changed(**fields: object) -> Calibration:
    front = msgspec.structs.replace(FRONT, **fields)
    return msgspec.structs.replace(CALIBRATION, cameras={"front": front})


def test_it_is_read_as_it_was_written_and_the_one_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c" / "calibration.json"
    key = calibration_file.signing_key(path)
    assert hex_of(calibration_file.signing_key(path).public_key()) == hex_of(key.public_key())
    assert (path.parent / "keys" / "calibration.key").stat().st_mode & 0o077 == 0
    first = calibration_file.write(path, CALIBRATION, key)
    assert first == calibration_id(CALIBRATION)
    later = changed(serial="124")
    second = calibration_file.write(path, later, key)
    assert second != first
    public = hex_of(key.public_key())
    assert calibration_file.read(path, public) == later
    assert calibration_file.former(path, first, public) == CALIBRATION
    assert calibration_file.former(path, "../calibration", public) is None
    assert calibration_file.former(path, "0" * 16, public) is None


def test_what_is_changed_foreign_or_malformed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    key = calibration_file.signing_key(path)
    public = hex_of(key.public_key())
    calibration_file.write(path, CALIBRATION, key)
    text = path.read_text()
    other = hex_of(calibration_file.signing_key(tmp_path / "other" / "c.json").public_key())
    for wrong, words in ((other, "another key"), ("", "no key for"), ("zz", "64 hex digits")):
        with pytest.raises(ConfigError, match=words):
            calibration_file.read(path, wrong)
    for damaged, words in (
        (text.replace("600.0", "601.0", 1), "changed after it was signed"),
        (text.replace('"id": "', '"id": "0'), "another id"),
        (text.replace('"version": 1', '"version": 2'), "another version"),
        (text.replace('"arm": "sim"', '"arms": "sim"'), "no calibration"),
        (text.replace("600.0", "-1.0", 1), "no calibration"),
        (text[:-30], "no calibration"),
        ("[" * 100_000, "no calibration"),
    ):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match=words):
            calibration_file.read(path, public)
    path.unlink()
    with pytest.raises(ConfigError, match="can't read the calibration"):
        calibration_file.read(path, public)


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (changed(serial="124"), "camera 'front' serial number 123 -> 124"),
        (changed(firmware=""), "firmware 5.16 -> unknown"),
        (changed(lens=msgspec.structs.replace(LENS, fx=612.0)), "fx 600.00 -> 612.00 px"),
        (
            changed(lens=msgspec.structs.replace(LENS, width=1280, height=960)),
            "resolution 640x480 -> 1280x960",
        ),
        (
            changed(hand_eye=msgspec.structs.replace(HAND_EYE, pose=turned(1.5, 0.004))),
            "moved by 4.00 mm and 1.50 deg",
        ),
        (changed(hand_eye=None), "pose was not measured in both"),
        (changed(latency=Latency(seconds=0.05, half_width_s=0.002)), "latency was not measured"),
        (changed(depth=DEPTH), "depth was not checked in both"),
        (msgspec.structs.replace(CALIBRATION, cameras={}), "camera 'front' is gone"),
        (msgspec.structs.replace(CALIBRATION, arm="so101 x"), "arm 'sim' -> 'so101 x'"),
    ],
)
def test_each_difference_is_named(later: Calibration, words: str) -> None:
    found = differences(CALIBRATION, later)
    assert len(found) == 1 and words in found[0]


def test_small_angles_are_angles_and_the_same_differs_in_nothing() -> None:
    mm, degrees = apart(POSE, turned(0.006, 0.0))
    assert mm == 0.0 and degrees == pytest.approx(0.006, rel=1e-6)
    assert apart(POSE, turned(179.0, 0.0))[1] == pytest.approx(179.0)
    later = msgspec.structs.replace(CALIBRATION, date="2026-02-01T12:00:00Z")
    assert differences(CALIBRATION, later) == []
    wider = msgspec.structs.replace(DEPTH, scale=1.015)
    [found] = differences(changed(depth=DEPTH), changed(depth=wider))
    assert found == "camera 'front' depth 100.20 -> 101.50 % of the true one"
    assert differences(changed(depth=DEPTH), changed(depth=DEPTH)) == []
    assert calibration_id(later) != calibration_id(CALIBRATION)
