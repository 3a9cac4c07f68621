"""Did anything move since the calibration? From live cameras, in seconds, with the arm left where it stands.

The board of the hand-eye calibration is where it was then; each camera has to see it where the calibration
says. Owns the looking; what is made of it is `calibration.verify`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from calibration import measured, rigid
from calibration.boards import Board, Finder
from calibration.capture import devices
from calibration.capture.looking import Rejected, look_twice
from calibration.capture.stillness import STILL_S, STILL_UNITS, Stillness, Stood
from calibration.chain import Chain
from calibration.handeye.closed_form import near_T_far
from calibration.handeye.samples import Sample, Setup, View, make_setup
from calibration.handeye.start import pixels
from calibration.shots import ShotCamera
from calibration.verify import (
    LIMIT_MM,
    LIMIT_PX,
    CameraCheck,
    Check,
    Reason,
    VerifyError,
    check,
    judged,
    known_place,
    place_of,
)
from contracts.calibration import Calibration
from contracts.errors import ConfigError
from runtime.arms.session import Session

LOOKS = 3
"""Pictures of each camera that count: one that a passer-by spoils must not decide."""
PATIENCE_S = 20.0
"""For an arm to stand, and its cameras' pictures of it, on its own clock."""


def asked(calibration: Calibration, there: Collection[str], wanted: Sequence[str]) -> list[str]:
    """Which cameras are looked through: those `wanted`, else all that are calibrated, of those that are
    `there`. Raises `VerifyError` where one was not calibrated, or none was."""
    for name in wanted:
        place_of(calibration, name)
    known = [name for name, one in calibration.cameras.items() if one.hand_eye and name in there]
    if not known:
        raise VerifyError(
            "no camera of this robot was calibrated",
            remedy="run robot-calibrate capture and handeye with --config first",
        )
    return list(wanted) or known


def sizes(calibration: Calibration, names: Sequence[str]) -> list[str]:
    """Overrides by which a robot that works with smaller pictures opens these cameras as it calibrated
    them: a board's squares want the pixels."""
    lenses = {name: calibration.cameras[name].lens for name in names}
    return [
        f"cameras.{name}.{key}={value}"
        for name, lens in lenses.items()
        if lens is not None
        for key, value in (("width", lens.width), ("height", lens.height))
    ]


def drifted(
    session: Session,
    calibration: Calibration,
    chain: Chain,
    names: Sequence[str],
    *,
    each: bool,
    limit_mm: float = LIMIT_MM,
    limit_px: float = LIMIT_PX,
) -> Check:
    """Through the cameras `names`, of which `each` has to see its board, or one at least. Warns above half of
    a limit, fails above it and where a board that has to be seen is not. Commands no motion. Raises
    `VerifyError`, `ConfigError` and `DeviceError`."""
    cameras = _cameras(session, calibration, names)
    samples, unseen = _looked(session, cameras, chain)
    seen = {name for sample in samples for name in sample.views}
    checks, reasons = dict[str, CameraCheck](), list[Reason]()
    elsewhere = dict[str, str]()
    if seen:
        pinholes = [cameras[name].lens.pinhole(name, cameras[name].mount) for name in seen]
        setup = make_setup(sorted(pinholes, key=lambda one: one.name), samples, fewest=1)
        found = check(calibration, cameras, setup, drift=True, limit_mm=limit_mm, limit_px=limit_px)
        checks, reasons = found.cameras, list(found.reasons)
        elsewhere = _elsewhere(calibration, cameras, setup, found, limit_px)
    if not each:
        unseen |= elsewhere
        checks = {name: one for name, one in checks.items() if name not in unseen}
        reasons = [one for one in reasons if one.camera not in unseen]
    if each or not seen:
        reasons += [
            Reason(
                "fail",
                name,
                f"not checked: {unseen[name]}: bring the arm to where that camera sees the board of its "
                "calibration",
            )
            for name in cameras
            if name not in seen
        ]
    return judged(checks, reasons, [f"{name}: {why}" for name, why in unseen.items()])


def _elsewhere(
    calibration: Calibration,
    cameras: Mapping[str, ShotCamera],
    setup: Setup,
    checked: Check,
    limit_px: float,
) -> dict[str, str]:
    """Cameras that see their board where one of the other mount has it, and why that is no drift of theirs: a
    board can't be beside the arm and on the hand. One that sees it anywhere else may have moved, or sees
    another print of it: that stays a failure."""
    failed = {one.camera for one in checked.reasons if one.level == "fail"}
    found = {}
    for name in failed:
        for other in set(checked.cameras) - failed:
            one, two = cameras[name], cameras[other]
            if one.mount == two.mount or one.board != two.board:
                continue
            if _off_px(calibration, setup, name, other) <= limit_px:
                found[name] = (
                    f"not checked: the board is where {other} has it, and can't be in both places"
                )
    return found


def _off_px(calibration: Calibration, setup: Setup, name: str, other: str) -> float:
    """How far camera `name` sees the board from where `other`, of the other mount, has it: what the one's
    board is fixed to is what the other is fixed to."""
    camera = next(one for one in setup.cameras if one.name == name)
    pose = np.reshape(place_of(calibration, name).pose, (4, 4))
    board = np.reshape(place_of(calibration, other).board_pose, (4, 4))
    return float(
        np.median(
            [
                pixels(
                    Setup((camera,), (sample,)),
                    camera,
                    pose,
                    rigid.invert(near_T_far(camera, sample)) @ board,
                )
                for sample, _ in setup.of(camera)
            ]
        )
    )


def _cameras(
    session: Session, calibration: Calibration, names: Sequence[str]
) -> dict[str, ShotCamera]:
    """As they are now, with the boards that they were calibrated with."""
    cameras = {}
    for name, spec in devices.chosen(session.cameras, names).items():
        place, lens = place_of(calibration, name), calibration.cameras[name].lens
        board = msgspec.convert(place.board, Board)
        now, _ = devices.shot_cameras({name: spec}, place.mount, board, calibration)
        known_place(calibration, now[name], name)
        if lens is not None and (lens.width, lens.height) != (spec.width, spec.height):
            raise ConfigError(
                f"camera '{name}' is not as it was calibrated: size",
                expected=f"{lens.width}x{lens.height}",
                found=f"{spec.width}x{spec.height}",
                remedy="leave its width and height as they were then",
            )
        # Through the lens that its place was found by: that of a factory, too, may be bent.
        cameras[name] = now[name] if lens is None else measured.seen_through(now[name], lens)
    return cameras


def _looked(
    session: Session, cameras: Mapping[str, ShotCamera], chain: Chain
) -> tuple[list[Sample], dict[str, str]]:
    """`LOOKS` samples from where the arm stands, and why a camera is in none of them."""
    names = session.action.names
    stillness = Stillness(list(cameras), names)
    finders = {name: Finder(camera.board) for name, camera in cameras.items()}
    samples, unseen = list[Sample](), dict[str, str]()
    for number in range(LOOKS):
        stood = _stood(session, stillness, cameras)
        hand = chain.base_T_hand(names, stood.readings.tolist())
        views = dict[str, View]()
        unseen |= {name: one.why for name, one in stood.late.items()}
        for name, (earlier, later) in stood.pictures.items():
            found = look_twice(cameras[name], finders[name], earlier.rgb, later.rgb)
            if isinstance(found, Rejected):
                unseen[name] = found.why
            else:
                views[name] = found.view
        samples.append(Sample(f"{number}", hand, views))
    seen = {name for sample in samples for name in sample.views}
    return samples, {name: why for name, why in unseen.items() if name not in seen}


def _stood(session: Session, stillness: Stillness, cameras: Mapping[str, ShotCamera]) -> Stood:
    """The next stand of an arm that nobody moves. Raises `VerifyError` for one that does not stand."""
    stillness.restart()
    give_up_s = session.now_s() + PATIENCE_S
    while session.now_s() < give_up_s:
        joints = session.pause()
        now_s = session.now_s()
        newest = {name: session.cameras[name].newest(now_s) for name in cameras}
        stood = stillness.add(joints, newest)
        if stood is not None:
            return stood
    raise VerifyError(
        "the arm does not stand still",
        expected=f"within {STILL_UNITS:g} units for {STILL_S:g} s",
        found=f"not once in {PATIENCE_S:g} s",
        remedy="leave it alone while it is checked",
    )
