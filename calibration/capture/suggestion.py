"""Which stand is next: the one after which the result would be surest, among those that the arm may take.

Before there is a result, one joint after the other is turned a little. Nothing here moves anything, or knows
of obstacles: `Room` is what may be suggested at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration import rigid
from calibration.capture.looking import tilt_deg
from calibration.chain import Chain
from calibration.handeye.closed_form import near_T_far, project
from calibration.handeye.estimate import Estimate
from calibration.handeye.linear import POSE, Poses, blocks_of, linearise
from calibration.handeye.noise import Noise, weigh
from calibration.handeye.samples import Camera, Sample, Setup, View
from calibration.handeye.start import by_board
from calibration.rigid import Array
from calibration.shots import ShotCamera
from contracts.calibration import Mount
from contracts.specs import ActionSpec, is_gripper

PROBE = 8.0
_PROBES = (1.0, 2.0, 0.5)
"""How far a joint is turned (its units) before there is a result, and times that, in this order."""
FARTHEST_PROBE = PROBE * max(_PROBES)
_FARTHER = 4.0
"""Every stand widens the room by so much (units), up to its reach: a poor result must not lead far."""
_TRIES, _VISIBLE = 1500, 120
_APART = 4.0
"""How far (units, in some joint) a suggestion is from every pose that was tried."""
_STEP = 2.0
"""Between two poses of a way that are checked."""
_END = 2.0
"""So far from the end of a joint's range no pose is suggested."""
_EDGE = 0.04
"""Of the picture's size: what of it stays free of corners."""
_SHARE_SEEN = 0.85
_MAX_TILT_DEG = 50.0
_NEAREST, _FARTHEST = 0.75, 1.8
"""Times the distance at which a camera saw the board first: no nearer to what it is fixed to, no farther."""
_LEAST = Noise(0.2, float(np.radians(0.02)), 0.0001)

Readings = tuple[float, ...]


@dataclass
class Room:
    """What may be suggested: within `reach` units of where the arm stood at `start`, in its ranges, and where
    `allows` says so. Grippers keep theirs. `tried`: where it stood or was sent since."""

    spec: ActionSpec
    start: Readings
    reach: float
    allows: Callable[[Sequence[float]], bool]
    tried: list[Readings] = field(default_factory=list)

    @property
    def turning(self) -> list[int]:
        """Joints that may move."""
        return [at for at, name in enumerate(self.spec.names) if not is_gripper(name)]

    def may_go(self, here: Readings, there: Readings) -> bool:
        """Whether everything on the straight line in joint space is allowed."""
        a, b = np.array(here), np.array(there)
        steps = max(1, int(np.ceil(np.abs(b - a).max() / _STEP)))
        shares = np.linspace(0.0, 1.0, steps + 1)[1:]
        return all(self.allows(tuple((a + share * (b - a)).tolist())) for share in shares)

    def inside(self, there: Array) -> Readings:
        """The pose within reach and in the joints' ranges that is nearest to this one; grippers as at the
        start."""
        start = np.array(self.start)
        low = np.maximum(np.array(self.spec.low) + _END, start - self.reach)
        high = np.minimum(np.array(self.spec.high) - _END, start + self.reach)
        found = start.copy()
        moving = self.turning
        found[moving] = np.clip(there, low, np.maximum(low, high))[moving]
        return tuple(found.tolist())

    def is_new(self, there: Readings) -> bool:
        return all(np.abs(np.subtract(there, one)).max() >= _APART for one in self.tried)


@dataclass(frozen=True)
class Sight:
    """What is known of where cameras and boards are: `setup` and `found` of `progress`. By camera: `first_m`,
    how far its board was in the first stand that it saw, and `points`, that board's [K,3]. `guards`: cameras
    that are not of the result, which may not come too near either, and where they are by `guards_of`."""

    chain: Chain
    cameras: Mapping[str, ShotCamera]
    setup: Setup
    found: Estimate
    first_m: Mapping[str, float]
    points: Mapping[str, Array]
    guards: Mapping[Camera, Array] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        chain: Chain,
        cameras: Mapping[str, ShotCamera],
        solved: tuple[Setup, Estimate],
        first_m: Mapping[str, float],
        guards: Mapping[Camera, Array] | None = None,
    ) -> Sight:
        points = {name: camera.board.points() for name, camera in cameras.items()}
        return cls(chain, cameras, *solved, first_m, points, guards or {})

    def sample(self, names: Sequence[str], readings: Readings) -> Sample | None:
        """The stand as it would be seen; None where no camera would see enough of its board, or any
        would come too near to it."""
        hand = self.chain.base_T_hand(names, readings)
        bare = Sample("next", hand, {})
        boards = self.found.poses.boards
        for camera, place in self.guards.items():
            pose = rigid.invert(place) @ near_T_far(camera, bare) @ boards[camera.mount]
            if self._too_near(camera, pose):
                return None
        views = {}
        for camera in self.setup.cameras:
            pose = predicted(camera, bare, self.found.poses)
            if self._too_near(camera, pose):
                return None
            view = self._view(camera, pose)
            if view is not None:
                views[camera.name] = view
        return Sample("next", hand, views) if views else None

    def _middle(self, camera: Camera, pose: Array) -> Array:
        return np.asarray(pose[:3, :3] @ self.points[camera.name].mean(axis=0) + pose[:3, 3])

    def _too_near(self, camera: Camera, pose: Array) -> bool:
        """In sight or not: it could touch."""
        return self._far_m(camera, pose) < _NEAREST * self.first_m[camera.name]

    def _far_m(self, camera: Camera, pose: Array) -> float:
        return float(np.linalg.norm(self._middle(camera, pose)))

    def _view(self, camera: Camera, pose: Array) -> View | None:
        shot = self.cameras[camera.name]
        points, middle = self.points[camera.name], self._middle(camera, pose)
        farthest_m = _FARTHEST * self.first_m[camera.name]
        if middle[2] <= 0 or self._far_m(camera, pose) > farthest_m:
            return None
        if tilt_deg(pose, middle) > _MAX_TILT_DEG:
            return None
        with np.errstate(all="ignore"):
            pixels = project(camera, pose, points)
        size = np.array([shot.lens.width, shot.lens.height])
        inside = ((pixels > _EDGE * size) & (pixels < (1 - _EDGE) * size)).all(axis=1)
        if inside.mean() < (1.0 if shot.board.kind == "marker" else _SHARE_SEEN):
            return None
        return View(points[inside], pixels[inside])


def guards_of(
    cameras: Sequence[Camera], samples: Sequence[Sample], solved: tuple[Setup, Estimate]
) -> dict[Camera, Array]:
    """carrier_T_camera [4,4] of each that is not of the result yet and has seen its board: one stand places
    it, the board's place being known. Rougher than the result; a distance needs no more."""
    setup, found = solved
    guards = {}
    for camera in cameras:
        of = Setup((camera,), tuple(one for one in samples if camera.name in one.views))
        board = found.poses.boards.get(camera.mount)
        if camera not in setup.cameras and of.samples and board is not None:
            guards[camera] = by_board(of, camera, board)
    return guards


def predicted(camera: Camera, sample: Sample, poses: Poses) -> Array:
    """camera_T_board at a stand, by the poses found so far."""
    link = near_T_far(camera, sample)
    return np.asarray(rigid.invert(poses.cameras[camera.name]) @ link @ poses.boards[camera.mount])


def outlines(sight: Sight, names: Sequence[str], there: Readings) -> dict[str, Array]:
    """By camera, where the corners of the board's outermost squares would be in its picture, pixels [4,2], in
    order around; of those that have all of them before them."""
    bare = Sample("next", sight.chain.base_T_hand(names, there), {})
    found = {}
    for camera in sight.setup.cameras:
        pose = predicted(camera, bare, sight.found.poses)
        points = sight.points[camera.name]
        (left, top, _), (right, bottom, _) = points.min(axis=0), points.max(axis=0)
        edge = np.array([[left, top, 0], [right, top, 0], [right, bottom, 0], [left, bottom, 0]])
        if (edge @ pose[2, :3] + pose[2, 3] > 0).all():
            found[camera.name] = project(camera, pose, edge)
    return found


def probe(room: Room, here: Readings) -> Readings | None:
    """A pose that differs from the start in one joint, those near the hand first; None when all are tried."""
    return next((there for there in _probes(room) if room.may_go(here, there)), None)


def best(room: Room, here: Readings, sight: Sight, seed: int = 0) -> Readings | None:
    """The pose of a random many after which the cameras' places would be surest; None where none is seen."""
    random = np.random.default_rng(seed)
    known = _information(sight, sight.setup)
    reach = min(room.reach, PROBE + _FARTHER * len(sight.setup.samples))
    start = np.array(room.start)
    chosen, least, visible = None, np.inf, 0
    for _ in range(_TRIES):
        there = room.inside(start + random.uniform(-reach, reach, len(start)))
        if not room.is_new(there):
            continue
        sample = sight.sample(room.spec.names, there)
        if sample is None or not room.may_go(here, there):
            continue
        visible += 1
        size = _size(sight, known + _information(sight, Setup(sight.setup.cameras, (sample,))))
        if size < least:
            chosen, least = there, size
        if visible >= _VISIBLE:
            break
    return chosen


def in_words(
    names: Sequence[str], here: Readings, there: Readings, sight: Sight | None, chain: Chain
) -> str:
    """How to go there: as the first camera that is known sees it, and joint by joint."""
    steps = np.subtract(there, here)
    joints = ", ".join(
        f"{name.removesuffix('.pos')} {step:+.0f}"
        for name, step in zip(names, steps, strict=True)
        if abs(step) >= 1
    )
    if sight is None:
        return f"joints {joints}"
    camera = sight.setup.cameras[0]
    a, b = (Sample("", chain.base_T_hand(names, at), {}) for at in (here, there))
    if camera.mount == "hand":
        place = sight.found.poses.cameras[camera.name]
        moves = rigid.invert(a.base_T_hand @ place) @ b.base_T_hand @ place
        return f"{_said(moves, 'hand')} (joints {joints})"
    one, other = (predicted(camera, at, sight.found.poses) for at in (a, b))
    middle = rigid.transform(np.eye(3), sight.points[camera.name].mean(axis=0))
    before, after = one @ middle, other @ middle
    turned = after[:3, :3] @ before[:3, :3].T
    moves = rigid.transform(turned, after[:3, 3] - before[:3, 3])
    return f"{_said(moves, 'world')} (joints {joints})"


_WORDS: dict[Mount, tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {
    # (plus, minus) about, then along, the camera's x (right), y (down) and z (forward).
    "hand": (
        "as the camera looks:",
        (("tilt up", "tilt down"), ("turn right", "turn left"), ("roll clockwise", "roll back")),
        (("right", "left"), ("down", "up"), ("nearer", "back")),
    ),
    "world": (
        "the board, as the camera sees it:",
        (
            ("its top nearer", "its top away"),
            ("its right side nearer", "its left side nearer"),
            ("roll clockwise", "roll back"),
        ),
        (("right", "left"), ("down", "up"), ("away", "nearer")),
    ),
}


def _said(moves: Array, mount: Mount) -> str:
    head, turns, shifts = _WORDS[mount]
    parts = []
    for words, value in zip(turns, np.degrees(rigid.turn_of(moves[:3, :3])), strict=True):
        if abs(value) >= 2:
            parts.append(f"{words[0] if value > 0 else words[1]} {abs(value):.0f} deg")
    for words, value in zip(shifts, 1e2 * moves[:3, 3], strict=True):
        if abs(value) >= 1:
            parts.append(f"{abs(value):.0f} cm {words[0] if value > 0 else words[1]}")
    return f"{head} {', '.join(parts) or 'hardly anything'}"


def _probes(room: Room) -> Iterator[Readings]:
    start = np.array(room.start)
    for share in _PROBES:
        for joint in reversed(room.turning):
            for sign in (1.0, -1.0):
                there: Array = start.copy()
                there[joint] += sign * min(share * PROBE, room.reach)
                found = room.inside(there)
                if room.is_new(found):
                    yield found


def _noise(found: Noise) -> Noise:
    """Few stands may look better than any are."""
    return Noise(
        max(found.pixels, _LEAST.pixels),
        max(found.turn_rad, _LEAST.turn_rad),
        max(found.shift_m, _LEAST.shift_m),
    )


def _information(sight: Sight, setup: Setup) -> Array:
    stands = linearise(setup, sight.found.poses)
    return weigh(stands, _noise(sight.found.noise)).information


def _size(sight: Sight, information: Array) -> float:
    """How unsure the cameras are: the sum of their covariances' log volumes."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
    conditioned = information / scale[:, None] / scale[None, :]
    try:
        covariance = np.linalg.inv(conditioned) / scale[:, None] / scale[None, :]
    except np.linalg.LinAlgError:
        return float("inf")
    total = 0.0
    for at, (kind, _) in enumerate(blocks_of(sight.setup)):
        if kind == "camera":
            part = slice(POSE * at, POSE * (at + 1))
            sign, volume = np.linalg.slogdet(covariance[part, part])
            total += float(volume) if sign > 0 else np.inf
    return total
