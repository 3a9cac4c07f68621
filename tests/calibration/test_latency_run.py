"""Delays put between a robot and its devices are found again: real processes of the bench, the real gate, and
`Camera` and `Arm` as the loop has them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.latency import PLAIN, LateArm, measured
from calibration.app import app
from calibration.latency import measure
from calibration.latency.measure import Latencies
from runtime.arms.session import Session
from runtime.config import load_config

WITHIN_S = 0.005


@pytest.fixture(scope="module")
def prompt() -> Latencies:
    return measured(0.0, 0.0, 0.0, 0.0)


def test_the_bench_itself_is_prompt(prompt: Latencies) -> None:
    """In `asap` pace a picture shows the physics step before its time: 4 ms, and it is seen."""
    assert not prompt.unseen and prompt.state is None and prompt.state_s == 0.0
    for one in prompt.cameras.values():
        assert one.seconds <= 0.004 + WITHIN_S and one.half_width_s < 0.008
    assert 0.02 < prompt.action.seconds < 0.2  # its servos', not none


@pytest.mark.parametrize(
    ("front_s", "wrist_s", "read_s", "act_s"),
    [(0.2, 0.05, 0.0, 0.1), (0.02, 0.1, 0.03, 0.2), (0.05, 0.2, 0.0, 0.0)],
)
def test_delays_that_were_put_in_are_found(
    front_s: float, wrist_s: float, read_s: float, act_s: float, prompt: Latencies
) -> None:
    found = measured(front_s, wrist_s, read_s, act_s)
    assert not found.unseen
    for name, late_s in (("front", front_s), ("wrist", wrist_s)):
        one = found.cameras[name]
        assert one.seconds == pytest.approx(late_s + 0.004, abs=WITHIN_S), name
    more_s = found.action.seconds - prompt.action.seconds
    assert more_s == pytest.approx(act_s, abs=WITHIN_S)


def test_readings_that_are_late_without_being_called_so_are_found_out() -> None:
    """A picture would be from the future."""
    with Session(load_config(None, PLAIN)) as session:
        senses, gate = session.robot.senses, session.robot.gate
        gate.arm = senses.arm = LateArm(gate.arm, 0.08, 0.0)  # type: ignore[assignment]
        session.take_arm()
        found = measure.latencies(measure.record(session))
    assert found.state is not None
    assert found.state_s == pytest.approx(0.08 - 0.004, abs=WITHIN_S)
    assert max(one.seconds for one in found.cameras.values()) < 0.01


def test_the_command_writes_what_the_loop_reads(tmp_path: Path) -> None:
    config = tmp_path / "robot.yaml"
    config.write_text(
        "robot: {id: bench-0}\npace: asap\nloop: {rate_hz: 30}\n"
        "cameras:\n  front: {kind: sim, rate_hz: 30}  # the table\n  wrist: {kind: sim, rate_hz: 30}\n"
    )
    said = CliRunner().invoke(app, ["latency", "--config", str(config), "--seconds", "12"])
    assert said.exit_code == 0, said.output
    robot = load_config(config)
    assert robot.arm.action_latency_s > 0.02 and robot.calibration.file
    from calibration.record import Record

    now = Record(config).now
    assert now.action_latency is not None
    assert now.action_latency.seconds == robot.arm.action_latency_s
    front = now.cameras["front"].latency
    assert front is not None and front.seconds == robot.cameras["front"].latency_s
    assert "# the table" in config.read_text()


def test_a_camera_that_sees_nothing_of_the_arm_is_named() -> None:
    random = np.random.default_rng(0)
    at = np.arange(0.0, 20.0, 1 / 30)
    joints = np.stack([np.sin(2 * np.pi * f * at) for f in (0.43, 0.71)], 1).astype(np.float32)
    found = measure.Recording(
        commanded=[(t, tuple(map(float, q))) for t, q in zip(at, joints, strict=True)],
        read=[(t + 0.01, q) for t, q in zip(at, joints, strict=True)],
        seen={"side": [(t, random.normal(size=(6, 8)).astype(np.float32)) for t in at]},
    )
    latencies = measure.latencies(found)
    assert "don't show the same movement" in latencies.unseen["side"]
    assert latencies.cameras == {}
    assert latencies.action.seconds == pytest.approx(0.01, abs=0.002)
    assert msgspec.json.encode(latencies)
