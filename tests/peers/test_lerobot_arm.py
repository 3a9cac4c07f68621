"""LeRobot's own SO-101 follower as our arm, and our so101 beside it, on one simulated servo bus.

Needs `ENTRACTE_LEROBOT_PYTHON`, the interpreter of an environment with lerobot 0.4.4, and Feetech's SDK here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contracts.errors import DeviceError
from runtime.arms import sts
from runtime.arms.lerobot import LeRobotArm
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import CALIBRATION, ServoBus, so101_servos, write_calibration
from runtime.config import load_config

PYTHON = os.environ.get("ENTRACTE_LEROBOT_PYTHON")
ROOT = Path(__file__).resolve().parents[2]
scservo_sdk = pytest.importorskip("scservo_sdk")

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.skipif(
        not PYTHON,
        reason="ENTRACTE_LEROBOT_PYTHON is not set: name the Python of an environment with lerobot 0.4.4",
    ),
]

RUN: Any = SimpleNamespace(config=load_config())
POSE = np.array([25.0, -31.0, 17.0, 9.0, -40.0, 35.0])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """LeRobot's calibration folder with our arm in it; Feetech's SDK where LeRobot's Python finds it."""
    write_calibration(tmp_path / "arm.json", CALIBRATION)
    site = tmp_path / "site"
    site.mkdir()
    (site / "scservo_sdk").symlink_to(Path(scservo_sdk.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", str(site))
    return tmp_path


@pytest.fixture
def bus() -> Iterator[ServoBus]:
    with ServoBus(so101_servos()) as bus:
        yield bus


def robot(bus: ServoBus, folder: Path) -> dict[str, str]:
    return {"type": "so101_follower", "port": bus.path, "id": "arm", "calibration_dir": str(folder)}


def arrived(arm: Any, pose: np.ndarray) -> np.ndarray:
    give_up_s = time.monotonic() + 5.0
    while True:
        found = arm.read().positions
        if np.abs(found - pose).max() < 0.3 or time.monotonic() > give_up_s:
            return np.asarray(found)
        time.sleep(0.01)


def test_what_lerobots_follower_calls_percent_is_no_degrees_here(
    bus: ServoBus, folder: Path
) -> None:
    arm = LeRobotArm(RUN, robot(bus, folder) | {"use_degrees": False})  # type: ignore[operator]
    arm.close()
    assert arm.spec().units == ("percent",) * 6
    assert (arm.spec().low[0], arm.spec().high[0]) == (-100.0, 100.0)


def test_lerobots_follower_moves_reads_as_ours_and_keeps_its_power(
    bus: ServoBus, folder: Path
) -> None:
    arm = LeRobotArm(RUN, robot(bus, folder))
    try:
        assert arm.spec().names[0] == "shoulder_pan.pos"
        assert not any(servo.powered for servo in bus.servos.values())  # known before it is opened
        arm.open()
        arm.enable()
        arm.write(POSE)
        assert np.abs(arrived(arm, POSE) - POSE).max() < 0.3
        arm.hold()
        time.sleep(0.2)
        theirs = arm.read().positions
        assert arm.read().targets is None  # LeRobot reads none back
        goals = [bus.servo(i).get(sts.GOAL_POSITION) for i in range(1, 7)]
        arm.hold()
        assert [bus.servo(i).get(sts.GOAL_POSITION) for i in range(1, 7)] == goals
        assert np.abs(arm.read().positions - POSE).max() < 0.3
    finally:
        arm.close()
    assert all(servo.torque for servo in bus.servos.values())
    # The same bus, read by our own driver: the same numbers, within one step of the encoder.
    ours = So101(RUN, port=bus.path, calibration=str(folder / "arm.json"), reply_s=0.1)
    ours.open()
    try:
        assert np.abs(ours.read().positions - theirs).max() < 0.1
        assert np.abs(ours.spec().low[:5] + np.array(ours.spec().high[:5])).max() < 1e-6
    finally:
        ours.close()


def test_two_arms_of_one_robot_keep_their_power_at_the_end(bus: ServoBus, folder: Path) -> None:
    """Each has a configuration of its own inside the robot's, and LeRobot's default is to let go."""
    with ServoBus(so101_servos()) as other:
        for side in ("left", "right"):
            write_calibration(folder / f"arm_{side}.json", CALIBRATION)
        both = {
            "type": "bi_so_follower",
            "id": "arm",
            "calibration_dir": str(folder),
            "left_arm_config": {"port": bus.path},
            "right_arm_config": {"port": other.path, "disable_torque_on_disconnect": True},
        }
        limits: dict[str, Any] = {"low": [-100.0] * 12, "high": [100.0] * 12}
        arm = LeRobotArm(RUN, both, velocity=[90.0] * 12, acceleration=[900.0] * 12, **limits)
        try:
            arm.open()
            arm.enable()
            arm.write(np.concatenate([POSE, POSE]))
            assert np.abs(arrived(arm, np.concatenate([POSE, POSE])) - [*POSE, *POSE]).max() < 0.3
            arm.hold()
            process = arm._child._process
        finally:
            arm.close()
        assert process.returncode == 0
        servos = [*bus.servos.values(), *other.servos.values()]
        assert all(servo.torque for servo in servos)
        # connect() let go of each once, and nobody since.
        assert [servo.let_go for servo in servos] == [servos[0].let_go] * 12


def test_an_arm_that_lerobot_would_calibrate_is_never_powered(bus: ServoBus, folder: Path) -> None:
    bus.servo(2).set(sts.HOMING_OFFSET, -7)
    arm = LeRobotArm(RUN, robot(bus, folder))
    try:
        with pytest.raises(DeviceError, match="run lerobot-calibrate"):
            arm.open()
    finally:
        arm.close()
    assert not any(servo.powered for servo in bus.servos.values())


def test_robot_run_drives_it_end_to_end(bus: ServoBus, folder: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests/runtime"))
    from robots import policy_package

    package = policy_package(tmp_path / "policy").folder
    options = {"robot": robot(bus, folder), "answer_s": 1.0}
    settings = [
        "pace=realtime", "loop.rate_hz=10", "loop.watchdog_timeout_s=0.5", "loop.lease_s=0.5",
        "loop.pause_allowance_s=1",  # on a machine that others use too
        "cameras={front: {kind: sim, width: 128, height: 96, rate_hz: 10}}",
        "episode.task=open_drawer", "episode.max_s=3", "policy.explore_deg=0", "link.enabled=false",
        "iteration.wait_for_release=false", "gate.max_frame_age_s=2", "gate.max_state_age_s=2",
        "arm.kind=lerobot", "arm.answer_timeout_s=2", "arm.fault_after_s=1", "arm.command_timeout_s=1.5",
        "arm.read_rate_hz=50", f"arm.options={json.dumps(options)}",
    ]  # fmt: skip
    done = subprocess.run(
        [
            *(sys.executable, "-m", "runtime.app", "start", "--package", str(package), "--json"),
            *("--episodes", "1", "--run-dir", str(tmp_path / "run")),
            *(word for setting in settings for word in ("--set", setting)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["episodes"] == 1
    assert report["arm"]["readings"] > 50
    bus.advance()
    moved = [round((bus.servo(i).position - 2047) * 360 / 4095) for i in (2, 3, 4)]
    assert all(abs(a - b) < 6 for a, b in zip(moved, (-58, 60, 62), strict=True)), moved
    assert all(servo.torque for servo in bus.servos.values())


def test_a_type_that_lerobot_does_not_have_is_one_sentence() -> None:
    with pytest.raises(DeviceError, match=r"no robot of type 'so102'.*so101_follower"):
        LeRobotArm(RUN, {"type": "so102", "port": "none"})
