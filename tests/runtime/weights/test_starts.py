"""What a start makes of the release that the slots say is committed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from faults.release_life import ROBOT, Releases, RobotLife

from runtime.engines import Engine, EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases.make(tmp_path_factory.mktemp("package") / "policy")


@pytest.fixture
def robot(tmp_path: Path, releases: Releases) -> RobotLife:
    """Release 1 is committed."""
    robot = RobotLife(tmp_path / "robot", releases)
    robot.fetch(1)
    robot.swap()
    assert robot.until_decided(True) == "committed"
    return robot


class _Paused:
    """An engine; one run of its standbys meets a pause of the machine."""

    def __init__(self, engine: Engine, pauses_at: int = 0) -> None:
        self._engine, self._pauses_at, self._runs = engine, pauses_at, 0
        self.inputs, self.outputs, self.close = engine.inputs, engine.outputs, engine.close

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._runs += 1
        if self._runs == self._pauses_at:
            time.sleep(0.2)
        return self._engine.run(inputs)

    def standby(self, weights: Mapping[str, np.ndarray]) -> Engine:
        return _Paused(self._engine.standby(weights), 4)


def started(robot: RobotLife, releases: Releases) -> Swapper:
    """The next start of that robot, with the bounds of a real one."""
    slots = SlotStore(robot.slots.folder, releases.package.package_id)
    engine = _Paused(OnnxRuntimeEngine(releases.package, "head", EngineOptions()))
    return Swapper("policy", slots, releases.package, engine, robot_id=ROBOT)


def test_a_pause_of_the_machine_leaves_no_committed_release_out(
    robot: RobotLife, releases: Releases
) -> None:
    """It acted here and was fast enough: it was left out for the whole run."""
    swapper = started(robot, releases)
    assert swapper.start() == ["policy: starting from release 1"] and swapper.version == 1
    assert swapper.active.was_s > 0.0, "its latency is watched as before"


def test_the_trainer_hears_of_a_committed_release_that_can_not_be_loaded(
    robot: RobotLife, releases: Releases
) -> None:
    """Once a start: its episodes are other weights' than the trainer believes."""
    name, _ = robot.slots.find("committed")
    path = robot.slots.weights_path(name)
    sound = path.read_bytes()
    path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    for _ in range(2):
        again = RobotLife(robot.folder, releases)
        told = [one for one in again.swapper.follow(7) if one.publish_seq == 1]
        assert [one.outcome for one in told] == ["rejected"], told
        assert told[0].reason.startswith("release 1 can't be loaded: ")
        assert again.swapper.version == 0 and again.swapper.follow(8) == []
    path.write_bytes(sound)
    again = RobotLife(robot.folder, releases)
    assert again.swapper.follow(7) == [] and again.swapper.version == 1
