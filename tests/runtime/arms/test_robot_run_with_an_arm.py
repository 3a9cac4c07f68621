"""`robot-run` with an so101 on the simulated bus, as a person starts it: it runs, its faults stop it with a
sentence, and a device that is absent ends it before anything moves.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from robots import policy_package, until

from runtime.bench.servo_bus import ServoBus

pytest.importorskip("scservo_sdk")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy").folder


def command(folder: Path, port: str, calibration: Path, package: Path, *more: str) -> list[str]:
    settings = [
        "pace=realtime",
        "loop.rate_hz=20",
        "loop.watchdog_timeout_s=0.5",
        "loop.lease_s=0.5",
        "loop.pause_allowance_s=1",  # on a machine that others use too
        "cameras={front: {kind: sim, width: 128, height: 96, rate_hz: 10}}",
        "episode.task=open_drawer",
        "episode.max_s=3",
        "link.enabled=false",
        "iteration.wait_for_release=false",
        "policy.explore_deg=0",
        "gate.max_frame_age_s=2",
        "gate.max_state_age_s=2",
        "arm.kind=so101",
        "arm.command_timeout_s=1.5",
        "arm.answer_timeout_s=1",
        "arm.fault_after_s=0.5",
        f"arm.options={{port: {port}, calibration: {calibration}, still_s: 0.1, reply_s: 0.1}}",
        *more,
    ]
    return [
        *(sys.executable, "-m", "runtime.app", "start", "--package", str(package), "--json"),
        *("--episodes", "1", "--run-dir", str(folder)),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),  # type: ignore[arg-type]
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    said = [line for line in done.stderr.splitlines() if line.startswith("robot-run: ")]
    said = [
        line for line in said if not line.startswith("robot-run: the loop was")
    ]  # a slow machine's
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return said[0]


def test_an_episode_moves_the_arm_and_leaves_it_powered(
    bus: ServoBus, calibration: Path, package: Path, tmp_path: Path
) -> None:
    done = run(tmp_path / "run", bus.path, calibration, package)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["episodes"] == 1
    assert report["arm"]["state"] == "powered"
    assert report["arm"]["readings"] > 100
    assert report["arm"]["refused"] == report["arm"]["timeouts"] == 0
    assert report["arm"]["warmest_c"] == 31
    bus.advance()
    # The package goes to 5, -58, 60, 62, 0 degrees: lift, elbow and wrist from the middle of their ranges.
    moved = [round((bus.servo(i).position - 2047) * 360 / 4095) for i in (2, 3, 4)]
    assert all(abs(a - b) < 6 for a, b in zip(moved, (-58, 60, 62), strict=True)), moved
    assert all(servo.torque and not servo.let_go for servo in bus.servos.values())


def test_a_servo_that_dies_under_way_stops_the_run_with_its_name(
    bus: ServoBus, calibration: Path, package: Path, tmp_path: Path
) -> None:
    over = threading.Event()

    def kill() -> None:
        while abs(bus.servo(3).position - 2047) < 100 and not over.is_set():
            time.sleep(0.01)
        bus.servo(3).silent = True

    killer = threading.Thread(target=kill)
    killer.start()
    done = run(tmp_path / "run", bus.path, calibration, package, "episode.max_s=20")
    over.set()
    killer.join()
    assert done.returncode == 3, done.stderr
    assert "servo 3 (elbow_flex) does not answer" in sentence(done)
    report = json.loads((tmp_path / "run/run_report.json").read_text())
    assert report["arm"]["state"] == "failed"
    bus.advance()
    others = [servo for servo in bus.servos.values() if servo.id != 3]
    assert all(servo.torque for servo in others)
    at = [servo.position for servo in others]
    time.sleep(0.1)
    bus.advance()
    assert [servo.position for servo in others] == at


def test_when_the_arms_process_dies_the_run_ends_and_the_arm_stands(
    bus: ServoBus, calibration: Path, package: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(folder, bus.path, calibration, package, "episode.max_s=30"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: abs(bus.servo(3).position - 2047) > 50, 60.0)
    server = next(
        child
        for child in psutil.Process(process.pid).children()
        if "runtime.arms.server" in child.cmdline()
    )
    server.kill()
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (3, 4), said
    assert "arm" in said
    bus.advance()
    assert all(servo.torque for servo in bus.servos.values())


@pytest.mark.parametrize(
    ("port", "settings", "words"),
    [
        ("{folder}/ttyACM7", (), "no arm at {folder}/ttyACM7; plug it in and power it"),
        (
            "{bus}",
            ("arm.options={{port: {bus}, calibration: {folder}/none.json}}",),
            "no calibration at {folder}/none.json",
        ),
        ("{bus}", ("arm.options.velocity=3",), "arm.options of 'so101'"),
        ("{bus}", ("pace=asap",), "an arm of kind 'so101' lives by the wall's clock"),
        (
            "{bus}",
            (
                "cameras={{front: {{kind: realsense, width: 640, height: 480, rate_hz: 30}}}}",
                "cameras.front.start_timeout_s=1",
            ),
            "camera 'front'",
        ),
    ],
)
def test_an_absent_device_ends_the_start_before_anything_moves(
    bus: ServoBus,
    calibration: Path,
    package: Path,
    tmp_path: Path,
    port: str,
    settings: tuple[str, ...],
    words: str,
) -> None:
    places = {"folder": tmp_path, "bus": bus.path}
    more = [setting.format(**places) for setting in settings]
    done = run(tmp_path / "run", port.format(**places), calibration, package, *more)
    assert done.returncode == 2, done.stderr
    assert words.format(**places) in sentence(done)
    bus.advance()
    assert not any(servo.powered for servo in bus.servos.values())
