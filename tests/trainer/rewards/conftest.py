"""A few real clips and one tiny trained model, made once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from runtime.bench import clips as recorder
from trainer.rewards.data import Clip, load_clips
from trainer.rewards.train_edge import (
    Edge,
    TrainSettings,
    embed_clip,
    fit_ground,
    keep_examples,
    train,
)

TASKS = ("put_on", "open_drawer", "put_in", "open_tray")
SETTINGS = TrainSettings(steps=30, clips_per_batch=4, frames=3, goals=2, bfloat16=False)


def record(folder: Path, split: str, count: int) -> Path:
    """`count` clips of each task, arranged and played in turn."""
    folder.mkdir(parents=True)
    work = [(task, 10 + k, k % 2 == 0) for task in TASKS for k in range(count)]
    recorder.record(folder, 0, work, split, ("expert", "clumsy"))
    meta = {"format": 1, "split": split, "width": 128, "height": 96, "command": "test", "fx": 93.0}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads beyond one only wait for one another on models this small."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("clips") / "train", "train", 4)


@pytest.fixture(scope="session")
def clips(clip_folder: Path) -> list[Clip]:
    return load_clips([clip_folder])


@pytest.fixture(scope="session")
def edge(clips: list[Clip]) -> Edge:
    made = train(clips, SETTINGS)
    fit_ground(made, torch.cat([embed_clip(made.trunk, clip) for clip in clips]))
    keep_examples(made, clips[1])
    return made
