"""Tiny recordings in several layouts, made once, and recipes that mix them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.trainer.reward_data.layouts import TASKS, rlds_episode, tfrecord, write_mp4


@pytest.fixture(scope="session")
def rlds_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 finished episodes in one TFRecord file."""
    folder = tmp_path_factory.mktemp("rlds")
    records = [rlds_episode(TASKS[n % 3], n) for n in range(12)]
    (folder / "toy-train.tfrecord-00000-of-00001").write_bytes(tfrecord(records))
    return folder


@pytest.fixture(scope="session")
def human_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 captioned files, one beside them without a caption."""
    folder = tmp_path_factory.mktemp("human")
    for n in range(8):
        write_mp4(folder / "day" / f"{n}.mp4", 14, seed=n)
        (folder / "day" / f"{n}.txt").write_text(TASKS[n % 3])
    write_mp4(folder / "silent.mp4")
    return folder


@pytest.fixture(scope="session")
def arena_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 sessions of two policies each."""
    root = tmp_path_factory.mktemp("arena")
    for session in range(4):
        folder = root / "evaluation_sessions" / f"s{session}"
        policies = {}
        for letter, progress in (("A", 0.1 + 0.2 * session), ("B", 1.0)):
            name = f"pi_{letter.lower()}"
            write_mp4(folder / f"{letter}_{name}" / f"{name}_video_left.mp4", 10, seed=session)
            write_mp4(folder / f"{letter}_{name}" / f"{name}_video_wrist.mp4", 4)
            policies[letter] = {
                "policy_name": name,
                "binary_success": int(progress == 1.0),
                "partial_success": progress,
            }
        meta = {"language_instruction": TASKS[session % 3], "policies": policies}
        (folder / "metadata.yaml").write_text(yaml.safe_dump(meta))
    return root


@pytest.fixture
def recipe_file(
    tmp_path: Path, rlds_folder: Path, human_folder: Path, arena_folder: Path
) -> Callable[..., Path]:
    def write(**changes: object) -> Path:
        tree = {
            "seed": 3,
            "split": {"train": 0.5, "val": 0.25, "test": 0.25},
            "derive": {"near_misses": 1, "rewinds": 1, "pauses": 1, "speeds": 1},
            "sources": [
                {"kind": "rlds", "name": "rlds", "path": str(rlds_folder), "licence": "CC BY 4.0"},
                {"kind": "human", "name": "human", "path": str(human_folder)},
                {"kind": "roboarena", "name": "arena", "path": str(arena_folder), "weight": 0.5},
            ],
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps(tree))
        return path

    return write


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 played clips of the simulated bench, recorded now."""
    from runtime.bench import clips

    folder = tmp_path_factory.mktemp("bench")
    work = [("put_on", 5 + n, False) for n in range(2)] + [("open_drawer", 9, False)]
    clips.record(folder, 0, work, "train", ("expert", "clumsy"))
    meta = {"format": 1, "split": "train", "width": 128, "height": 96, "command": "test"}
    (folder / "meta.json").write_text(json.dumps({**meta, "fx": 93.0}))
    return folder
