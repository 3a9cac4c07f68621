"""A capture on disk: `shots.json` and pictures. Owns the format; everything in it is checked when it is read.

    {"version": 1, "arm": "...", "cameras": {"wrist": {"mount": "hand", "lens": {...}, "board": {...}}},
     "shots": [{"name": "00", "position_m": [...], "quaternion_xyzw": [...],
                "pictures": {"wrist": "00-wrist.png"}, "depths": {"wrist": "00-wrist-depth.png"},
                "joints": [...]}],
     "joints": ["shoulder_pan.pos", ...], "chain": {"joints": [...], "hand": {...}}}

Poses are base_T_hand. Pictures are lossless, so that corners are those that the camera saw; depths (where a
camera has any) are 16-bit and aligned to them. `joints` (what they read, and their names) and the `chain`
that made poses of them are there where a robot was asked.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from calibration import rigid
from calibration.boards import MIN_SHARPNESS, Board, Corners, Finder, is_mirrored
from calibration.chain import Chain
from calibration.handeye.samples import (
    MIN_CORNERS,
    MIN_SAMPLES,
    HandEyeError,
    Sample,
    Setup,
    View,
    make_setup,
)
from calibration.lenses import Lens
from contracts.calibration import Mount
from contracts.errors import EntracteError
from contracts.files import atomic

FILE = "shots.json"
VERSION = 1
MAX_SHOTS = 2000
MAX_PICTURE_BYTES = 64 * 1024 * 1024
OUTSIDE = (
    "corners outside what the lens's model covers: calibrate the lens with pictures there, or show the board "
    "nearer the middle"
)


class ShotsError(EntracteError):
    """A capture that can't be used."""


class ShotCamera(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`lens_doubt`: a sentence where `lens` is none that anybody measured of this camera, "" else. `serial`,
    `firmware`: of the device, "" where unknown. `depth_scale_m`: metres per count of depth."""

    mount: Mount
    lens: Lens
    board: Board
    lens_doubt: str = ""
    serial: str = ""
    firmware: str = ""
    depth_scale_m: float = 0.001


class Shot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str
    position_m: tuple[float, float, float]
    quaternion_xyzw: tuple[float, float, float, float]
    pictures: dict[str, str]
    depths: dict[str, str] = {}
    joints: tuple[float, ...] = ()


class Shots(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`arm`: its identity, as the configuration names it. `joints`: names of what the shots' joints are."""

    version: int
    cameras: dict[str, ShotCamera]
    shots: tuple[Shot, ...]
    arm: str = ""
    joints: tuple[str, ...] = ()
    chain: Chain | None = None

    @property
    def doubts(self) -> list[str]:
        """What is to be said of the lenses that it is seen through."""
        return [camera.lens_doubt for camera in self.cameras.values() if camera.lens_doubt]


def read(folder: Path) -> Shots:
    """Raises `ShotsError` naming what is wrong."""
    path = folder / FILE
    if not path.is_file():
        raise ShotsError(
            f"no capture at {folder}",
            expected=f"a folder with {FILE}",
            remedy="make one with `robot-calibrate capture`",
        )
    try:
        shots = msgspec.json.decode(atomic.read_bytes(path, atomic.MAX_JSON_BYTES), type=Shots)
    except msgspec.MsgspecError as error:
        raise ShotsError(f"{path} is no capture of this layout", found=str(error)) from error
    if shots.version != VERSION:
        raise ShotsError(f"{path} is of another version", expected=VERSION, found=shots.version)
    if not 0 < len(shots.shots) <= MAX_SHOTS:
        raise ShotsError(
            f"{path}: number of shots", expected=f"1 to {MAX_SHOTS}", found=len(shots.shots)
        )
    for name in shots.cameras:
        if not _is_file_name(name):  # pictures that are copied are named by it
            raise ShotsError(f"{path}: name of a camera", expected="a file name", found=name)
    _check_joints(path, shots)
    for shot in shots.shots:
        strange = sorted({*shot.pictures, *shot.depths} - set(shots.cameras))
        if strange:
            raise ShotsError(
                f"{path}: shot {shot.name} is of a camera that is not declared: {strange[0]}"
            )
        for name in (*shot.pictures.values(), *shot.depths.values()):
            if not _is_file_name(name):
                raise ShotsError(
                    f"{path}: picture of shot {shot.name}", expected="a file name", found=name
                )
    return shots


def _check_joints(path: Path, shots: Shots) -> None:
    names, chain = shots.joints, shots.chain
    if chain is not None:
        chain.check(str(path))
    wanted = set() if chain is None else {one.joint for one in chain.joints}
    if len(set(names)) < len(names) or not wanted <= set(names):
        raise ShotsError(f"{path}: joints", expected="those of its chain, each once", found=names)
    for shot in shots.shots:
        if shot.joints and len(shot.joints) != len(names):
            raise ShotsError(
                f"{path}: joints of shot {shot.name}", expected=len(names), found=len(shot.joints)
            )


def _is_file_name(name: str) -> bool:
    return bool(name) and Path(name).name == name and not name.startswith(".")


def write(folder: Path, shots: Shots) -> None:
    """Replaces `shots.json`; pictures are written before."""
    atomic.make_directory(folder)
    atomic.write_bytes(folder / FILE, msgspec.json.format(msgspec.json.encode(shots), indent=1))


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """uint8[H,W] grey. Raises `ShotsError`."""
    grey = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ShotsError(f"{path} is no picture", expected="PNG or JPEG")
    return np.asarray(grey, np.uint8)


def picture_of(folder: Path, file: str, camera: ShotCamera) -> npt.NDArray[np.uint8]:
    """uint8[H,W] grey, of the size that its camera has. Raises `ShotsError`."""
    grey = read_picture(folder / file)
    require_size(folder / file, grey, camera)
    return grey


def require_size(path: Path, picture: npt.NDArray[Any], camera: ShotCamera) -> None:
    """Raise `ShotsError` for a picture of another size than its camera's."""
    if picture.shape != (camera.lens.height, camera.lens.width):
        raise ShotsError(
            f"{path} has another size than its camera",
            expected=f"{camera.lens.width} x {camera.lens.height}",
            found=f"{picture.shape[1]} x {picture.shape[0]}",
        )


def read_depth(path: Path) -> npt.NDArray[np.uint16]:
    """uint16[H,W], the device's counts, 0 where there is none. Raises `ShotsError`."""
    depth = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
        raise ShotsError(f"{path} is no depth picture", expected="PNG of one channel, 16 bits")
    return np.asarray(depth, np.uint16)


def read_bytes(path: Path) -> bytes:
    """A picture's file. Raises `ShotsError`."""
    try:
        return atomic.read_bytes(path, MAX_PICTURE_BYTES)
    except (atomic.FileError, OSError) as error:
        raise ShotsError(f"can't read {path}", found=str(error)) from error


def to_setup(folder: Path, shots: Shots, fewest: int = MIN_SAMPLES) -> Setup:
    """Corners found in every picture, freed of distortion. What could not be used is in `left_out`. Raises
    `ShotsError`, and `HandEyeError` where a camera saw the board in less than `fewest` stands."""
    finders = {name: Finder(camera.board) for name, camera in shots.cameras.items()}
    points = {name: camera.board.points() for name, camera in shots.cameras.items()}
    left_out: list[str] = []
    mirrored, outside, seen = Counter[str](), Counter[str](), Counter[str]()
    samples = []
    for shot in shots.shots:
        views = {}
        for name, file in shot.pictures.items():
            camera = shots.cameras[name]
            grey = picture_of(folder, file, camera)
            corners = finders[name].find(grey)
            if why := _unfit(corners, camera.lens):
                if corners is None and is_mirrored(finders[name], grey):
                    mirrored[name] += 1
                    why = "the board is seen mirrored"
                outside[name] += why == OUTSIDE
                left_out.append(f"{shot.name}/{name}: {why}")
                continue
            assert corners is not None
            seen[name] += 1
            straight = camera.lens.straighten(corners.pixels)
            views[name] = View(points[name][corners.numbers], straight)
        pose = rigid.from_quaternion(shot.quaternion_xyzw, shot.position_m)
        samples.append(Sample(shot.name, pose, views, shot.joints))
    for unfit, what, remedy in (
        (
            mirrored,
            "camera '{}' sees the board mirrored",
            "switch mirroring off in the camera's driver",
        ),
        (
            outside,
            "the lens's model does not cover where camera '{}' sees the board",
            "calibrate its lens with pictures there: robot-calibrate capture --lens, intrinsics",
        ),
    ):
        for name, count in unfit.items():
            if count > seen[name]:
                found = f"in {count} of {count + seen[name]} pictures"
                raise HandEyeError(what.format(name), found=found, remedy=remedy)
    cameras = [camera.lens.pinhole(name, camera.mount) for name, camera in shots.cameras.items()]
    setup = make_setup(cameras, samples, fewest)
    return replace(setup, left_out=(*left_out, *setup.left_out))


def _unfit(corners: Corners | None, lens: Lens) -> str:
    if corners is None:
        return "the board is not seen"
    if len(corners.numbers) < MIN_CORNERS:
        return f"{len(corners.numbers)} corners, fewer than {MIN_CORNERS}"
    if corners.sharpness < MIN_SHARPNESS:
        return f"blurred (sharpness {corners.sharpness:.0f}, below {MIN_SHARPNESS:g})"
    return "" if lens.covers(corners.pixels).all() else OUTSIDE
