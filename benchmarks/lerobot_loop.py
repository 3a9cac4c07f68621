"""LeRobot's own control loop on our rig: its `record_loop`, its SO-101 driver, its data set, our policy.

Run by LeRobot's Python (0.4.4): `python lerobot_loop.py SETTINGS.json`, with JSON lines on stdin and stdout:
`{"seconds": 20, "frames": {...}}` runs a block and answers with the times of its ticks. The cameras are the
capture processes that our loop has too, the policy is the same package in ONNX Runtime, asked when its last
chunk is executed, as LeRobot's policies are. Everything between two ticks is LeRobot's code.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SETTINGS = json.loads(Path(sys.argv[1]).read_text())
# Behind LeRobot's own packages: what it has itself is its own.
sys.path += SETTINGS["paths"]

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from lerobot.cameras import Camera, CameraConfig  # noqa: E402
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402
from lerobot.datasets.pipeline_features import (  # noqa: E402
    aggregate_pipeline_dataset_features,
    create_initial_features,
)
from lerobot.datasets.utils import combine_feature_dicts  # noqa: E402
from lerobot.processor import make_default_processors  # noqa: E402
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig  # noqa: E402
from lerobot.scripts.lerobot_record import record_loop  # noqa: E402

from contracts.files.packages import load_package  # noqa: E402
from contracts.language import encode  # noqa: E402
from contracts.package import no_prefix  # noqa: E402
from runtime.engines import EngineOptions, open_engine  # noqa: E402
from runtime.frames import FrameSlots  # noqa: E402

CONNECT_TRIES = 10


class SlotCamera(Camera):  # type: ignore[misc]
    """A LeRobot camera that looks into the slots of a capture process."""

    def __init__(self, path: str, fps: int) -> None:
        self._slots = FrameSlots.open(Path(path))
        height, width = self._slots.height, self._slots.width
        self.config = CameraConfig(fps=fps, width=width, height=height)
        super().__init__(self.config)

    @property
    def is_connected(self) -> bool:
        return True

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        return []

    def connect(self, warmup: bool = True) -> None:
        pass

    def read(self) -> np.ndarray:
        frame = self._slots.newest(time.monotonic())
        assert frame is not None
        return frame.rgb

    def async_read(self, timeout_ms: float = 0.0) -> np.ndarray:
        return self.read()

    def read_latest(self, max_age_ms: int = 0) -> np.ndarray:
        return self.read()

    def disconnect(self) -> None:
        pass


class PackagePolicy:
    """`select_action` as LeRobot's policies have it: a queue, filled by an inference when it is empty."""

    def __init__(self, folder: str, joints: list[str], execute: int) -> None:
        package = load_package(Path(folder))
        self.config = SimpleNamespace(device="cpu", use_amp=False)
        assert package.manifest.chunk is not None
        self._manifest, self._joints, self._execute = package.manifest, joints, execute
        self._length = package.manifest.chunk.length
        options = EngineOptions()
        self._trunk = open_engine(package, "trunk", options)
        self._head = open_engine(package, "head", options)
        manifest = self._manifest
        length = manifest.instruction_length
        self._tokens = encode(SETTINGS["instruction"], manifest.vocabulary, length)[None]
        self._rng = np.random.default_rng(0)
        self._queue: list[np.ndarray] = []

    def reset(self) -> None:
        self._queue = []

    def select_action(self, observation: dict[str, Any]) -> torch.Tensor:
        if not self._queue:
            self._queue = self._infer(observation)
        return torch.from_numpy(self._queue.pop(0))[None]

    def _infer(self, observation: dict[str, Any]) -> list[np.ndarray]:
        manifest = self._manifest
        size = (manifest.image_height, manifest.image_width)
        inputs: dict[str, np.ndarray] = {"tokens": self._tokens}
        for name in manifest.cameras:
            picture = observation[f"observation.images.{name}"]
            small = torch.nn.functional.interpolate(picture, size, mode="area")
            pixels = (small[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
            inputs[f"images.{name}"] = np.ascontiguousarray(pixels)[None]
        inputs["state"] = observation["observation.state"].numpy().astype(np.float32)
        features = self._trunk.run(inputs)["features"]
        shape = (1, self._length, len(self._joints))
        head = {"features": features, "noise": self._rng.standard_normal(shape).astype(np.float32)}
        chunk = self._head.run({**head, **no_prefix(self._head.inputs)})["chunks"][0]
        return [np.array(action) for action in chunk[: self._execute]]


def processors() -> tuple[Any, Any, Any]:
    made: tuple[Any, Any, Any] = make_default_processors()
    return made


def features_of(robot: SO101Follower) -> dict[str, Any]:
    teleop, _, observed = processors()
    seen = robot.observation_features
    return combine_feature_dicts(  # type: ignore[no-any-return]
        aggregate_pipeline_dataset_features(
            teleop, create_initial_features(action=robot.action_features), use_videos=True
        ),
        aggregate_pipeline_dataset_features(
            observed, create_initial_features(observation=seen), use_videos=True
        ),
    )


def connect(robot: SO101Follower) -> None:
    """LeRobot gives up at the first reply that is late, which a busy machine's pseudo-terminal has."""
    for attempt in range(CONNECT_TRIES):
        try:
            robot.connect(calibrate=False)
            return
        except (ConnectionError, RuntimeError):
            if robot.bus.is_connected:
                robot.bus.port_handler.closePort()
            if attempt == CONNECT_TRIES - 1:
                raise


def leave(robot: SO101Follower) -> None:
    """Torque off where the bus lets it."""
    try:
        robot.disconnect()
    except ConnectionError:
        robot.bus.port_handler.closePort()


def block(robot: SO101Follower, policy: PackagePolicy, asked: dict[str, Any]) -> dict[str, Any]:
    """One run of `record_loop`; the clock is read where LeRobot begins a tick, at `get_observation`."""
    fps, folder = int(SETTINGS["rate_hz"]), Path(SETTINGS["folder"]) / "dataset"
    shutil.rmtree(folder, ignore_errors=True)
    robot.cameras = {name: SlotCamera(path, fps) for name, path in asked["frames"].items()}
    robot.config.cameras = {n: camera.config for n, camera in robot.cameras.items()}
    dataset = LeRobotDataset.create(
        "local/rig", fps, features_of(robot), root=folder, robot_type=robot.name,
        use_videos=True, vcodec="h264", streaming_encoding=True, encoder_threads=1,
    )  # fmt: skip
    starts_s: list[float] = []
    observe = robot.get_observation

    def observed() -> Any:
        starts_s.append(time.monotonic())
        return observe()

    robot.get_observation = observed
    teleop, action, observation = processors()
    unchanged = type("Unchanged", (), {"__call__": lambda self, x: x, "reset": lambda self: None})()
    connect(robot)
    stopped = ""
    try:
        record_loop(
            robot, {"exit_early": False}, fps, teleop, action, observation, dataset=dataset,
            policy=policy, preprocessor=unchanged, postprocessor=unchanged,
            control_time_s=asked["seconds"], single_task=SETTINGS["instruction"],
        )  # fmt: skip
    except ConnectionError as error:  # a lost reply of a servo ends its loop
        stopped = str(error)
    finally:
        del robot.get_observation
        leave(robot)
    frames = dataset.episode_buffer["size"]
    dataset.save_episode()
    dataset.finalize()
    shutil.rmtree(folder, ignore_errors=True)
    return {"starts_s": starts_s, "recorded": frames, "stopped": stopped}


def main() -> None:
    logging.disable(logging.WARNING)  # one line for each slow tick would be a load of its own
    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr  # LeRobot prints
    calibration = Path(SETTINGS["calibration"])
    config = SO101FollowerConfig(
        port=SETTINGS["port"], id=calibration.stem, calibration_dir=calibration.parent
    )
    robot = SO101Follower(config)
    joints = [f"{name}.pos" for name in robot.bus.motors]
    policy = PackagePolicy(SETTINGS["package"], joints, SETTINGS["execute"])
    for line in sys.stdin:
        answers.write(json.dumps(block(robot, policy, json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    assert onnxruntime is not None
    main()
