"""The joint hand-eye estimate against set-ups whose answer is known, and what it must refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest

from calibration import rigid
from calibration.handeye import closed_form, refusals
from calibration.handeye.estimate import Estimate, estimate
from calibration.handeye.linear import Poses, linearise
from calibration.handeye.samples import HandEyeError, Sample, Setup, View, make_setup
from contracts.calibration import Mount
from tests.calibration.rigs import BOARD, Rig

MOUNTS: tuple[Mount, Mount] = ("hand", "world")


def _errors(found: Estimate, rig: Rig) -> tuple[float, float]:
    pose = found.poses.cameras[rig.camera.name]
    return rigid.distance_mm(pose, rig.carrier_T_camera), rigid.angle_deg(
        pose, rig.carrier_T_camera
    )


def test_a_solver_that_gives_up_says_so_to_nobody_but_us(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """OpenCV would log it as an error, in the middle of a capture."""
    rig = Rig(1)
    setup = make_setup([rig.camera], rig.stands(4, tilt_deg=1.0, roll_deg=2.0))
    tsai, *_ = closed_form.guesses(setup, rig.camera)
    assert tsai.method == "tsai" and tsai.refused
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("mount", MOUNTS)
def test_with_exact_arm_and_corners_the_answer_is_exact(mount: Mount) -> None:
    rig = Rig(1, mount)
    setup = make_setup([rig.camera], rig.stands(8, arm_deg=0, arm_m=0, pixels=0))
    found = estimate(setup)
    assert max(_errors(found, rig)) < 1e-3
    assert rigid.distance_mm(found.poses.boards[mount], rig.far_T_board) < 1e-3
    for guess in closed_form.guesses(setup, rig.camera):
        assert not guess.refused
        assert rigid.distance_mm(guess.carrier_T_camera, rig.carrier_T_camera) < 0.5, guess.method


@pytest.mark.parametrize("mount", MOUNTS)
def test_slopes_are_those_of_the_prediction(mount: Mount) -> None:
    rig = Rig(2, mount)
    setup = make_setup([rig.camera], rig.stands(3))
    poses = Poses({"front": rig.carrier_T_camera}, {mount: rig.far_T_board}, 1.01)
    here = linearise(setup, poses, scale=True)
    blocks = (("camera", "front"), ("board", mount))
    for index in range(13):
        step = np.zeros(13)
        step[index] = 1e-6
        there = linearise(setup, poses.moved(step, blocks), scale=True)
        for stand in range(3):
            change = (here.residuals[stand]["front"] - there.residuals[stand]["front"]) / 1e-6
            # What the sums hold: slope · residual, and slope · slope.
            product = float((change * here.residuals[stand]["front"]).sum())
            assert product == pytest.approx(here.Jr[stand, index], rel=1e-3, abs=1e-2)
            assert float((change**2).sum()) == pytest.approx(here.JJ[stand, index, index], rel=1e-3)
    for index in range(6):
        error = np.zeros(6)
        error[index] = 1e-6
        moved = [Sample(s.name, rigid.moved(s.base_T_hand, error), s.views) for s in setup.samples]
        there = linearise(Setup(setup.cameras, tuple(moved)), poses)
        for stand in range(3):
            change = (here.residuals[stand]["front"] - there.residuals[stand]["front"]) / 1e-6
            assert np.allclose(
                change, here.slopes[stand]["front"][..., index], rtol=1e-3, atol=0.05
            )


def test_it_beats_every_closed_form_and_knows_how_sure_it_is() -> None:
    ours, theirs, inside, noise = [], [], [], []
    for seed in range(12):
        rig = Rig(seed, MOUNTS[seed % 2])
        found = estimate(make_setup([rig.camera], rig.stands(12, tilt_deg=20, roll_deg=20)))
        ours.append(_errors(found, rig)[0])
        guesses = [g for g in found.guesses["front"] if not g.refused]
        off = [rigid.distance_mm(g.carrier_T_camera, rig.carrier_T_camera) for g in guesses]
        theirs.append(dict(zip([g.method for g in guesses], off, strict=True)))
        pose = found.poses.cameras["front"]
        error = np.r_[
            rigid.turn_of(pose[:3, :3].T @ rig.carrier_T_camera[:3, :3]),
            pose[:3, :3].T @ (rig.carrier_T_camera[:3, 3] - pose[:3, 3]),
        ]
        inside += (np.abs(error) < found.interval("camera", "front")).tolist()
        noise.append((found.noise.pixels, np.degrees(found.noise.turn_rad), found.noise.shift_m))
    for method in closed_form.METHODS:
        assert np.median(ours) < np.median([one.get(method, 1e3) for one in theirs]), method
    assert 0.88 <= np.mean(inside) <= 1.0
    assert np.median(noise, axis=0) == pytest.approx([0.3, 0.2, 0.001], rel=0.25)


def test_two_cameras_on_the_hand_share_the_board() -> None:
    """One sees the board in half of the stands only: the other's stands tell where the board is."""
    wrist, side = Rig(3), Rig(3, name="side")
    side.carrier_T_camera = rigid.moved(
        wrist.carrier_T_camera, np.array([0.1, 0.2, 0.0, 0.03, -0.02, 0.01])
    )
    both = wrist.stands(14, also=side)
    together = estimate(make_setup([wrist.camera, side.camera], both))
    alone = estimate(make_setup([side.camera], [s for s in both if "side" in s.views]))
    assert _errors(together, side)[0] < 3.0
    deviations = [found.deviations("camera", "side")[3:].max() for found in (together, alone)]
    assert deviations[0] < 0.9 * deviations[1]


def test_a_stand_that_the_arm_misreports_is_named_and_left_out() -> None:
    rig = Rig(5)
    samples = rig.stands(15)
    wrong = np.array([0.0, np.radians(4.0), 0.0, 0.015, 0.0, 0.0])
    samples[6] = Sample("06", rigid.moved(samples[6].base_T_hand, wrong), samples[6].views)
    found = estimate(make_setup([rig.camera], samples))
    assert found.left_out == ("06",)
    assert _errors(found, rig)[0] < 4.0
    assert estimate(make_setup([rig.camera], rig.stands(15))).left_out == ()


def test_board_poses_that_flipped_over_do_not_spoil_the_start() -> None:
    rig = Rig(6, "world")
    samples = rig.stands(15)
    for index in (1, 4, 8, 12):
        turned = rigid.moved(samples[index].base_T_hand, np.array([0.0, 0.0, 1.2, 0.0, 0.05, 0.0]))
        samples[index] = Sample(samples[index].name, turned, samples[index].views)
    found = estimate(make_setup([rig.camera], samples[:15]))
    assert _errors(found, rig)[0] < 30.0


def _refused(samples: list[Sample], rig: Rig) -> str:
    setup = make_setup([rig.camera], samples)
    with pytest.raises(HandEyeError) as caught:
        refusals.require_turns(setup)
        refusals.require_board(setup)
        refusals.require_size(setup, estimate(setup))
    return str(caught.value)


def test_what_determines_nothing_is_refused_with_the_reason() -> None:
    rig = Rig(7)
    samples = rig.stands(10)
    still = [Sample(f"{i}", samples[0].base_T_hand, samples[0].views) for i in range(10)]
    assert "the hand did not turn" in _refused(still, rig)
    one_axis = rig.stands(10, roll_deg=0.0, axis=np.array([1.0, 0.0, 0.0]), arm_deg=0.05)
    assert "turned about one axis only" in _refused(one_axis, rig)
    mirrored = [
        Sample(s.name, s.base_T_hand, {"front": View(BOARD, [640, 0] + [-1, 1] * v.pixels)})
        for s in samples
        for v in s.views.values()
    ]
    assert "sees the board mirrored" in _refused(mirrored, rig)
    larger = [
        Sample(s.name, s.base_T_hand, {"front": View(BOARD * 1.1, v.pixels)})
        for s in samples
        for v in s.views.values()
    ]
    assert "another size than was said" in _refused(larger, rig)
    assert re.search(r"0\.9\d\d times", _refused(larger, rig))
    with pytest.raises(HandEyeError, match="too few poses"):
        make_setup([rig.camera], samples[:2])
    bad = samples[3].base_T_hand.copy()
    bad[:3, :3] *= [1, 1, -1]
    with pytest.raises(HandEyeError, match="no rigid transform"):
        make_setup([rig.camera], [Sample("x", bad, samples[3].views)])


def test_a_board_of_the_stated_size_passes_and_its_size_is_measured() -> None:
    rig = Rig(8)
    setup = make_setup([rig.camera], rig.stands(20))
    size, half = refusals.require_size(setup, estimate(setup))
    assert abs(size - 1.0) < half < 0.02


def test_solvers_that_fail_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(9)
    setup = make_setup([rig.camera], rig.stands(5))
    for answer, words in (
        ((np.full((3, 3), np.nan), np.zeros((3, 1))), "not finite"),
        ((np.diag([1.0, 1.0, -1.0]), np.zeros((3, 1))), "mirrored"),
        ((np.eye(3), np.zeros((3, 1))), "identity"),
    ):
        monkeypatch.setattr(
            closed_form.cv2, "calibrateHandEye", lambda *_, answer=answer, **__: answer
        )
        assert words in closed_form.guesses(setup, rig.camera, ["park"])[0].refused
