"""A user's own arm, camera, task and reward model, by entry point and YAML (DESIGN section 3).

`tests/example_package` is installed by pip into a folder of its own; then the real `robot-run` and
`robot-trainer` run an episode with all four. Nothing in the repository knows the package's names.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_package import golden_of, make_package

from contracts.files.dataset_reader import DatasetReader
from contracts.files.packages import write_package
from contracts.specs import CameraSpec, ObservationSpec
from runtime.arms.sim import SO101_ACTION

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "tests/example_package"
BIN = Path(sys.executable).parent
EPISODES = 2
PAN_DEG, RAISED_DEG = 15.0, (-70.0, 20.0, 40.0, 0.0, 30.0)


def reaching_policy(folder: Path) -> Path:
    """The tiny package for the bench's arm and cameras: whatever it sees, it goes to one raised pose."""
    package = make_package(folder, length=8)
    manifest = package.manifest
    observation = ObservationSpec(
        (CameraSpec("front", 128, 96, 10.0),),
        manifest.observation.state_names,
        manifest.observation.state_units,
    )
    weights = dict(package.weights)
    weights["head/bias"] = np.array([PAN_DEG, *RAISED_DEG], np.float32)
    weights["head/mix"] = weights["head/mix"] * 0
    golden = golden_of(package, weights)
    manifest = msgspec.structs.replace(manifest, action=SO101_ACTION, observation=observation)
    write_package(folder, manifest, package.graphs, weights, golden)
    return folder


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "timed out"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The package installed, by pip and without a network, where this environment finds it."""
    target = tmp_path_factory.mktemp("site")
    # pip builds in the source folder: from a copy, the repository stays clean.
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--no-index", "--disable-pip-version-check", "--target", str(target), str(source)],
        check=True,
        timeout=120,
    )  # fmt: skip
    assert (target / "workshop_robot-1.0.dist-info/entry_points.txt").exists()
    return {**os.environ, "PYTHONPATH": str(target)}


@pytest.fixture
def trainer(tmp_path: Path, environment: dict[str, str]) -> Iterator[Path]:
    """`robot-trainer serve` with the package's reward model; the folder it works in."""
    folder = tmp_path / "trainer"
    settings = ["reward.model=workshop_reward", "reward.options={reach_deg: 20}", "refiner.kind=''"]
    settings += [
        f"listen.{n}=tcp://127.0.0.1:0" for n in ("frames", "episodes", "weights", "health")
    ]
    command = [str(BIN / "robot-trainer"), "serve", "--run-dir", str(folder)]
    process = subprocess.Popen(
        [*command, *(word for setting in settings for word in ("--set", setting))], env=environment
    )
    until((folder / "endpoints.json").exists, 60.0)
    yield folder
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def robot_run(
    environment: dict[str, str], *words: str | Path, settings: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "robot-run"), *map(str, words), "--config", str(EXAMPLE / "workshop.yaml")]
    command += [word for setting in settings for word in ("--set", setting)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_all_four_in_one_run(tmp_path: Path, environment: dict[str, str], trainer: Path) -> None:
    package = reaching_policy(tmp_path / "policy")
    endpoints = json.loads((trainer / "endpoints.json").read_text())
    links = tuple(f"link.{n}={endpoints[n]}" for n in ("frames", "episodes", "weights", "health"))
    done = robot_run(
        environment, "start", "--package", package, "--episodes", str(EPISODES),
        "--run-dir", tmp_path / "robot",
        settings=(*links, "iteration.wait_for_release=false"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = trainer / "store/scores"
    until(lambda: len(list(scores.glob("*.json"))) == EPISODES, 30.0)
    until((trainer / "store/dataset/workshop-1/meta/info.json").exists, 30.0)
    until(
        lambda: DatasetReader(trainer / "store/dataset/workshop-1").num_episodes == EPISODES, 30.0
    )

    reader = DatasetReader(trainer / "store/dataset/workshop-1")
    extra = reader.meta(0)["extra"]
    # The task.
    assert (extra["start"]["task"], reader.meta(0)["task"]) == ("reach_up", "reach up")
    truth = [json.loads(line) for line in (tmp_path / "robot/truth.jsonl").open()]
    assert [row["task"] for row in truth] == ["reach_up"] * EPISODES
    assert all(row["best_progress"] > 0.3 for row in truth)
    # The arm: geared down, and its pan joint counts backwards.
    assert extra["session"]["action"]["max_velocity"][0] == 60.0
    assert extra["session"]["action"]["low"][4] == -157.0
    columns = reader.episode(0)
    pan = columns["observation.state"][:, 0]
    assert abs(pan[-1] - PAN_DEG) < 3.0
    # The camera: its needle, and the distance that YAML gave it.
    pictures = reader.frames(0, "observation.images.gauge", [0, 9])
    assert pictures.shape == (2, 48, 64, 3)
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 60
    assert (reader.depth(0, "observation.depth.gauge", [0]) == 900).all()
    # The reward model.
    for path in scores.glob("*.json"):
        said = json.loads(path.read_text())
        assert said["model_id"] == "workshop-reach-1"
        assert said["success"] is True
        assert said["signals"][-1]["process"] > said["signals"][0]["process"]


def test_its_own_options_are_checked_by_itself(tmp_path: Path, environment: dict[str, str]) -> None:
    package = reaching_policy(tmp_path / "policy")
    for setting, words in (
        ("arm.options={speed_scale: 3}", "speed_scale"),
        ("arm.options={colour: red}", "arm.options of 'workshop_arm'"),
        ("cameras.gauge.options={lens: 3}", "cameras.gauge.options"),
    ):
        done = robot_run(
            environment, "eval", "--package", package, "--episodes", "1",
            "--run-dir", tmp_path / "run", settings=(setting,),
        )  # fmt: skip
        assert done.returncode != 0
        assert words in done.stderr, done.stderr


def test_without_the_package_its_names_are_unknown(tmp_path: Path) -> None:
    package = reaching_policy(tmp_path / "policy")
    done = robot_run(dict(os.environ), "eval", "--package", package, "--run-dir", tmp_path / "run")
    assert done.returncode == 2
    assert "no arm named 'workshop_arm'" in done.stderr
