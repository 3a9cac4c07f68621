"""Checkpoints in LeRobot's own format, their weights drawn again by name; and what LeRobot was asked.

Names, sizes and noise are those of `lerobot_policies.py`, which runs in LeRobot's environment.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import drawn
import numpy as np
import safetensors.numpy

from export.lerobot.checkpoint import Checkpoint
from export.lerobot.robot import RobotOptions

FIXTURES = Path(__file__).with_name("fixtures") / "lerobot"
HEIGHT, WIDTH, JOINTS, SPREAD = 96, 128, 6, 60.0
STATE = "observation.state"
SO101 = RobotOptions(robot_type="so101", units="deg", rate_hz=10.0)


def make_checkpoint(name: str, folder: Path) -> Path:
    """The committed checkpoint with its weights."""
    shutil.copytree(FIXTURES / name, folder)
    shapes = json.loads((folder / "names.json").read_text())
    weights = {key: drawn.weight(key, tuple(shape)) for key, shape in shapes.items() if shape}
    # Counters of batch norms, which LeRobot saves too.
    weights |= {key: np.zeros((), np.int64) for key, shape in shapes.items() if not shape}
    kept = safetensors.numpy.load_file(folder / "kept.safetensors")
    safetensors.numpy.save_file({**weights, **kept}, folder / "model.safetensors")
    return folder


def answers(folder: Path) -> dict[str, np.ndarray]:
    """What LeRobot answered: "actions" [2 * executed, joints] and "chunk" [length, joints]."""
    with np.load(folder / "answers.npz", allow_pickle=False) as held:
        return dict(held)


def observation(checkpoint: Checkpoint, step: int) -> dict[str, np.ndarray]:
    """What LeRobot saw at that step, by its names."""
    pictures = {n: drawn.picture(n, step, HEIGHT, WIDTH) for n in checkpoint.config.images}
    return {**pictures, STATE: drawn.state(STATE, step, JOINTS, SPREAD)}


def noise(shape: tuple[int, ...], chunk: int) -> np.ndarray:
    """The noise LeRobot was given for that chunk, in the shape of our head's input."""
    draws = shape[1] if len(shape) == 4 else 1
    drawn_ = [drawn.uniform(f"noise/{chunk}/{index}", shape[-2:]) for index in range(draws)]
    return (3**0.5 * np.stack(drawn_).reshape(shape)).astype(np.float32)
