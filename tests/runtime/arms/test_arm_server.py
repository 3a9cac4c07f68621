"""The arm's process, for real: fencing, the newest reading at once, holds of its own, faults, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from robots import until
from tiny_package import make_package

from contracts.errors import DeviceError
from contracts.files.packages import write_package
from runtime.arms import sts
from runtime.arms.client import ServedArm
from runtime.arms.sim import SO101_ACTION
from runtime.bench.servo_bus import ServoBus
from runtime.board import ArmPhase, Board
from runtime.config import load_config
from runtime.processes.supervisor import make_run
from runtime.run import Run, RunPlan

pytest.importorskip("scservo_sdk")
TARGET = np.array([20.0, -15.0, 10.0, 5.0, 0.0, 30.0])
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])


@dataclass
class Process:
    """A running `runtime.arms.server`."""

    run: Run
    board: Board
    process: subprocess.Popen[str]

    def arm(self, caller: str = "test", epoch: int = 1) -> ServedArm:
        arm = ServedArm(self.run.arm_address, caller, 2.0, 30.0)
        arm.take(epoch)
        return arm

    def end(self) -> str:
        """Ask it to leave; what it said."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=10)[1]


Start = Callable[..., Process]


@pytest.fixture
def start(bus: ServoBus, calibration: Path, tmp_path: Path) -> Iterator[Start]:
    started: list[Process] = []

    def start(
        *overrides: str, plan: RunPlan | None = None, command_timeout_s: float = 30.0
    ) -> Process:
        config = load_config(
            None,
            [
                "pace=realtime",
                "arm.kind=so101",
                f"arm.options={{port: {bus.path}, calibration: {calibration}, still_s: 0.1, reply_s: 0.1}}",
                "loop.watchdog_timeout_s=0.5",
                "loop.lease_s=0.5",
                "arm.fault_after_s=1",
                *overrides,
            ],
        )
        # No loop is at work here: a test gives one command and looks how the arm comes to its end. (No robot
        # may be configured so.)
        patient = msgspec.structs.replace(config.arm, command_timeout_s=command_timeout_s)
        config = msgspec.structs.replace(config, arm=patient)
        run = make_run(config, plan or RunPlan(driver="expert"), tmp_path / "run")
        board = Board.create(run.board_path)
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.arms.server", "--run-dir", run.run_dir],
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Process(run, board, process))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        one.board.close()
        for path in Path(one.run.shm_dir).iterdir():
            path.unlink()
        os.rmdir(one.run.shm_dir)


def test_it_reads_on_while_nobody_asks_and_answers_at_once(bus: ServoBus, start: Start) -> None:
    server = start("arm.read_rate_hz=1000")
    arm = server.arm()
    bus.faults.delay_s = 0.04  # a bus so slow that waiting for it would show
    readings = server.board.arm_readings
    until(lambda: server.board.arm_readings >= readings + 3)
    started_s, ages, numbers = time.monotonic(), [], set()
    for _ in range(50):
        state = arm.read()
        ages.append(time.monotonic() - state.at_s)
        numbers.add(state.at_s)
    assert time.monotonic() - started_s < 50 * 0.04 / 2, "it waited for the bus"
    assert len(numbers) < 50
    assert min(ages) > 0


def test_a_command_moves_the_arm_and_one_of_an_older_lease_does_not(
    bus: ServoBus, start: Start
) -> None:
    server = start()
    control, watchdog = server.arm("control", 1), server.arm("watchdog", 0)
    with pytest.raises(DeviceError, match="before the motors were powered"):
        control.write(TARGET)
    control.enable()
    assert server.board.arm_state == ArmPhase.POWERED
    assert control.write(TARGET)
    until(lambda: bool(np.abs(control.read().positions - TARGET).max() < 0.3))
    watchdog.take(2)
    watchdog.hold()
    assert not control.write(MIDDLE)
    control.hold()  # to stop is never refused
    assert server.board.arm_refused == 1
    assert np.abs(control.read().positions - TARGET).max() < 0.3
    server.board.lease_epoch = 3  # somebody took the lease, and has not spoken yet
    assert not watchdog.write(MIDDLE)
    with pytest.raises(DeviceError, match="another process has taken it"):
        watchdog.enable()


def test_a_command_that_is_no_pose_is_not_given_to_the_arm(bus: ServoBus, start: Start) -> None:
    arm = start().arm()
    arm.enable()
    for wrong, words in (
        (np.array([np.nan, 0, 0, 0, 0, 0]), "NaN"),
        (np.array([0.0, np.inf, 0, 0, 0, 0]), "infinity"),
        (np.zeros(5), "5 entries"),
    ):
        with pytest.raises(DeviceError, match=words):
            arm.write(wrong)
    assert np.abs(arm.read().targets - MIDDLE).max() < 0.2


def test_when_commands_cease_it_holds_until_it_is_taken_anew(bus: ServoBus, start: Start) -> None:
    server = start(command_timeout_s=0.1)
    arm = server.arm()
    arm.enable()
    time.sleep(0.2)
    assert server.board.arm_timeouts == 0  # it was never told to move
    far = np.array([100.0, 0.0, 0.0, 0.0, 0.0, 50.0])
    bus.servo(1).set(sts.ACCELERATION, 5)
    assert arm.write(far)
    until(lambda: server.board.arm_timeouts == 1)
    until(lambda: not arm.read().velocities.any())
    assert arm.read().positions[0] < 90
    assert not arm.write(far), "it moved on by itself"
    arm.take(2)
    assert arm.write(far)
    arm.hold()  # asked for: no timeout runs in it
    time.sleep(0.2)
    assert server.board.arm_timeouts == 1
    assert arm.write(far)


def test_a_servo_that_dies_is_a_latched_fault_that_names_it(bus: ServoBus, start: Start) -> None:
    server = start()
    arm = server.arm()
    arm.enable()
    assert arm.write(TARGET)
    bus.servo(3).silent = True
    until(lambda: server.board.arm_state == ArmPhase.FAILED)
    for call in (arm.read, lambda: arm.write(TARGET)):
        with pytest.raises(DeviceError, match=r"servo 3 \(elbow_flex\) does not answer"):
            call()
    with pytest.raises(DeviceError, match=r"hold can't be verified: servo 3 \(elbow_flex\)"):
        arm.hold()
    bus.servo(3).silent = False
    arm.hold()
    with pytest.raises(DeviceError, match="does not answer"):
        arm.read()  # nothing resumes by itself
    assert all(servo.torque for servo in bus.servos.values())


def test_noise_is_outlived_and_counted_until_it_lasts(bus: ServoBus, start: Start) -> None:
    server = start()
    arm = server.arm()
    arm.enable()
    bus.faults.bit_errors = 5e-4
    retries = server.board.arm_retries
    until(lambda: server.board.arm_retries > retries + 5)
    arm.read()
    bus.faults.bit_errors = 0.2
    until(lambda: server.board.arm_state == ArmPhase.FAILED)
    with pytest.raises(DeviceError, match=r"servo \d \(\w+\).*noise"):
        arm.read()


@pytest.mark.parametrize("away", [0.0, 30.0])
def test_power_is_cut_at_the_end_only_in_the_rest_pose(
    bus: ServoBus, start: Start, away: float
) -> None:
    server = start("arm.at_close=release", f"arm.rest_pose=[{away}, 0, 0, 0, 0, 50]")
    arm = server.arm()
    arm.enable()
    said = server.end()
    assert [servo.torque for servo in bus.servos.values()] == [away > 0] * 6
    assert ("stay powered: shoulder_pan.pos is 30.0 deg from its rest pose" in said) == (away > 0)


_SWAPPED = (SO101_ACTION.names[1], SO101_ACTION.names[0], *SO101_ACTION.names[2:])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": _SWAPPED}, "action names"),
        ({"units": ("percent",) * 6}, "action units"),
        ({"low": (-120.0, *SO101_ACTION.low[1:])}, "range of shoulder_pan.pos: policy .-120"),
    ],
)
def test_a_policy_for_another_arm_is_refused_before_the_bus_is_touched(
    bus: ServoBus, start: Start, tmp_path: Path, change: dict[str, tuple[object, ...]], words: str
) -> None:
    package = make_package(tmp_path / "policy")
    action = msgspec.structs.replace(SO101_ACTION, **change)
    write_package(
        tmp_path / "policy",
        msgspec.structs.replace(package.manifest, action=action),
        package.graphs,
        dict(package.weights),
        {name: list(cases) for name, cases in package.golden.items()},
    )
    server = start(f"policy.package={tmp_path / 'policy'}", plan=RunPlan())
    with pytest.raises(DeviceError, match=f"was made for another arm: {words}"):
        server.arm()
    assert server.process.wait(10) == 2
    assert bus.instructions == 0
