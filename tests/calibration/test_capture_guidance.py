"""Which stand is next, and which may not be: what makes the result surer, and cameras too near."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from calibration import rigid, shots
from calibration.capture import suggestion
from calibration.capture.live import Live, Voice
from calibration.capture.progress import progress
from calibration.capture.stillness import Stood
from calibration.capture.suggestion import Room, Sight
from calibration.capture.taking import Capture
from calibration.chain import chain_of
from runtime.arms.sim import SO101_ACTION
from runtime.cameras import Frame
from tests.calibration.test_boards_and_shots import BOARD, LENS, capture, picture_of, seen_from
from tests.calibration.test_capture_judging import CAMERA, NAMES, judged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("c") / "capture", count=14)


def test_the_next_stand_makes_the_result_surer_and_stays_where_it_may(
    folder: Path, tmp_path: Path
) -> None:
    """The rig's hand is nobody's arm: the chain is asked of an SO-101, the sight of its own stands."""
    chain = chain_of(SO101_ACTION, None)
    start = (0.0, -40.0, 24.0, 84.0, 0.0, 60.0)
    far: list[tuple[float, ...]] = []

    def allows(pose: tuple[float, ...]) -> bool:
        far.append(tuple(pose))
        return abs(pose[0]) <= 10.0

    room = Room(SO101_ACTION, start, 20.0, allows)
    there = suggestion.probe(room, start)
    assert there is not None and there[4] == pytest.approx(8.0) and there[:4] == start[:4]
    room.tried.append(there)
    other = suggestion.probe(room, start)
    assert other is not None and other[4] == pytest.approx(-8.0)
    # Nothing leaves the reach, the ranges or what is allowed.
    for _ in range(50):
        random = np.random.default_rng(len(far))
        pose = room.inside(np.array(start) + random.uniform(-90, 90, 6))
        assert np.abs(np.subtract(pose, start)).max() <= 20.0 and pose[5] == start[5]
    assert not room.may_go(start, (30.0, *start[1:]))
    assert not room.may_go((-9.0, *start[1:]), (11.0, *start[1:]))
    assert room.may_go((-9.0, *start[1:]), (9.0, *start[1:]))
    found = judged(folder, tmp_path / "again")
    state = progress(found)
    assert state.solved is not None
    sight = Sight.of(chain, found.cameras, state.solved, {"wrist": 0.35})
    setup, _ = state.solved
    before = suggestion._size(sight, suggestion._information(sight, setup))
    one = setup.samples[0]
    more = suggestion._information(sight, setup) + suggestion._information(
        sight, type(setup)(setup.cameras, (one,))
    )
    assert suggestion._size(sight, more) < before


def test_no_pose_brings_any_camera_nearer_than_three_quarters_of_its_own_first_distance(
    folder: Path, tmp_path: Path
) -> None:
    """A second camera that looks away, and so sees nothing, forbids a pose all the same."""
    found = judged(folder, tmp_path / "again")
    state = progress(found)
    assert state.solved is not None
    setup, result = state.solved

    class Rig:
        """The stand's hand, whatever the joints read."""

        def base_T_hand(self, names: object, readings: object) -> np.ndarray:
            return setup.samples[0].base_T_hand

    only = setup.cameras[0]
    away = rigid.transform(np.diag([1.0, -1.0, -1.0]), np.zeros(3))
    poses = replace(
        result.poses,
        cameras={**result.poses.cameras, "other": result.poses.cameras["wrist"] @ away},
    )
    both = replace(setup, cameras=(only, replace(only, name="other")))
    cameras = {"wrist": found.cameras["wrist"], "other": found.cameras["wrist"]}
    far = found.seen("wrist")[0].distance_m

    def sample(**first_m: float) -> object:
        solved = (both, replace(result, poses=poses))
        return Sight.of(Rig(), cameras, solved, first_m).sample(NAMES, ())  # type: ignore[arg-type]

    kept = sample(wrist=far, other=far)
    assert kept is not None and set(kept.views) == {"wrist"}  # type: ignore[attr-defined]
    assert sample(wrist=far, other=1.4 * far) is None
    assert sample(wrist=1.4 * far, other=far) is None


def test_a_camera_guards_its_distance_from_the_first_stand_in_which_it_saw_the_board(
    folder: Path, tmp_path: Path
) -> None:
    """It is not of the result, and is placed by one view of a board whose place is known."""
    found = judged(folder, tmp_path / "again")
    state = progress(found)
    assert state.solved is not None
    wrist = state.solved[0].cameras[0]
    once, never = replace(wrist, name="once"), replace(wrist, name="never")
    samples = [
        replace(one, views={**one.views, "once": one.views["wrist"]}) if at == 3 else one
        for at, one in enumerate(found.samples)
    ]
    guards = suggestion.guards_of((wrist, once, never), samples, state.solved)
    assert set(guards) == {once}
    true = state.solved[1].poses.cameras["wrist"]
    assert rigid.distance_mm(guards[once], true) < 15.0  # one stand, and the arm's own error in it

    class Stand:
        """The hand of the fourth, whatever the joints read."""

        def base_T_hand(self, names: object, readings: object) -> np.ndarray:
            return found.samples[3].base_T_hand

    cameras = {name: found.cameras["wrist"] for name in ("wrist", "once")}
    far = found.seen("wrist")[3].distance_m

    def allowed(first_m: float) -> bool:
        first = {"wrist": far, "once": first_m}
        sight = Sight.of(Stand(), cameras, state.solved, first, guards)  # type: ignore[arg-type]
        return sight.sample(NAMES, ()) is not None

    assert allowed(far) and not allowed(1.5 * far)

    # The board's outline in the picture of that stand is where its corners were found.
    sight = Sight.of(Stand(), cameras, state.solved, {"wrist": far})  # type: ignore[arg-type]
    (outline,) = suggestion.outlines(sight, NAMES, ()).values()
    corners = found.seen("wrist")[3].corners
    shown = dict(zip(corners.numbers.tolist(), corners.pixels, strict=True))
    assert {0, 5, 23, 18} <= set(shown)
    for at, number in zip(outline, (0, 5, 23, 18), strict=True):
        assert np.linalg.norm(at - shown[number]) < 12.0


def test_a_board_that_one_camera_sees_moving_is_no_stand_for_any(
    folder: Path, tmp_path: Path
) -> None:
    """The other is too far away to tell; where the board was only hidden, it alone is left out."""
    sharp = picture_of(BOARD, LENS, seen_from((20, 0, 0), (0, 0, 0.3))).astype(np.uint8)
    moved = picture_of(BOARD, LENS, seen_from((20, 0, 0), (0.002, 0, 0.3))).astype(np.uint8)
    blank = np.full((480, 640), 128, np.uint8)

    def taken(name: str, before: np.ndarray) -> tuple[str, list[str]]:
        capture = Capture(tmp_path / name, {"near": CAMERA, "far": CAMERA})
        session = SimpleNamespace(action=SO101_ACTION)
        chain = chain_of(SO101_ACTION, None)
        live = Live(session, capture, chain, 5, Voice(quiet=True), 30.0)  # type: ignore[arg-type]
        shown = {"near": (before, sharp), "far": (sharp, sharp)}
        frames = {
            who: tuple(Frame(np.dstack([one] * 3), None, 1.0, 1.0, n) for n, one in enumerate(two))
            for who, two in shown.items()
        }
        stood = Stood(np.zeros(6), 1.0, 1.0, frames, {})  # type: ignore[arg-type]
        stand, rejected = live._judge(stood)
        return stand, [f"{who} {one.kind}" for who, one in rejected.items()]

    assert taken("moved", moved) == ("", ["near moving"])
    assert not (tmp_path / "moved").exists()
    assert taken("hidden", blank) == ("000", ["near unseen"])
    assert set(shots.read(tmp_path / "hidden").shots[0].pictures) == {"far"}
    assert taken("still", sharp) == ("000", [])
