"""A calibration against pictures that it was not made from: how far a tool would miss, in millimetres.

Three independent numbers: whether the cameras see a board that stands still at one place from everywhere,
whether they see the calibration's own board where it was (drift), and whether a tip that touches corners is
where the cameras see them. All hold the arm's own inexactness, as a tool's way would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from calibration import measured, rigid, shots
from calibration.handeye.closed_form import board_pose, near_T_far
from calibration.handeye.refusals import turns_deg
from calibration.handeye.samples import Sample, Setup
from calibration.handeye.start import pixels
from calibration.rigid import Array
from calibration.shots import ShotCamera
from contracts.calibration import Calibration, HandEye, apart
from contracts.errors import EntracteError
from contracts.files import atomic

Level = Literal["pass", "warn", "fail"]
Triple = tuple[float, float, float]
FEWEST = 4
LIMIT_MM, LIMIT_PX = 5.0, 8.0
"""It fails above these and warns above half. Pixels are how far corners of a board that nobody moved may lie
from where the calibration has them: a sound one misses by one to two (an arm's own inexactness), one whose
camera turned by half a degree by five at a focal length of 600."""
_NEAR_ONE = 0.02
"""Of a quaternion's length: written with two digits it is no farther from one."""
MIN_TURN_DEG = 5.0
"""Second largest spread of the hand's orientation: a hand that hardly turns shows the same error everywhere,
and everything agrees."""


class VerifyError(EntracteError):
    """These pictures say nothing about this calibration."""


class Touch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The arm's pose base_T_hand with the tip on corner number `corner` of the board (as OpenCV numbers the
    inner corners; of a marker 0 to 3 from the upper left, clockwise)."""

    corner: int
    position_m: Triple
    quaternion_xyzw: tuple[float, float, float, float]


class Touches(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`touches.json`. `tip_m`: the tip in the hand's frame."""

    tip_m: Triple
    touches: tuple[Touch, ...]


class CameraCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Of one camera: `stands` seen. `median_mm`, `p95_mm`: distance of the board's middle, seen from each
    stand, from its middle over all; `turn_deg`: how far the hand turned meanwhile (second axis).
    `drift_mm`, `drift_deg`: median distance and angle from where the calibration had it, `drift_px`: of its
    corners in the picture. `touch_mm`: distance of the tip from each touched corner."""

    stands: int
    turn_deg: float
    median_mm: float | None = None
    p95_mm: float | None = None
    drift_mm: float | None = None
    drift_deg: float | None = None
    drift_px: float | None = None
    touch_mm: tuple[float, ...] = ()


class Reason(msgspec.Struct, frozen=True):
    """Why a camera's check does not pass."""

    level: Literal["warn", "fail"]
    camera: str
    why: str

    def __str__(self) -> str:
        return f"{self.level}: {self.camera}: {self.why}"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """`level`: that of the worst of the `reasons`. `not_used`: views, each with the reason."""

    level: Level
    reasons: tuple[Reason, ...]
    cameras: dict[str, CameraCheck]
    not_used: tuple[str, ...]


def read_touches(path: Path) -> Touches:
    """Raises `VerifyError`."""
    try:
        found = msgspec.json.decode(atomic.read_bytes(path, atomic.MAX_JSON_BYTES), type=Touches)
    except (atomic.FileError, OSError, msgspec.MsgspecError) as error:
        raise VerifyError(
            f"{path} holds no touches",
            found=str(error),
            remedy='write {"tip_m": [...], "touches": [{"corner": 0, "position_m": [...], ...}]}',
        ) from error
    for number, one in enumerate(found.touches):
        length = float(np.linalg.norm(one.quaternion_xyzw))
        if not abs(length - 1.0) <= _NEAR_ONE:
            raise VerifyError(
                f"{path}: quaternion_xyzw of touch {number} is no rotation",
                expected="x, y, z, w of length 1",
                found=f"{list(one.quaternion_xyzw)}, of length {length:.3g}",
                remedy="note the pose of the arm's hand at that corner",
            )
    return found


def verify(
    calibration: Calibration,
    folder: Path,
    *,
    drift: bool = False,
    touches: Touches | None = None,
    limit_mm: float = LIMIT_MM,
    limit_px: float = LIMIT_PX,
) -> Check:
    """Of a capture on disk; the rest as of `check`. Raises `VerifyError` and `ShotsError`."""
    taken, cameras = shots.read(folder), dict[str, ShotCamera]()
    for name, camera in taken.cameras.items():
        known_place(calibration, camera, name)
        lens = calibration.cameras[name].lens
        own = (camera.lens.width, camera.lens.height)
        # As live: through the lens that its place was found by, whatever the capture came with.
        if lens is not None and (lens.width, lens.height) == own:
            cameras[name] = measured.seen_through(camera, lens)
        else:
            cameras[name] = measured.with_lens(calibration, name, camera)
    taken = msgspec.structs.replace(taken, cameras=cameras)
    setup = shots.to_setup(folder, taken, fewest=1)
    return check(
        calibration,
        taken.cameras,
        setup,
        drift=drift,
        touches=touches,
        limit_mm=limit_mm,
        limit_px=limit_px,
    )


def check(
    calibration: Calibration,
    taken: Mapping[str, ShotCamera],
    setup: Setup,
    *,
    drift: bool = False,
    touches: Touches | None = None,
    limit_mm: float = LIMIT_MM,
    limit_px: float = LIMIT_PX,
) -> Check:
    """What cameras `taken` saw. `drift`: the board stands (or is held) where it was when the hand-eye
    calibration was made; one picture is enough. Warns above half of a limit, fails above it. Raises
    `VerifyError`."""
    places = {
        camera.name: known_place(calibration, taken[camera.name], camera.name)
        for camera in setup.cameras
    }
    cameras = {}
    for camera in setup.cameras:
        place = places[camera.name]
        pose = np.reshape(place.pose, (4, 4))
        seen = [
            (sample, _board_at(setup, camera.name, sample, pose)) for sample, _ in setup.of(camera)
        ]
        board = taken[camera.name].board
        if drift and msgspec.to_builtins(board) != place.board:
            raise VerifyError(
                f"camera '{camera.name}' looks at another board than the calibration's",
                expected=place.board,
                found=msgspec.to_builtins(board),
                remedy="show it the calibration's board where it was, or leave out --drift",
            )
        points = board.points()
        found = _checked(seen, points, place, drift, touches)
        if drift:
            was = np.reshape(place.board_pose, (4, 4))
            found = msgspec.structs.replace(found, drift_px=pixels(setup, camera, pose, was))
        cameras[camera.name] = found
    reasons = [
        each for name, one in cameras.items() for each in _reasons(name, one, limit_mm, limit_px)
    ]
    return judged(cameras, reasons, setup.left_out)


def judged(
    cameras: dict[str, CameraCheck], reasons: Sequence[Reason], not_used: Sequence[str]
) -> Check:
    levels = {one.level for one in reasons}
    level: Level = "fail" if "fail" in levels else "warn" if levels else "pass"
    return Check(level=level, reasons=tuple(reasons), cameras=cameras, not_used=tuple(not_used))


def text_of(check: Check) -> str:
    """For a terminal."""
    lines = [check.level.upper(), *(f"  {reason}" for reason in check.reasons)]
    for name, one in check.cameras.items():
        said = []
        if one.median_mm is not None:
            said.append(
                f"the board seen within {one.median_mm:.2f} mm (median), {one.p95_mm:.2f} mm (95 %) of one "
                f"place while the hand turned by {one.turn_deg:.0f} deg"
            )
        if one.drift_mm is not None:
            said.append(
                f"the board {one.drift_px:.2f} px, {one.drift_mm:.2f} mm and {one.drift_deg:.2f} deg from "
                "where it was"
            )
        if one.touch_mm:
            said.append(
                f"the tip {np.median(one.touch_mm):.2f} mm (median), {np.max(one.touch_mm):.2f} mm (largest) "
                f"from {len(one.touch_mm)} corners that it touched"
            )
        lines.append(f"{name} ({one.stands} stands): {'; '.join(said)}")
    return "\n".join([*lines, *(f"not used: {one}" for one in check.not_used)])


def place_of(calibration: Calibration, name: str) -> HandEye:
    """Where that camera is. Raises `VerifyError` where that was not calibrated."""
    known = calibration.cameras.get(name)
    if known is None or known.hand_eye is None:
        raise VerifyError(
            f"the place of camera '{name}' was never calibrated",
            expected=f"one of {[n for n, c in calibration.cameras.items() if c.hand_eye]}",
            remedy="run robot-calibrate handeye with --config first",
        )
    return known.hand_eye


def known_place(calibration: Calibration, camera: ShotCamera, name: str) -> HandEye:
    """The same of one that has to be the camera that was calibrated. Raises `VerifyError`."""
    place, serial = place_of(calibration, name), calibration.cameras[name].serial
    for what, before, now in (
        ("serial number", serial, camera.serial),
        ("mount", place.mount, camera.mount),
    ):
        if before and now and before != now:
            raise VerifyError(
                f"camera '{name}' is not as it was calibrated: {what}", expected=before, found=now
            )
    return place


def require_on_hand(place: HandEye) -> None:
    """Raise `VerifyError` where a tip can't be brought onto the board: it is on the hand itself."""
    if place.mount != "hand":
        raise VerifyError(
            "corners are touched on a board that stands still",
            expected="a camera on the hand",
            found="a board on the hand, seen by a camera beside it",
        )


def _board_at(setup: Setup, name: str, sample: Sample, carrier_T_camera: Array) -> Array:
    """far_T_board [4,4] as one stand shows it."""
    camera = next(camera for camera in setup.cameras if camera.name == name)
    seen, _ = board_pose(camera, sample.views[name])
    return np.asarray(rigid.invert(near_T_far(camera, sample)) @ carrier_T_camera @ seen)


def _checked(
    seen: list[tuple[Sample, Array]],
    points: Array,
    place: HandEye,
    drift: bool,
    touches: Touches | None,
) -> CameraCheck:
    boards = [board for _, board in seen]
    turn = float(turns_deg([sample for sample, _ in seen])[1]) if len(seen) > 1 else 0.0
    check = CameraCheck(stands=len(seen), turn_deg=turn)
    if len(seen) >= FEWEST:
        off = _off_mm(boards, points.mean(axis=0))
        median, p95 = np.quantile(off, [0.5, 0.95]).tolist()
        check = msgspec.structs.replace(check, median_mm=median, p95_mm=p95)
    if drift:
        # Of the board's middle: its corner far away would turn a small angle into millimetres.
        middle = rigid.transform(np.eye(3), points.mean(axis=0))
        was = np.reshape(place.board_pose, (4, 4)) @ middle
        both = [apart(_flat(was), _flat(board @ middle)) for board in boards]
        mm, degrees = np.median(both, axis=0).tolist()
        check = msgspec.structs.replace(check, drift_mm=mm, drift_deg=degrees)
    if touches is not None:
        check = msgspec.structs.replace(check, touch_mm=_touched(boards, points, place, touches))
    if check.median_mm is None and check.drift_mm is None and not check.touch_mm:
        raise VerifyError(
            "too few pictures of the board",
            expected=f"{FEWEST} stands and more, or --drift with the board where it was",
            found=len(seen),
            remedy="capture more, from all sides",
        )
    return check


def _off_mm(boards: list[Array], middle: Array) -> Array:
    """Distance of the board's middle in each stand from the mean over all; of few stands the mean goes along
    with each, which is corrected for."""
    at = np.array([board[:3, :3] @ middle + board[:3, 3] for board in boards])
    scale = np.sqrt(len(at) / (len(at) - 1))
    return np.asarray(1e3 * scale * np.linalg.norm(at - at.mean(axis=0), axis=1))


def _touched(
    boards: list[Array], points: Array, place: HandEye, touches: Touches
) -> tuple[float, ...]:
    require_on_hand(place)
    wrong = [one.corner for one in touches.touches if not 0 <= one.corner < len(points)]
    if wrong or not touches.touches:
        raise VerifyError(
            "the board has no such corner",
            expected=f"0 to {len(points) - 1}",
            found=wrong or "none",
        )
    found = []
    for one in touches.touches:
        corner = np.median([b[:3, :3] @ points[one.corner] + b[:3, 3] for b in boards], axis=0)
        hand = rigid.from_quaternion(one.quaternion_xyzw, one.position_m)
        tip = hand[:3, :3] @ np.array(touches.tip_m) + hand[:3, 3]
        found.append(1e3 * float(np.linalg.norm(tip - corner)))
    return tuple(found)


def _reasons(name: str, one: CameraCheck, limit_mm: float, limit_px: float) -> list[Reason]:
    found = list[Reason]()
    moved = "put back what moved (camera, board or arm), or calibrate again"
    for what, value, limit, unit, do in (
        ("the board is not where it was by", one.drift_px, limit_px, "px", moved),
        ("the board is not where it was by", one.drift_mm, limit_mm, "mm", moved),
        (
            "the tip misses corners by",
            float(np.max(one.touch_mm)) if one.touch_mm else None,
            *(limit_mm, "mm", "check tip_m, then calibrate again"),
        ),
        (
            "the board's place depends on the stand by",
            one.p95_mm,
            *(limit_mm, "mm", "calibrate again, with more tilt"),
        ),
    ):
        # What is no number is within no limit.
        if value is not None and not value <= limit / 2:
            why = f"{what} {value:.2f} {unit} (fail above {limit:g}): {do}"
            found.append(Reason("warn" if value <= limit else "fail", name, why))
    if one.median_mm is not None and not one.turn_deg >= MIN_TURN_DEG:
        why = (
            f"the hand turned by {one.turn_deg:.1f} deg only (second axis): an error of the camera's place "
            "would hardly show"
        )
        found.append(Reason("warn", name, why))
    return found


def _flat(pose: Array) -> tuple[float, ...]:
    return tuple(pose.reshape(-1).tolist())
