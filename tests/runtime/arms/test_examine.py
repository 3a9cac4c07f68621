"""`robot-run doctor` on an arm: a line for each finding, with its fix, and an arm that is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.arms import sts
from runtime.arms.examine import examine
from runtime.bench.servo_bus import ServoBus
from runtime.config import ArmSection
from runtime.findings import Line

pytest.importorskip("scservo_sdk")


def found(bus: ServoBus, calibration: Path, **options: object) -> dict[str, Line]:
    chosen = {"port": bus.path, "calibration": str(calibration), "reply_s": 0.05, **options}
    section = ArmSection(kind="so101", options=chosen, read_rate_hz=10.0)
    return {line.what: line for line in examine(section)}


def test_a_healthy_arm_is_ok_in_every_line_and_untouched(bus: ServoBus, calibration: Path) -> None:
    for servo in bus.servos.values():
        servo.set(sts.P_GAIN, 16)
    before = {one: bytes(servo.memory) for one, servo in bus.servos.items()}
    lines = found(bus, calibration)
    assert lines["arm settings"].status == "warn"  # as they come from the factory, but for one
    assert {line.status for what, line in lines.items() if what != "arm settings"} == {"ok"}
    assert "firmware 3.10" in lines["arm servos"].found
    assert "shoulder_pan 31" in lines["arm temperatures"].found
    assert "12.1 V" in lines["arm supply"].found
    assert lines["arm torque"].found == "off"
    assert before == {one: bytes(servo.memory) for one, servo in bus.servos.items()}


def test_what_is_wrong_has_its_line_and_its_fix(bus: ServoBus, calibration: Path) -> None:
    bus.servo(2).heating_c = 30.0
    bus.servo(4).set(sts.PRESENT_VOLTAGE, 97)
    bus.servo(5).errors = 32
    lines = found(bus, calibration)
    assert (lines["arm temperatures"].status, lines["arm supply"].status) == ("warn", "warn")
    assert "let shoulder_lift cool down" in lines["arm temperatures"].fix
    assert "9.7 V at wrist_flex" in lines["arm supply"].found
    assert lines["arm wrist_roll"].status == "fail"
    bus.servo(3).set(sts.HOMING_OFFSET, -5)
    bus.servo(2).heating_c = 40.0
    lines = found(bus, calibration)
    assert lines["arm joint map"].status == lines["arm temperatures"].status == "fail"
    assert "homing_offset of elbow_flex" in lines["arm joint map"].found
    bus.servo(6).silent = True
    assert "gripper (id 6)" in found(bus, calibration)["arm servos"].found


def test_an_absent_port_or_file_is_one_line(
    bus: ServoBus, calibration: Path, tmp_path: Path
) -> None:
    assert "no arm at" in found(bus, calibration, port=str(tmp_path / "x"))["arm port"].found
    line = found(bus, tmp_path / "none.json")["arm calibration"]
    assert line.status == "fail"
    assert "lerobot-calibrate" in line.found
