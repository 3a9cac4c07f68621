"""A simulated servo bus and the file that calibrates it, for the tests beside this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.bench.servo_bus import CALIBRATION, ServoBus, so101_servos, write_calibration


@pytest.fixture
def bus() -> Iterator[ServoBus]:
    with ServoBus(so101_servos()) as bus:
        for servo in bus.servos.values():
            servo.stale_goal = True  # the worse of the two ways in which a servo may wake up
        yield bus


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "arm.json"
    write_calibration(path, CALIBRATION)
    return path
