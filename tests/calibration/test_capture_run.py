"""The way of docs/calibration.md on the simulated bench: real device processes, the real gate, one command a
step, and the camera found where MuJoCo has it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from calibration import chain, noted_joints, rigid, shots
from calibration.app import app
from calibration.capture.live import CaptureError, Live
from calibration.capture.looking import Rejected, Seen
from calibration.capture.taking import Capture
from calibration.chain import chain_of
from calibration.drift import LOOKS
from calibration.record import Record, with_camera
from calibration.verify import Check
from contracts.errors import ConfigError, EntracteError
from runtime import app as robot_run
from runtime.arms.session import Session
from runtime.arms.sim import SO101_ACTION
from runtime.bench import World, WorldConfig
from runtime.config import load_config
from runtime.control.reset import NotReached
from runtime.drift import require_in_place
from runtime.gate import limits as gate_limits
from tests.runtime.robots import policy_package

BENCH = Path(__file__).resolve().parents[2] / "hw_configs" / "sim_board.yaml"
BOARD = ["--square-mm", "24", "--marker-mm", "18"]


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def truth(camera: str, at: str = "table") -> np.ndarray:
    """hand_T_camera of the wrist camera, base_T_camera of the front one, as MuJoCo has it."""
    config = load_config(BENCH)
    options = {"board": {**config.bench.options["board"], "at": at}}
    world = World(WorldConfig(width=640, height=480, **options))
    try:
        world.reset(config.episode.task.replace("-", "_"), config.episode.seed_base)
        pose = world.extrinsics(camera)
        hand = chain_of(SO101_ACTION, None).base_T_hand(
            SO101_ACTION.names, world.positions().tolist()
        )
    finally:
        world.close()
    return np.asarray(rigid.invert(hand) @ pose if camera == "wrist" else pose)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("robot")
    shutil.copy(BENCH, folder / "robot.yaml")
    said = run("board", "--output", folder / "board", *BOARD)
    assert said.exit_code == 0, said.output
    return folder


def wanted(robot: Path, output: Path, camera: str, mount: str, *more: str) -> list[str | Path]:
    return [
        *("capture", "--config", robot / "robot.yaml", "--output", output),
        *("--board", robot / "board" / "board.json", "--camera", camera, "--mount", mount, *more),
    ]


@pytest.fixture(scope="module")
def taken(robot: Path) -> tuple[Path, Result]:
    output = robot / "wrist"
    return output, run(*wanted(robot, output, "wrist", "hand", "--auto", "--stands", "10"))


def test_the_arm_takes_its_own_capture_and_tells_how_far_it_is(taken: tuple[Path, Result]) -> None:
    output, said = taken
    assert said.exit_code == 0, said.output
    for words in (
        "stand 000 taken, 1 of 10",
        "smallest",
        "result so far ±",
        "as the camera looks:",
    ):
        assert words in said.output, said.output
    found = shots.read(output)
    assert len(found.shots) == 10 and all(one.depths for one in found.shots)
    assert found.cameras["wrist"].mount == "hand" and found.arm == "sim"
    poses = [rigid.from_quaternion(s.quaternion_xyzw, s.position_m) for s in found.shots]
    assert max(rigid.angle_deg(poses[0], pose) for pose in poses) > 15


def test_every_step_of_the_way_works_and_the_camera_is_found(
    robot: Path, taken: tuple[Path, Result]
) -> None:
    output, _ = taken
    config = robot / "robot.yaml"
    solved = run("handeye", output, "--config", config, "--bootstrap", "0")
    assert solved.exit_code == 0, solved.output
    hand_eye = Record(config).now.cameras["wrist"].hand_eye
    assert hand_eye is not None and hand_eye.mount == "hand"
    pose, true = np.reshape(hand_eye.pose, (4, 4)), truth("wrist")
    assert rigid.distance_mm(pose, true) < 3.0
    assert rigid.angle_deg(pose, true) < 0.4
    # As sure as it says it is: no axis is off by more than twice its 95 % interval.
    off = np.r_[
        rigid.turn_of(pose[:3, :3].T @ true[:3, :3]), pose[:3, :3].T @ (true[:3, 3] - pose[:3, 3])
    ]
    deviations = np.sqrt(np.diag(hand_eye.covariance))
    assert (np.abs(off) < 4 * deviations).all(), (off, deviations)
    checked = run("depth", output, "--camera", "wrist", "--config", config)
    assert checked.exit_code == 0, checked.output
    depth = Record(config).now.cameras["wrist"].depth
    assert depth is not None and depth.scale == pytest.approx(1.0, abs=0.012)
    live = run(
        *("depth", "--camera", "wrist", "--config", config, "--pictures", "3", "--json"),
        *("--board", robot / "board" / "board.json"),
    )
    assert live.exit_code == 0, live.output
    assert len(json.loads(live.stdout)["pictures"]) == 3
    again = run("verify", output, "--config", config)
    assert again.exit_code == 0, again.output
    assert load_config(config).cameras["wrist"].mount == "hand"


@pytest.fixture(scope="module")
def calibrated(
    taken: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, float], Path]:
    """A robot whose wrist camera was calibrated, and is so many millimetres from where it was since."""
    folder = tmp_path_factory.mktemp("calibrated")

    def make(name: str, moved_mm: float = 0.0) -> Path:
        config = folder / f"{name}.yaml"
        shutil.copy(BENCH, config)
        solved = run("handeye", taken[0], "--config", config, "--bootstrap", "0")
        assert solved.exit_code == 0, solved.output
        if moved_mm:
            record = Record(config)
            hand_eye = record.now.cameras["wrist"].hand_eye
            assert hand_eye is not None
            off = rigid.transform(np.eye(3), [moved_mm / 1e3, 0, 0])
            pose = (np.reshape(hand_eye.pose, (4, 4)) @ off).reshape(-1).tolist()
            moved = msgspec.structs.replace(hand_eye, pose=tuple(pose))
            record.put(lambda now: with_camera(now, "wrist", hand_eye=moved))
        return config

    return make


def test_a_camera_that_moved_since_is_found_from_where_the_arm_stands(
    calibrated: Callable[..., Path],
) -> None:
    config = calibrated("sound")
    before = config.read_bytes()
    said = run("verify", "--drift", "--config", config, "--json")
    assert said.exit_code == 0, (said.output, said.exception)
    found = msgspec.json.decode(said.stdout, type=Check)
    wrist = found.cameras["wrist"]
    assert found.level == "pass" and wrist.stands == LOOKS
    assert wrist.drift_px is not None and wrist.drift_px < 3.0
    assert wrist.drift_mm is not None and wrist.drift_mm < 2.0
    assert config.read_bytes() == before
    # One that was calibrated with this board on the hand: it sees it, on the table, and that tells nothing.
    both = calibrated("both")
    record = Record(both)
    wrist_known = record.now.cameras["wrist"]
    assert wrist_known.hand_eye is not None
    place = tuple(truth("front").reshape(-1).tolist())
    on_hand = msgspec.structs.replace(wrist_known.hand_eye, mount="world", pose=place)
    record.put(lambda now: with_camera(now, "front", lens=wrist_known.lens, hand_eye=on_hand))
    told = run("verify", "--drift", "--config", both)
    assert told.exit_code == 0, (told.output, told.exception)
    assert "not used: front: not checked: the board is where wrist has it" in told.stdout
    asked = run("verify", "--drift", "--config", both, "--camera", "front")
    assert asked.exit_code == 1 and "fail: front: the board is not where it was" in asked.stdout
    # It moved, or there are two prints: it sees a board where neither of them has one.
    off = rigid.transform(np.eye(3), [0.03, 0, 0])
    bumped = tuple((np.reshape(place, (4, 4)) @ off).reshape(-1).tolist())
    elsewhere = msgspec.structs.replace(on_hand, pose=bumped)
    record.put(lambda now: with_camera(now, "front", hand_eye=elsewhere))
    stays = run("verify", "--drift", "--config", both)
    assert stays.exit_code == 1 and "fail: front: the board is not where it was" in stays.stdout

    text = run("verify", "--drift", "--config", calibrated("moved", 12.0), "--camera", "wrist")
    assert text.exit_code == 1, (text.output, text.exception)
    assert "fail: wrist: the board is not where it was by" in text.stdout
    assert "px (fail above 8)" in text.stdout and "mm (fail above 5)" in text.stdout


def test_the_hand_is_where_the_configurations_chain_has_it(
    calibrated: Callable[..., Path], robot: Path, tmp_path: Path
) -> None:
    """Without --chain: a place that was found under a chain is not judged by another one."""
    config, path = calibrated("chained"), tmp_path / "arm.yaml"
    known = chain.read(chain.SO101)
    x, y, z = known.hand.place_mm
    longer = msgspec.structs.replace(known.hand, place_mm=(x, y, z + 30.0))
    arm = msgspec.structs.replace(known, hand=longer)
    noted_joints.write_chain(path, arm)
    words = ("--config", config, "--chain", path, "--bootstrap", "0")
    solved = run("handeye", robot / "wrist", *words)
    assert solved.exit_code == 0, (solved.output, solved.exception)
    assert load_config(config).calibration.chain == str(path)
    said = run("verify", "--drift", "--config", config)
    assert said.exit_code == 0, (said.output, said.exception)
    other = run("verify", "--drift", "--config", config, "--chain", chain.SO101)
    assert other.exit_code == 1 and "the board is not where it was" in other.stdout
    overridden = ("--set", f"calibration.chain={chain.SO101}")
    assert run("verify", "--drift", "--config", config, *overridden).exit_code == 1
    one = wanted(robot, tmp_path / "one", "wrist", "hand", "--stands", "1")
    one[one.index(robot / "robot.yaml")] = config
    run(*one)
    assert shots.read(tmp_path / "one").chain == arm


def test_a_drift_that_can_not_be_told_is_no_pass(calibrated: Callable[..., Path]) -> None:
    config = calibrated("small")
    config.write_text(
        config.read_text().replace("width: 640, height: 480", "width: 320, height: 240")
    )
    away = run(
        *("verify", "--drift", "--config", config, "--limit-px", "3"),
        *("--set", "bench.options.board.at=hand"),
    )
    assert away.exit_code == 1, (away.output, away.exception)
    assert "fail: wrist: not checked: the board is not seen" in away.stdout
    for options, words in (
        (["--drift", "--camera", "front"], "the place of camera 'front' was never calibrated"),
        (["--drift", "--camera", "side"], "no camera 'side'"),
        (["--drift", "--set", "cameras.wrist.width=320"], "expected 640x480, found 320x480"),
        ([], "a capture, or --drift alone"),
        (["somewhere", "--drift", "--camera", "wrist"], "leave out --camera"),
    ):
        wrong = run("verify", "--config", config, *options)
        assert isinstance(wrong.exception, EntracteError), (options, wrong.output)
        assert words in str(wrong.exception)


def test_a_start_is_refused_before_anything_moves_where_a_camera_moved(
    calibrated: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also by cameras that work with smaller pictures than they were calibrated with."""
    package = policy_package(tmp_path / "package", ("front", "wrist")).folder
    config = calibrated("at-start", 12.0)
    config.write_text(
        config.read_text().replace("width: 640, height: 480", "width: 128, height: 96")
    )
    wrist = ["--set", "calibration.drift_cameras=[wrist]", "--set", "link.enabled=false"]
    folder = tmp_path / "run"
    words = ["start", "--package", package, "--config", config, "--run-dir", folder, *wrist]
    monkeypatch.setattr(sys, "argv", ["robot-run", *(str(word) for word in words)])
    with pytest.raises(SystemExit) as refused:
        robot_run.main()
    told = capsys.readouterr().err
    assert refused.value.code == 1, told  # a check that was made and failed
    for sentence in ("within 8 px and 5 mm", "wrist: the board is not where it was by", "mm (fail"):
        assert sentence in told
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["drift", "robot.lock"]  # no process of a run began

    said: list[str] = []
    sound = load_config(calibrated("at-start-again"), ["calibration.drift_cameras=[wrist]"])
    require_in_place(sound, tmp_path / "sound", said.append)
    assert said == ["looking for the calibration's board: has wrist moved?"]
    lost = msgspec.structs.replace(sound.calibration, chain="nowhere.yaml")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml is no chain of joints"):
        require_in_place(
            msgspec.structs.replace(sound, calibration=lost), tmp_path / "lost", said.append
        )


def test_depths_of_another_unit_fail(taken: tuple[Path, Result], tmp_path: Path) -> None:
    source, _ = taken
    folder = tmp_path / "wrong"
    shutil.copytree(source, folder)
    found = shots.read(folder)
    wrist = msgspec.structs.replace(found.cameras["wrist"], depth_scale_m=0.00104)
    shots.write(folder, msgspec.structs.replace(found, cameras={"wrist": wrist}))
    said = run("depth", folder, "--camera", "wrist")
    assert said.exit_code == 1 and "of the true one" in said.output
    assert run("depth", folder, "--camera", "front").exit_code != 0


def test_a_camera_beside_the_arm_is_found_by_a_board_on_the_hand(
    robot: Path, tmp_path: Path
) -> None:
    output = tmp_path / "front"
    on_hand = ["--set", "bench.options.board.at=hand"]
    said = run(
        *wanted(robot, output, "front", "world", "--auto", "--stands", "10", *on_hand),
    )
    assert said.exit_code == 0, said.output
    assert "the board, as the camera sees it:" in said.output
    solved = run("handeye", output, "--bootstrap", "0", "--json")
    assert solved.exit_code == 0, solved.output
    pose = np.array(json.loads(solved.stdout)["cameras"]["front"]["pose"])
    true = truth("front", "hand")
    assert rigid.distance_mm(pose, true) < 6.0 and rigid.angle_deg(pose, true) < 0.8


def test_a_person_takes_a_stand_and_the_arm_is_left_alone(robot: Path, tmp_path: Path) -> None:
    output = tmp_path / "one"
    said = run(*wanted(robot, output, "wrist", "hand", "--stands", "1", "--json"))
    assert said.exit_code == 1, said.output  # one is not enough, and it says so
    left = json.loads(said.stdout)
    assert left["stands"] == 1 and any("1 stands, fewer than 10" in m for m in left["missing"])
    assert len(shots.read(output).shots) == 1
    lens = run(*wanted(robot, tmp_path / "lens", "wrist", "hand", "--stands", "1", "--lens"))
    assert lens.exit_code == 0, lens.output


def test_ctrl_c_ends_it_with_what_there_is(
    robot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = Live._took

    def stop_after(live: Live, name: str) -> None:
        took(live, name)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Live, "_took", stop_after)
    output = tmp_path / "out"
    said = run(*wanted(robot, output, "wrist", "hand", "--auto", "--stands", "10", "--json"))
    assert said.exit_code == 1, (said.output, said.exception)
    left = json.loads(said.stdout)
    assert left["stands"] == 1 == len(shots.read(output).shots)
    assert "1 stands of the 10 that were wanted" in left["missing"]
    text = run(*wanted(robot, tmp_path / "text", "wrist", "hand", "--auto", "--stands", "10"))
    assert "stopped after 1 stands, the arm stays where it is" in text.stderr, text.output
    assert "missing: 1 stands of the 10" in text.stdout


def test_a_pose_that_is_not_reached_is_not_taken_and_the_next_one_is(
    robot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An arm that gets stuck on its first way, and that the gate knows no kinematics of."""
    go, sent = Session.go, list[tuple[float, ...]]()

    def stuck(session: Session, positions: tuple[float, ...], speed: float) -> None:
        sent.append(positions)
        if len(sent) == 1:
            half = np.add(session.held, positions) / 2
            go(session, half.tolist(), speed)
            raise NotReached("the arm did not reach it", found="4.0 off")
        go(session, positions, speed)

    monkeypatch.setattr(Session, "go", stuck)
    monkeypatch.setattr(gate_limits, "points_for", lambda *_: None)
    output = tmp_path / "out"
    said = run(*wanted(robot, output, "wrist", "hand", "--auto", "--stands", "3"))
    assert "not taken: the arm did not reach it" in said.output, (said.output, said.exception)
    assert said.exit_code == 1 and len(shots.read(output).shots) == 3
    assert "1 x unreached" in said.stdout and sent.count(sent[0]) == 1
    warned = said.stderr.index("NO WORKSPACE IS CHECKED")
    assert warned < said.stderr.index("stand 000 taken")


def test_a_board_that_still_swings_is_waited_for_and_a_camera_that_sees_none_is_told(
    robot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = Capture.look_twice, list[str]()

    def swinging(capture: Capture, name: str, *pictures: np.ndarray) -> Seen | Rejected:
        looks.append(name)
        if name == "front":
            return Rejected("unseen", "somebody stands before it")
        swings = name == "wrist" and looks.count("wrist") <= 2
        return Rejected("moving", "it swings") if swings else look(capture, name, *pictures)

    monkeypatch.setattr(Capture, "look_twice", swinging)
    output = tmp_path / "out"
    both = ["--camera", "front", "--auto", "--stands", "1"]
    said = run(*wanted(robot, output, "wrist", "hand", *both))
    assert len(shots.read(output).shots) == 1, (said.output, said.exception)
    assert looks.count("wrist") == 3
    assert "front HAS NOT SEEN ITS BOARD" in said.stderr


def test_what_can_not_be_captured_is_refused_before_the_arm_goes_anywhere(
    robot: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert run("board", "--output", other, "--dictionary", "DICT_7X7_50").exit_code == 0
    command = wanted(robot, tmp_path / "out", "wrist", "hand", "--auto")
    command[command.index(robot / "board" / "board.json")] = other / "board.json"
    said = run(*command)
    assert isinstance(said.exception, CaptureError), said.output
    assert "the board is not seen" in str(said.exception)
    nobody = run(*wanted(robot, tmp_path / "out", "side", "hand"))
    assert isinstance(nobody.exception, ConfigError) and "no camera 'side'" in str(nobody.exception)


@pytest.mark.realtime
def test_the_arm_moves_itself_against_the_wall_clock_too(robot: Path, tmp_path: Path) -> None:
    """Under a watchdog that waits no longer than a robot's may, whatever is computed meanwhile."""
    small = [
        f"cameras.{name}.{key}"
        for name in ("front", "wrist")
        for key in ("width=320", "height=240")
    ]
    limits = ["loop.watchdog_timeout_s=0.5", "loop.lease_s=0.5", "loop.pause_allowance_s=1"]
    settings = [word for one in ("pace=realtime", *small, *limits) for word in ("--set", one)]
    output = tmp_path / "out"
    said = run(*wanted(robot, output, "wrist", "hand", "--auto", "--stands", "6", *settings))
    assert said.exit_code == 1 and "fewer than 10" in said.output, said.output
    assert len(shots.read(output).shots) == 6
    assert "result so far ±" in said.output
