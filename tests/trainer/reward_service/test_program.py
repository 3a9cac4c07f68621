"""`robot-reward serve` as a process: the shipped edge model through the trainer's own factory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contracts.errors import ConfigError
from contracts.frames import Video
from trainer.reward_service.client import connect, health, remote
from trainer.reward_service.program import load_config, load_model
from trainer.rewards.edge import EdgeReward

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "pretrained" / "reward-zero-shot"
COMMAND = [sys.executable, "-m", "trainer.reward_app", "serve"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    arguments = [
        *("--package", str(PACKAGE), "--set", "address=tcp://127.0.0.1:0", "--json"),
        *("--set", "models.clockwork.reward=edge", "--set", f"models.clockwork.package={PACKAGE}"),
        *("--set", "models.clockwork.options.completion_threshold=0.9"),
        *("--set", "selftest_instruction=open the drawer"),
    ]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    said = json.loads(process.stdout.readline())
    assert said["models"] == {"edge": "passed", "clockwork": "passed"}
    yield said["address"]
    process.terminate()
    assert process.wait(10) == 0


def clip(edge: EdgeReward, frames: int = 6) -> Video:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (frames, 96, 128, 3), np.uint8)
    views = {camera: pixels for camera in edge.contract.cameras}
    return Video(views, np.arange(frames) / 3.0, np.arange(frames) * 10)


def test_the_trainers_remote_model_says_what_the_local_one_says(address: str) -> None:
    edge = EdgeReward(package=PACKAGE)
    made = remote(options={"address": address, "model": "edge", "scores_per_s": 2})
    assert (made.model_id, made.completion_threshold) == (
        edge.model_id,
        edge.completion_threshold,
    )
    assert made.model.contract == edge.contract
    for text in ("open the drawer", "juggle the flux capacitor"):
        here, there = edge.score(clip(edge), text), made.model.score(clip(edge), text)
        for name in ("step", "abstained", "model_id"):
            assert getattr(here, name) == getattr(there, name), name
        for name in ("process", "completion", "contrastive", "uncertainty"):
            assert np.isclose(getattr(here, name), getattr(there, name), equal_nan=True), name
    other = connect(address, "clockwork")
    assert (other.completion_threshold, other.model_id == made.model_id) == (0.9, False)


def test_a_running_server_tells_how_it_is(address: str) -> None:
    command = [*COMMAND, "--check", address]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert "edge: self-test passed" in done.stdout and "2 asked" not in done.stderr
    assert {state.name for state in health(address).models} == {"edge", "clockwork"}
    away = subprocess.run(
        [*COMMAND, "--check", "tcp://127.0.0.1:1"], capture_output=True, text=True, check=False
    )
    assert away.returncode == 2 and "start it with" in away.stderr


def test_settings_that_cannot_work_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no reward model to serve"):
        load_config(None)
    with pytest.raises(ConfigError, match="wait_ms"):
        load_config(None, PACKAGE, ["limits.wait_ms=-1"])
    file = tmp_path / "reward.yaml"
    file.write_text("models:\n  truth: {reward: success, packages: x}\n")
    with pytest.raises(ConfigError, match="did you mean 'package'"):
        load_config(file)
    file.write_text("models:\n  truth: {reward: success}\n")
    with pytest.raises(ConfigError, match="judges whole episodes"):
        load_model(load_config(file).models["truth"])
    for options in ({}, {"address": "tcp://127.0.0.1:1", "adress": 1}):
        with pytest.raises(ConfigError, match="option address"):
            remote(options=options)
    assert msgspec.structs.asdict(load_config(None, PACKAGE).limits)["batch"] == 16
