"""A calibration is checked by pictures that it was not made from; what moved is found, what says nothing is
refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import rigid, shots
from calibration.app import app
from calibration.record import Record, with_camera
from calibration.verify import Check, Touch, Touches, VerifyError, read_touches, verify
from contracts.calibration import Calibration
from tests.calibration.rigs import Rig
from tests.calibration.test_boards_and_shots import BOARD, capture


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot whose wrist camera was calibrated."""
    folder = tmp_path_factory.mktemp("robot")
    path = folder / "robot.yaml"
    path.write_text("cameras: {wrist: {kind: sim, width: 640, height: 480}}\n")
    options = ["--config", str(path), "--bootstrap", "0"]
    said = CliRunner().invoke(app, ["handeye", str(capture(folder / "first")), *options])
    assert said.exit_code == 0, said.output
    return path


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A later capture: other stands, the board somewhere else."""
    return capture(tmp_path_factory.mktemp("c") / "other", count=8, seed=9, elsewhere_m=0.05)


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other stands, the board where it was."""
    return capture(tmp_path_factory.mktemp("c") / "again", count=4, seed=11)


def bumped(config: Path, mm: float) -> Calibration:
    """As if the camera had been that much elsewhere when it was calibrated."""
    now = Record(config).now
    hand_eye = now.cameras["wrist"].hand_eye
    assert hand_eye is not None
    pose = np.reshape(hand_eye.pose, (4, 4)) @ rigid.transform(np.eye(3), [mm / 1e3, 0, 0])
    moved = msgspec.structs.replace(hand_eye, pose=tuple(pose.reshape(-1).tolist()))
    return with_camera(now, "wrist", hand_eye=moved)


def test_a_board_elsewhere_is_seen_at_one_place_and_nothing_is_changed(
    config: Path, other: Path
) -> None:
    before = config.read_text()
    said = CliRunner().invoke(app, ["verify", str(other), "--config", str(config), "--json"])
    assert said.exit_code == 0, said.output
    wrist = msgspec.json.decode(said.stdout, type=Check).cameras["wrist"]
    assert wrist.stands == 8 and wrist.turn_deg > 10
    assert wrist.median_mm is not None and 0.3 < wrist.median_mm < 3.5  # the arm's own 1 mm
    assert wrist.drift_mm is None
    assert config.read_text() == before
    text = CliRunner().invoke(app, ["verify", str(other), "--config", str(config)])
    assert "mm (95 %) of one place" in text.output


def test_a_camera_that_is_not_where_it_was_calibrated_fails(
    config: Path, other: Path, again: Path
) -> None:
    check = verify(bumped(config, 15.0), other)
    assert check.level == "fail" and "depends on the stand" in check.reasons[0].why
    # Where the board is known, a single picture shows as much, and by how much.
    sound = verify(Record(config).now, again, drift=True).cameras["wrist"]
    assert sound.drift_mm is not None and sound.drift_mm < 2.5
    assert sound.drift_px is not None and 0.1 < sound.drift_px < 4.0
    tight = verify(Record(config).now, again, drift=True, limit_px=0.1)
    assert tight.level == "fail" and "px (fail above 0.1)" in tight.reasons[0].why
    moved = verify(bumped(config, 8.0), again, drift=True)
    drift_mm = moved.cameras["wrist"].drift_mm
    assert moved.level == "fail" and drift_mm == pytest.approx(8.0, abs=2.0)
    drift_px = moved.cameras["wrist"].drift_px  # 600 px a radian, 0.35 to 0.6 m away
    assert drift_px is not None and 6.0 < drift_px < 16.0
    # And a board that was moved is one that is elsewhere: by 5 cm along each axis.
    away = verify(Record(config).now, other, drift=True).cameras["wrist"].drift_mm
    assert away == pytest.approx(np.sqrt(3) * 50, abs=3.0)


def test_a_tip_on_corners_is_where_the_camera_sees_them(
    config: Path, again: Path, tmp_path: Path
) -> None:
    rig, tip = Rig(3), np.array([0.01, -0.02, 0.12])
    touches = []
    turn = (np.array([0.1, 0.9, 0.2, 0.1]) / np.sqrt(0.87)).round(3).tolist()
    for corner in (0, 5, 18, 23):
        point = rig.far_T_board[:3, :3] @ BOARD.points()[corner] + rig.far_T_board[:3, 3]
        hand = rigid.from_quaternion(turn, [0, 0, 0])
        place = point - hand[:3, :3] @ tip
        touches.append(
            {
                "corner": corner,
                "position_m": place.tolist(),
                "quaternion_xyzw": turn,
            }
        )
    path = tmp_path / "touches.json"
    path.write_text(json.dumps({"tip_m": tip.tolist(), "touches": touches}))
    found = verify(Record(config).now, again, touches=read_touches(path)).cameras["wrist"]
    assert len(found.touch_mm) == 4 and max(found.touch_mm) < 3.5
    options = ["--config", str(config), "--touches", str(path), "--limit-mm", "0.01"]
    said = CliRunner().invoke(app, ["verify", str(again), *options])
    assert said.exit_code == 1 and "the tip misses corners" in said.output
    failed = verify(bumped(config, 12.0), again, touches=read_touches(path))
    assert failed.level == "fail"
    nowhere = Touches(tip_m=(0.0, 0.0, 0.0), touches=())
    with pytest.raises(VerifyError, match="no such corner"):
        verify(Record(config).now, again, touches=nowhere)
    touches[2]["quaternion_xyzw"] = [0, 0, 0, 0]
    path.write_text(json.dumps({"tip_m": tip.tolist(), "touches": touches}))
    with pytest.raises(VerifyError, match=r"touch 2 is no rotation.*length 0"):
        read_touches(path)
    path.write_text("{}")
    with pytest.raises(VerifyError, match="holds no touches"):
        read_touches(path)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_what_is_no_number_is_within_no_limit(config: Path, again: Path) -> None:
    """Neither alone nor beside sound ones, wherever among them."""
    here = Touch(corner=0, position_m=(0.0, 0.0, 0.0), quaternion_xyzw=(0.0, 0.0, 0.0, 1.0))
    lost = msgspec.structs.replace(here, quaternion_xyzw=(0.0, 0.0, 0.0, 0.0))
    for touches in ((lost,), (here, lost), (lost, here)):
        found = Touches(tip_m=(0.0, 0.0, 0.0), touches=touches)
        # Limits that every distance on earth is within.
        check = verify(Record(config).now, again, touches=found, limit_mm=1e9)
        assert check.level == "fail" and "the tip misses" in check.reasons[0].why


def test_pictures_that_say_nothing_about_it_are_refused(config: Path, tmp_path: Path) -> None:
    now = Record(config).now
    folder = capture(tmp_path / "few", count=2, seed=3)
    with pytest.raises(VerifyError, match="too few pictures"):
        verify(now, folder)
    assert verify(now, folder, drift=True).cameras["wrist"].stands == 2
    with pytest.raises(VerifyError, match="another board"):
        verify(now, capture(tmp_path / "large", count=2, wrong=1.05), drift=True)
    bare = tmp_path / "bare.yaml"
    bare.write_text("cameras: {wrist: {kind: sim}}\n")
    said = CliRunner().invoke(app, ["verify", str(folder), "--config", str(bare)])
    assert said.exit_code != 0 and "never calibrated" in str(said.exception)
    assert not (tmp_path / "bare-calibration").exists()  # who only looks leaves nothing behind
    with pytest.raises(VerifyError, match="never calibrated"):
        verify(with_camera(now, "wrist", hand_eye=None), folder)
    taken = shots.read(folder)
    another = msgspec.structs.replace(taken.cameras["wrist"], serial="9")
    shots.write(folder, msgspec.structs.replace(taken, cameras={"wrist": another}))
    with pytest.raises(VerifyError, match="serial number"):
        verify(with_camera(now, "wrist", serial="8"), folder)


def test_a_capture_is_seen_through_the_lens_that_the_place_was_found_by(
    config: Path, again: Path, tmp_path: Path
) -> None:
    """As live: a capture may come with another one, as of a camera whose driver tells none."""
    folder = tmp_path / "assumed"
    shutil.copytree(again, folder)
    now, taken = Record(config).now, shots.read(folder)
    lens = msgspec.structs.replace(taken.cameras["wrist"].lens, fx=640.0, fy=640.0)
    assumed = msgspec.structs.replace(taken.cameras["wrist"], lens=lens)
    shots.write(folder, msgspec.structs.replace(taken, cameras={"wrist": assumed}))
    assert now.cameras["wrist"].lens_px is None  # not one that `intrinsics` measured
    assert verify(now, folder, drift=True) == verify(now, again, drift=True)


def test_a_hand_that_did_not_turn_proves_little_and_is_told_so(
    config: Path, tmp_path: Path
) -> None:
    folder = capture(tmp_path / "one", count=1, seed=3)
    taken = shots.read(folder)
    same = tuple(msgspec.structs.replace(taken.shots[0], name=f"{n}") for n in range(5))
    shots.write(folder, msgspec.structs.replace(taken, shots=same))
    check = verify(Record(config).now, folder)
    assert check.level == "warn" and "the hand turned by 0.0 deg only" in check.reasons[0].why
