"""Where the joint estimate begins: the guess under which the corners lie nearest, camera by camera.

Solvers in closed form believe every stand; one board pose that flipped over spoils them all. Where none of
them comes near, they are asked again of four stands at a time, and the answer that most stands agree with is
taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from calibration import rigid
from calibration.handeye import closed_form
from calibration.handeye.closed_form import Guess
from calibration.handeye.linear import Poses
from calibration.handeye.samples import Camera, HandEyeError, Setup
from calibration.rigid import Array
from contracts.calibration import Mount

NEAR_PX = 8.0
"""A guess whose median corner is off by no more is good enough to begin with."""
_DRAWS = 60
_DRAWN = 4
_METHODS = ("park", "li")
_STRANGE, _STRANGE_PX, _MOST_STRANGE = 6.0, 40.0, 0.4


def begin(setup: Setup, guesses: Mapping[str, Sequence[Guess]]) -> Poses:
    """The unknowns to begin with. Raises `HandEyeError` where no solver has an answer for any camera."""
    cameras, boards = dict[str, Array](), dict[Mount, Array]()
    for mount in setup.mounts:
        group = [camera for camera in setup.cameras if camera.mount == mount]
        found = {camera.name: _best(setup, camera, guesses[camera.name]) for camera in group}
        known = {name: one for name, one in found.items() if one is not None}
        if not known:
            reasons = "; ".join(f"{g.method}: {g.refused}" for c in group for g in guesses[c.name])
            raise HandEyeError(
                f"no solver finds where camera '{group[0].name}' is",
                found=reasons,
                remedy="capture poses that turn the hand about at least two axes, by 20 degrees and more",
            )
        leader = min(known, key=lambda name: known[name][1])
        boards[mount] = known[leader][0].far_T_board
        for camera in group:
            own = known[camera.name][0].carrier_T_camera if camera.name in known else None
            if camera.name != leader:
                own = by_board(setup, camera, boards[mount], own)
            assert own is not None
            cameras[camera.name] = own
    return Poses(cameras, boards)


def pixels(setup: Setup, camera: Camera, carrier_T_camera: Array, far_T_board: Array) -> float:
    """Median distance of that camera's corners from where these poses predict them; inf where that is behind
    it."""
    off = []
    for sample, view in setup.of(camera):
        link = closed_form.near_T_far(camera, sample)
        pose = rigid.invert(carrier_T_camera) @ link @ far_T_board
        with np.errstate(all="ignore"):
            found = closed_form.project(camera, pose, view.points_m)
            distance = np.linalg.norm(found - view.pixels, axis=1)
        off.append(
            np.where(np.isfinite(distance), distance, np.inf) if pose[2, 3] > 0 else [np.inf]
        )
    return float(np.median([float(np.median(one)) for one in off]))


def strangers(setup: Setup, poses: Poses) -> tuple[int, ...]:
    """Stands in which every camera's corners lie far from where the others' agreement puts them."""
    off = []
    for sample in setup.samples:
        one = Setup(setup.cameras, (sample,))
        seen = [camera for camera in setup.cameras if camera.name in sample.views]
        where = [(c, poses.cameras[c.name], poses.boards[c.mount]) for c in seen]
        off.append(min(pixels(one, *each) for each in where))
    limit = max(_STRANGE_PX, _STRANGE * float(np.median(off)))
    found = tuple(index for index, px in enumerate(off) if px > limit)
    return found if len(found) <= _MOST_STRANGE * len(off) else ()


def _best(setup: Setup, camera: Camera, guesses: Sequence[Guess]) -> tuple[Guess, float] | None:
    """The best guess and its median distance, or None."""

    def judged(found: Sequence[Guess]) -> list[tuple[Guess, float]]:
        sound = [guess for guess in found if not guess.refused]
        return [(g, pixels(setup, camera, g.carrier_T_camera, g.far_T_board)) for g in sound]

    known = judged(guesses)
    if not known or min(px for _, px in known) > NEAR_PX:
        known += judged(_of_few(setup, camera))
    return min(known, key=lambda one: one[1]) if known else None


def _of_few(setup: Setup, camera: Camera) -> list[Guess]:
    """Answers from four stands each, drawn at random from a fixed seed."""
    seen = [sample for sample in setup.samples if camera.name in sample.views]
    if len(seen) <= _DRAWN:
        return []
    random = np.random.default_rng(0)
    found = []
    for _ in range(_DRAWS):
        drawn = sorted(random.choice(len(seen), _DRAWN, replace=False).tolist())
        few = Setup((camera,), tuple(seen[index] for index in drawn))
        found += closed_form.guesses(few, camera, _METHODS)
    return found


def by_board(setup: Setup, camera: Camera, far_T_board: Array, own: Array | None = None) -> Array:
    """Where another camera must be, by a single stand, if the board is where the first one says: the stand
    that most others agree with, or its `own` guess."""
    candidates = [] if own is None else [own]
    for sample, view in setup.of(camera):
        link = closed_form.near_T_far(camera, sample)
        board, _ = closed_form.board_pose(camera, view)
        candidates.append(link @ far_T_board @ rigid.invert(board))
    return min(candidates, key=lambda pose: pixels(setup, camera, pose, far_T_board))
