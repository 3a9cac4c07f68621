"""An SO-101's driver on the simulated bus, and what tests ask of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.arms import Glitch
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import CALIBRATION, ServoBus
from runtime.config import load_config

pytest.importorskip("scservo_sdk")
RUN: Any = SimpleNamespace(config=load_config())
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
FIRST = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
Make = Callable[..., So101]


@pytest.fixture
def make(bus: ServoBus, calibration: Path) -> Iterator[Make]:
    made: list[So101] = []

    def make(**options: Any) -> So101:
        chosen = {
            "port": bus.path,
            "calibration": str(calibration),
            "still_s": 0.1,
            "reply_s": 0.05,
            **options,
        }
        arm = So101(RUN, **chosen)
        made.append(arm)
        return arm

    yield make
    for arm in made:
        arm.close()


@pytest.fixture
def arm(make: Make) -> So101:
    arm = make()
    arm.open()
    arm.enable()
    return arm


def read(arm: So101, attempts: int = 20) -> Any:
    for _ in range(attempts):
        try:
            return arm.read()
        except Glitch as error:
            last = error
    raise last


def follow(arm: So101, target: np.ndarray, seconds: float = 1.5) -> np.ndarray:
    """Where the arm is once it has arrived and stands, or when the time is out."""
    give_up_s = time.monotonic() + seconds
    while True:
        state = read(arm)
        there = np.abs(state.positions - target).max() < 0.3 and not state.velocities.any()
        if there or time.monotonic() > give_up_s:
            return np.asarray(state.positions)


def settled(arm: So101, seconds: float = 1.0) -> Any:
    """The state once no joint moves any more, or when the time is out. One reading without speed is also had
    where a joint that went too far turns round."""
    give_up_s = time.monotonic() + seconds
    still = 0
    while True:
        state = read(arm)
        still = 0 if state.velocities.any() else still + 1
        if still == 5 or time.monotonic() > give_up_s:
            return state


def never_powered(bus: ServoBus) -> None:
    bus.advance()
    assert not any(servo.powered or servo.torque for servo in bus.servos.values())
    middle = [(c.range_min + c.range_max) // 2 for c in CALIBRATION.values()]
    assert [round(s.position) for s in bus.servos.values() if not s.pushed] == [
        m for m, s in zip(middle, bus.servos.values(), strict=True) if not s.pushed
    ]


def hot(bus: ServoBus) -> None:
    bus.servo(3).heating_c = 40.0
