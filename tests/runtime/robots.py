"""Starts the real processes of a robot on the bench, for the tests beside this file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from tiny_package import golden_of, make_package

from contracts.files.packages import Package, write_package
from contracts.specs import CameraSpec, ObservationSpec
from runtime.arms.sim import SO101_ACTION
from runtime.config import RobotConfig, load_config

REALTIME = [
    "pace=realtime",
    "loop.rate_hz=30",
    "loop.watchdog_timeout_s=0.07",
    "loop.lease_s=0.07",
    "cameras.front.rate_hz=30",
    "cameras.wrist.rate_hz=30",
    "link.enabled=false",
]


def config(*overrides: str) -> RobotConfig:
    return load_config(None, ["link.enabled=false", *overrides])


def policy_package(folder: Path, cameras: tuple[str, ...] = ("front",)) -> Package:
    """The tiny package, made for the bench's arm and cameras."""
    package = make_package(folder, length=8)
    observation = ObservationSpec(
        tuple(CameraSpec(name, 128, 96, 10.0) for name in cameras),
        package.manifest.observation.state_names,
        package.manifest.observation.state_units,
    )
    manifest = msgspec.structs.replace(
        package.manifest, action=SO101_ACTION, observation=observation, cameras=cameras
    )
    weights = dict(package.weights)
    # Stands near the arm's home: enough to see it act.
    weights["head/bias"] = np.array([5.0, -58.0, 60.0, 62.0, 0.0, 60.0], np.float32)
    weights["head/mix"] = weights["head/mix"] * 0
    golden = golden_of(package, weights)
    return write_package(folder, manifest, package.graphs, weights, golden)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for it; fails the test when it takes too long."""
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "timed out"
        time.sleep(0.002)
