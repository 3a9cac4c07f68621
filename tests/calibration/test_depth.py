"""Depths of a known plane: what is wrong with them is found, what stands before it is no part of it."""

from __future__ import annotations

import re
from functools import cache

import msgspec
import numpy as np
import pytest

from calibration import depth as checks
from calibration import rigid
from calibration.depth import DepthError, DepthResult, PlaneCheck, Taken
from calibration.rigid import Array
from calibration.shots import ShotCamera
from tests.calibration.test_boards_and_shots import BOARD, LENS, picture_of, seen_from

CAMERA = ShotCamera(mount="hand", lens=LENS, board=BOARD)
PIXELS = np.stack(np.meshgrid(np.arange(LENS.width), np.arange(LENS.height)), -1).astype(float)


def depth_of(
    pose: Array,
    *,
    scale: float = 1.0,
    offset_m: float = 0.0,
    tilt_deg: float = 0.0,
    noise: float = 0.001,
    seed: int = 0,
) -> np.ndarray:
    """uint16[H,W] millimetres of the board's plane, wherever it is looked at, spoiled in these ways."""
    middle = np.array([*BOARD.size_m, 0.0]) / 2
    about = rigid.transform(np.eye(3), middle)
    turned = rigid.transform(rigid.rotation_of(np.radians([tilt_deg, 0, 0])), [0, 0, 0])
    plane = pose @ about @ turned @ rigid.invert(about)
    rays = np.concatenate(
        [(PIXELS - [LENS.cx, LENS.cy]) / LENS.fx, np.ones((*PIXELS.shape[:2], 1))], -1
    )
    true_m = float(plane[:3, 2] @ plane[:3, 3]) / (rays @ plane[:3, 2])
    random = np.random.default_rng(seed)
    measured = true_m * scale + offset_m
    measured = measured * (1 + noise * random.normal(size=measured.shape))
    return np.clip(np.rint(1e3 * measured), 0, 65535).astype(np.uint16)


@cache
def drawn(count: int, near: float, far: float) -> list[tuple[Array, np.ndarray]]:
    """Poses of the board, and its picture from each."""
    random = np.random.default_rng(1)
    found = []
    for distance in np.linspace(near, far, count):
        tilt = (*random.uniform(-30, 30, 2), random.uniform(-60, 60))
        pose = seen_from(tilt, (0.0, 0.0, float(distance)))
        found.append((pose, picture_of(BOARD, LENS, pose).astype(np.uint8)))
    return found


def taken(
    count: int = 5, holes: float = 0.0, near: float = 0.3, far: float = 0.5, **spoil: float
) -> list[Taken]:
    random = np.random.default_rng(2)
    found: list[Taken] = []
    for number, (pose, picture) in enumerate(drawn(count, near, far)):
        depth = depth_of(pose, seed=number, **spoil)
        depth[random.uniform(size=depth.shape) < holes] = 0
        found.append((str(number), picture, depth))
    return found


def result(**spoil: float) -> DepthResult:
    return checks.check(CAMERA, taken(**spoil))


def test_sound_depth_passes_and_says_how_sure_that_is() -> None:
    found = result()
    assert found.level == "pass" and not found.reasons and not found.not_used
    assert len(found.pictures) == 5 and found.line is not None
    assert found.scale == pytest.approx(1.0, abs=0.004)
    assert abs(found.scale - 1.0) < found.scale_half_width + 0.002
    assert abs(found.offset_mm) < 1.5 and found.tilt_deg < 0.6 and found.holes == 0.0
    assert 0.2 < found.rms_mm < 0.8  # 0.1 % of 0.4 m
    text = checks.text_of(found, "wrist")
    assert text.startswith("PASS") and "over distance" in text
    assert found.check.scale == found.scale and found.check.plane_mm == found.rms_mm


@pytest.mark.parametrize(
    ("spoil", "level", "words"),
    [
        ({"scale": 1.03}, "fail", "depth is 10[23]"),
        ({"scale": 0.985}, "warn", "depth is 98"),
        ({"tilt_deg": 5.0}, "fail", "tilted by"),
        ({"noise": 0.03}, "fail", "about their plane"),
        ({"holes": 0.4}, "fail", "no depth"),
    ],
)
def test_what_is_wrong_is_named(spoil: dict[str, float], level: str, words: str) -> None:
    found = result(**spoil)
    assert found.level == level
    assert any(reason.startswith(level) for reason in found.reasons)
    assert any(re.search(words, reason) for reason in found.reasons), found.reasons


def one_of(scale: float = 1.0, unsure_share: float = 0.004, unsure_deg: float = 0.3) -> PlaneCheck:
    """What one picture of a board half a metre away tells, with colour so unsure of it."""
    return PlaneCheck(
        name="x",
        distance_m=0.5,
        offset_mm=500.0 * (scale - 1.0),
        scale=scale,
        tilt_deg=0.2,
        rms_mm=0.5,
        holes=0.0,
        strays=0.0,
        unsure_mm=500.0 * unsure_share,
        unsure_deg=unsure_deg,
    )


@pytest.mark.parametrize(
    ("found", "level"),
    [
        ([one_of()] * 10, "pass"),
        ([one_of(0.90), one_of(0.94)], "fail"),  # 0.92 ± 0.318
        ([one_of(0.93, unsure_share=0.06)], "fail"),
        ([one_of(unsure_share=0.015)] * 10, "warn"),
        ([one_of(unsure_deg=2.0)] * 10, "warn"),
        ([one_of(unsure_deg=4.0)] * 10, "fail"),
    ],
)
def test_what_can_not_be_told_does_not_pass(found: list[PlaneCheck], level: str) -> None:
    judged = checks._result(found, [], 0, checks.Limits())
    assert judged.level == level, judged.reasons
    assert all("too unsure" in reason for reason in judged.reasons)


def test_pictures_without_depth_are_holes_and_not_left_out_of_the_count() -> None:
    pictures = taken()
    for _, _, depth in pictures[1:]:
        depth[:] = 0
    found = checks.check(CAMERA, pictures)
    assert len(found.pictures) == 1 and len(found.not_used) == 4
    assert found.level == "fail" and found.holes == 1.0


def test_scale_and_offset_are_told_apart_over_distance() -> None:
    found = result(scale=1.01, offset_m=0.004, near=0.25, far=0.55, noise=0.0005)
    assert found.line is not None
    assert found.line[0] == pytest.approx(1.01, abs=0.006)
    assert found.line[1] == pytest.approx(4.0, abs=2.5)
    assert result(near=0.4, far=0.42).line is None


def test_the_device_own_unit_is_used() -> None:
    fine = [(name, picture, (10 * depth).astype(np.uint16)) for name, picture, depth in taken()]
    camera = msgspec.structs.replace(CAMERA, depth_scale_m=0.0001)
    assert checks.check(camera, fine).level == "pass"
    assert checks.check(CAMERA, fine).scale == pytest.approx(10.0, rel=0.01)


def test_a_thing_before_the_board_is_no_depth_of_it() -> None:
    pictures = taken()
    for _, _, depth in pictures:
        depth[LENS.height // 2 - 12 : LENS.height // 2 + 12] = 150
    found = checks.check(CAMERA, pictures)
    assert found.level == "pass", found.reasons
    assert all(0.05 < one.strays < 0.5 for one in found.pictures)


def test_pictures_without_board_or_depth_are_refused() -> None:
    _, picture, depth = taken(count=1)[0]
    blank = np.full_like(picture, 200)
    with pytest.raises(DepthError, match="the board is not seen"):
        checks.check(CAMERA, [("0", blank, depth)])
    with pytest.raises(DepthError, match="100 % holes"):
        checks.check(CAMERA, [("0", picture, np.zeros_like(depth))])
    with pytest.raises(DepthError, match="no picture with depth"):
        checks.check(CAMERA, [])
    mixed = checks.check(CAMERA, [("bad", blank, depth), ("good", picture, depth)])
    assert mixed.not_used == ("bad: the board is not seen",)
