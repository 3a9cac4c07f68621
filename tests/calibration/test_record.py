"""What a verb measured goes into the signed file and, by name, into the hardware configuration as it is."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import hardware_file, measured, shots
from calibration.app import app
from calibration.boards import Board
from calibration.capture.taking import encoded
from calibration.lenses import Lens
from calibration.record import Record, with_camera
from calibration.shots import Shot, ShotCamera, Shots
from contracts.calibration import (
    VERSION,
    Calibration,
    CameraCalibration,
    DepthCheck,
    HandEye,
    Intrinsics,
    Latency,
    calibration_id,
)
from contracts.errors import ConfigError
from contracts.files import atomic, calibration_file
from runtime.config import DEFAULT_CONFIG, load_config
from tests.calibration.test_boards_and_shots import capture
from tests.calibration.test_depth import CAMERA as DEPTH_CAMERA
from tests.calibration.test_depth import taken as with_depth

ROBOTS = sorted(p for p in DEFAULT_CONFIG.parent.glob("*.yaml") if p.name not in ("trainer.yaml",))


@pytest.mark.parametrize("path", ROBOTS, ids=lambda path: path.stem)
def test_keys_are_set_and_all_else_stays_as_it_was_written(path: Path) -> None:
    text = path.read_text()
    before = load_config(path)
    camera = next(iter(before.cameras))
    pose = (
        *(0.0, -1.0, 0.0, 0.25),
        *(1.0, 0.0, 0.0, 0.1),
        *(0.0, 0.0, 1.0, 0.5),
        0.0,
        0.0,
        0.0,
        1.0,
    )
    values: dict[str, hardware_file.Value] = {
        f"cameras.{camera}.latency_s": 0.00002,
        f"cameras.{camera}.pose": pose,
        f"cameras.{camera}.mount": "hand",
        "arm.action_latency_s": 0.05,
        "calibration.file": "here: it is # so",
        "calibration.key": "ab" * 32,
    }
    once = hardware_file.edited(text, values, "x")
    assert hardware_file.edited(once, values, "x") == once
    gone = [line for line in text.splitlines() if line not in once.splitlines()]
    assert len(gone) <= 2  # the flow mappings into which keys went
    for comment in re.findall(r"#.*", text):
        assert comment in once
    tree = hardware_file.parse(once, "x")
    assert tree["cameras"][camera]["pose"] == list(pose)
    assert tree["calibration"] == {"file": "here: it is # so", "key": "ab" * 32}
    again = {key: value for key, value in values.items() if "latency" in key}
    other = hardware_file.edited(once, dict.fromkeys(again, 0.07), "x")
    assert hardware_file.parse(other, "x")["arm"]["action_latency_s"] == 0.07


@pytest.mark.parametrize(
    "text",
    [
        "cameras: &a {front: {latency_s: 1}}\nother: *a\n",
        "cameras:\n  front:\n    - 1\n",
        "cameras:\n  front: [1]\n",
        "cameras: 3\n",
    ],
)
def test_a_layout_that_would_lose_something_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        hardware_file.change(path, {"cameras.front.latency_s": 0.1})
    assert path.read_text() == text


def test_a_hand_eye_result_is_recorded_signed_and_named_by_the_configuration(
    tmp_path: Path,
) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(
        "robot: {id: bench-0}  # mine\ncameras:\n  wrist: {kind: sim, width: 640, height: 480}\n"
    )
    folder = capture(tmp_path / "capture")
    options = ["--config", str(config), "--bootstrap", "0"]
    said = CliRunner().invoke(app, ["handeye", str(folder), *options])
    assert said.exit_code == 0, said.output
    robot = load_config(config)
    found = calibration_file.read(Path(robot.calibration.file), robot.calibration.key)
    wrist = found.cameras["wrist"]
    assert wrist.hand_eye is not None and wrist.lens is not None
    assert robot.cameras["wrist"].pose == wrist.hand_eye.pose
    assert robot.cameras["wrist"].mount == "hand"
    assert wrist.hand_eye.board["columns"] == 7 and wrist.hand_eye.interval_mm < 5.0
    assert np.linalg.eigvalsh(np.array(wrist.hand_eye.covariance)).min() > 0
    assert calibration_id(found) in said.output
    assert "# mine" in config.read_text()
    first = calibration_id(found)
    # A second step keeps the first one's pose, and the calibration before it can still be read.
    record = Record(config)
    second = record.put(lambda now: with_camera(now, "wrist", serial="42"))
    assert record.now.cameras["wrist"].hand_eye == wrist.hand_eye
    assert second != first
    former = calibration_file.former(record.path, first, robot.calibration.key)
    assert former is not None and msgspec.structs.replace(former, date="") == (
        msgspec.structs.replace(found, date="")
    )
    config.write_text(config.read_text().replace("bench-0", "bench-1"))
    with pytest.raises(ConfigError, match="another robot"):
        Record(config)


def test_what_was_measured_with_another_device_is_not_signed_as_this_ones() -> None:
    lens = Lens(width=640, height=480, fx=600, fy=600, cx=319.5, cy=239.5)
    camera = ShotCamera(mount="hand", lens=lens, board=Board(), serial="1", firmware="5.16")
    empty = Calibration(version=VERSION, robot_id="r", arm="a", date="")
    known = with_camera(measured.with_device(empty, "wrist", camera), "wrist", lens_px=0.2)
    unnamed = msgspec.structs.replace(camera, serial="", firmware="")
    assert measured.with_device(known, "wrist", unnamed) == known
    other = measured.with_device(known, "wrist", msgspec.structs.replace(camera, serial="2"))
    assert other.cameras["wrist"] == CameraCalibration(serial="2", firmware="5.16")


def test_a_depth_check_of_another_device_takes_the_pose_before_with_it(tmp_path: Path) -> None:
    """It would be recorded on with what the new device sees."""
    config = tmp_path / "robot.yaml"
    config.write_text("cameras:\n  wrist: {kind: sim, width: 640, height: 480}\n")
    unit = tuple(np.eye(4).reshape(-1).tolist())
    place = HandEye(
        mount="hand", pose=unit, covariance=tuple((0.0,) * 6 for _ in range(6)), stands=12,
        corner_px=0.3, held_out_px=0.5, held_out_mm=1.0, interval_mm=1.0, interval_deg=0.1,
        verdict="pass", board={}, board_pose=unit,
    )  # fmt: skip
    late = Latency(seconds=0.02, half_width_s=0.001)
    lens = msgspec.convert(DEPTH_CAMERA.lens, Intrinsics, from_attributes=True)
    before = {"serial": "1", "lens": lens, "lens_px": 0.2, "hand_eye": place, "latency": late}
    Record(config).put(
        lambda now: with_camera(now, "wrist", **before),
        {"cameras.wrist.pose": unit, "cameras.wrist.latency_s": 0.02},
    )
    folder, found = tmp_path / "capture", list[Shot]()
    for name, picture, depth in with_depth(count=3):
        kept = encoded(np.repeat(picture[:, :, None], 3, axis=2), depth)
        atomic.make_directory(folder)
        atomic.write_bytes(folder / f"{name}.png", kept.colour)
        atomic.write_bytes(folder / f"{name}-depth.png", kept.depth)
        found.append(
            Shot(
                name=name,
                position_m=(0.0, 0.0, 0.0),
                quaternion_xyzw=(0.0, 0.0, 0.0, 1.0),
                pictures={"wrist": f"{name}.png"},
                depths={"wrist": f"{name}-depth.png"},
            )
        )
    other = msgspec.structs.replace(DEPTH_CAMERA, serial="2")
    shots.write(folder, Shots(version=shots.VERSION, cameras={"wrist": other}, shots=(*found,)))
    said = CliRunner().invoke(
        app, ["depth", str(folder), "--camera", "wrist", "--config", str(config)]
    )
    assert said.exit_code == 0, said.output
    wrist = Record(config).now.cameras["wrist"]
    assert wrist.serial == "2" and wrist.hand_eye is None and wrist.depth is not None
    assert load_config(config).cameras["wrist"].pose == ()
    assert "run intrinsics again, first: with another device" in said.output
    assert "run handeye again: with another device" in said.output
    assert "cameras.wrist.pose came of that and was emptied" in said.output
    assert "run latency again" in said.output and "latency_s is that still" in said.output


def test_what_was_found_through_the_lens_before_goes_with_it(tmp_path: Path) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text("cameras:\n  wrist: {kind: sim, width: 640, height: 480}\n")
    folder = capture(tmp_path / "capture", count=14, aside=0.09)
    options = ["--config", str(config)]
    placed = CliRunner().invoke(app, ["handeye", str(folder), "--bootstrap", "0", *options])
    assert placed.exit_code == 0, placed.output
    checked = DepthCheck(scale=1.0, plane_mm=0.4, distance_m=0.4)
    Record(config).put(lambda now: with_camera(now, "wrist", depth=checked))
    assert load_config(config).cameras["wrist"].pose

    lens = ["intrinsics", str(folder), "--camera", "wrist", *options]
    said = CliRunner().invoke(app, lens)
    assert said.exit_code == 0, said.output
    wrist = Record(config).now.cameras["wrist"]
    assert wrist.lens_px is not None and wrist.hand_eye is None and wrist.depth is None
    assert load_config(config).cameras["wrist"].pose == ()
    assert "run handeye again" in said.output and "run depth again" in said.output
    assert "cameras.wrist.pose came of that and was emptied" in said.output

    # The very same lens once more takes nothing away.
    placed = CliRunner().invoke(app, ["handeye", str(folder), "--bootstrap", "0", *options])
    assert placed.exit_code == 0, placed.output
    said = CliRunner().invoke(app, lens)
    assert said.exit_code == 0 and "again" not in said.output, said.output
    assert Record(config).now.cameras["wrist"].hand_eye is not None
    assert load_config(config).cameras["wrist"].pose

    # Another device takes along what no lens has to do with.
    late = Latency(seconds=0.02, half_width_s=0.001)
    Record(config).put(lambda now: with_camera(now, "wrist", serial="1", latency=late))
    taken = shots.read(folder)
    other = msgspec.structs.replace(taken.cameras["wrist"], serial="2")
    shots.write(folder, msgspec.structs.replace(taken, cameras={"wrist": other}))
    said = CliRunner().invoke(app, lens)
    assert said.exit_code == 0 and "old lens" not in said.output, said.output
    assert "run handeye again: with another device" in said.output
    assert "run latency again: with another device" in said.output
    assert "run intrinsics" not in said.output, "that is what ran"


def test_a_camera_that_is_not_configured_is_refused_before_the_work(tmp_path: Path) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text("cameras: {front: {kind: sim}}\n")
    said = CliRunner().invoke(
        app, ["handeye", str(capture(tmp_path / "c", count=3)), "--config", str(config)]
    )
    assert said.exit_code != 0 and "no camera 'wrist'" in str(said.exception)


@pytest.mark.parametrize("cameras", ["{wrist: }", "{wrist: sim}", "[wrist]"])
def test_cameras_that_are_no_sections_are_named_before_the_work(
    tmp_path: Path, cameras: str
) -> None:
    config, board = tmp_path / "robot.yaml", tmp_path / "board.json"
    config.write_text(f"cameras: {cameras}\n")
    board.write_bytes(msgspec.json.encode(Board()))
    wanted = ["--camera", "wrist", "--mount", "hand", "--board", str(board)]
    options = [*wanted, "--config", str(config), "--output", str(tmp_path / "out")]
    said = CliRunner().invoke(app, ["capture", *options])
    assert isinstance(said.exception, ConfigError) and "expected a section" in str(said.exception)


@pytest.mark.parametrize("verb", ["handeye", "depth", "verify"])
def test_a_capture_of_another_arm_is_refused(tmp_path: Path, verb: str) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(
        "arm: {kind: so101, options: {id: left, port: /dev/ttyACM0}}\ncameras: {wrist: {kind: sim}}\n"
    )
    folder = capture(tmp_path / "c", count=1)
    shots.write(folder, msgspec.structs.replace(shots.read(folder), arm="so101 right"))
    which = ["--camera", "wrist"] if verb == "depth" else []
    said = CliRunner().invoke(app, [verb, str(folder), *which, "--config", str(config)])
    assert said.exit_code != 0 and "another arm" in str(said.exception)
    assert "so101 left" in str(said.exception) and "so101 right" in str(said.exception)


@pytest.mark.parametrize(
    ("arm", "taken", "accepted"),
    [
        ("{kind: so101, options: {id: left}}", "", True),
        ("{kind: so101, options: {id: left}}", "so101 left", True),
        ("{kind: so101, options: {id: left, port: /dev/ttyACM0}}", "so101 ttyACM0", True),
        ("{kind: so101, options: {id: left, port: /dev/ttyACM0}}", "so101 ttyACM1", True),
        ("{kind: so101, options: {port: /dev/ttyACM0}}", "so101 ttyACM1", True),
        ("{kind: so101, options: {port: /dev/ttyACM0}}", "so101 right", True),
        ("{kind: so101, options: {port: /dev/ttyACM0}}", "sim", False),
        ("{kind: so101, options: {serial: A1}}", "so101 B2", False),
        ("{kind: sim}", "sim", True),
        ("{kind: lerobot, options: {robot: {id: left}}}", "lerobot left", True),
        ("{kind: lerobot, options: {robot: {id: left}}}", "lerobot", True),
        ("{kind: lerobot, options: {robot: {id: left}}}", "lerobot b", False),
        ("{kind: lerobot, options: {robot: {port: /dev/ttyACM0}}}", "lerobot left", True),
    ],
)
def test_an_arm_that_its_port_alone_names_may_be_any_of_its_kind(
    tmp_path: Path, arm: str, taken: str, accepted: bool
) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(f"arm: {arm}\n")
    if accepted:
        Record(config).require_arm(taken)
    else:
        with pytest.raises(ConfigError, match="another arm"):
            Record(config).require_arm(taken)


def test_a_calibration_of_another_arm_is_not_signed_anew_under_this_ones_name(
    tmp_path: Path,
) -> None:
    config = tmp_path / "robot.yaml"
    arm = "arm: {kind: so101, options: {id: left, port: /dev/ttyACM0}}\n"
    config.write_text(arm)
    record = Record(config)
    record.put(lambda now: msgspec.structs.replace(now, action_latency=Latency(0.05, 0.001)))
    written = record.path.read_bytes()
    named = config.read_text()
    config.write_text(named.replace("/dev/ttyACM0", "/dev/ttyACM3"))
    assert Record(config).now.action_latency is not None, "the same arm at another port"
    config.write_text(named.replace("left", "right"))
    with pytest.raises(
        ConfigError, match=r"another arm.*so101 right.*so101 left.*calibration\.file"
    ):
        Record(config)
    assert record.path.read_bytes() == written


def test_a_calibration_that_is_not_there_is_said_and_no_key_is_made_for_it(tmp_path: Path) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(f"calibration:\n  file: {tmp_path / 'none' / 'calibration.json'}\n")
    with pytest.raises(ConfigError, match="can't read the calibration"):
        Record(config)
    assert list(tmp_path.iterdir()) == [config]
