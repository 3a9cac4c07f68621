"""A tiny checkpoint, and built data whose labels are in the pictures: the more orange, the more is done."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlm import build_vlm

from contracts.files import video
from contracts.images import encode_jpeg
from trainer.rewards.tuning.settings import Lora, Tuning, checked
from trainer.rewards.vlm.factory import Options

SMALL = (64, 48)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vlm(tmp_path_factory.mktemp("tuning") / "qwen3")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_data(tmp_path_factory.mktemp("tuning_data") / "rewards")


@pytest.fixture
def settings(tiny: Path, data: Path, tmp_path: Path) -> Callable[..., Tuning]:
    """A short run in a fresh folder, with changes."""

    def made(signals: tuple[str, ...] = ("roboreward",), **changes: Any) -> Tuning:
        asked = Options(model=str(tiny), signals=signals, device="cpu", least_mass=0.0)  # type: ignore[arg-type]
        plain: dict[str, Any] = {
            "vlm": asked, "data": str(data), "output": str(tmp_path / "out"),
            "lora": Lora(rank=8, alpha=32), "learning_rate": 0.01, "warmup": 0.1, "steps": 12,
            "batch": 2, "accumulate": 2, "precision": "float32", "every": 4, "loaders": 1,
            "gradient_checkpointing": False, "tensorboard": "off",
        }  # fmt: skip
        return checked(Tuning(**{**plain, **changes}))

    return made


def picture(done: float) -> np.ndarray:
    wide, high = SMALL
    image = np.full((high, wide, 3), 60, np.uint8)
    image[:, : round(wide * done)] = (250, 120, 0)
    return image


def build_data(root: Path, recordings: int = 5) -> Path:
    """RoboReward's format and LRM's tables, `recordings` source videos in train and two in val."""
    for split, first, count in (("train", 0, recordings), ("val", 100, 2)):
        lrm = root / "lrm" / split
        (lrm / "frames").mkdir(parents=True)
        rows: list[Any] = []
        tables: dict[str, list[Any]] = {"progress": [], "completion": [], "pairs": []}
        for recording in range(first, first + count):
            base = {"task": "put the cup on the tray", "group": f"r{recording}"}
            for score in range(1, 6):
                name = f"{recording}-{score}.mp4"
                _encode(root / split / name, score)
                rows.append({**base, "file_name": name, "reward": score})
            _key_frames(lrm, base, recording, tables)
        _table(root / split / "metadata.jsonl", rows)
        for name, found in tables.items():
            _table(lrm / f"{name}.jsonl", found)
    (root / "card.json").write_text("{}")
    return root


def _key_frames(
    lrm: Path, base: dict[str, str], recording: int, tables: dict[str, list[Any]]
) -> None:
    names = [f"frames/{recording}-{k}.jpg" for k in range(3)]
    for k, name in enumerate(names):
        (lrm / name).write_bytes(encode_jpeg(picture(k / 2), 92))
        level = {"initial": names[0], "current": name, "progress": k / 2}
        tables["progress"].append({**base, **level})
        tables["completion"].append({**base, "frame": name, "complete": k == 2})
    for a, b in ((0, 2), (2, 0), (0, 1), (1, 0)):
        pair = {"first": names[a], "second": names[b], "second_is_closer": b > a}
        tables["pairs"].append({**base, **pair})


def _encode(path: Path, score: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [picture(k / 4 * (score - 1) / 4) for k in range(5)]
    video.encode(
        path, frames, fps=2, shape=frames[0].shape, length=5, what=path.name, look=lambda f: None
    )


def _table(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps the first run's precision for the life of a process; a command runs once in one."""
    from accelerate.state import AcceleratorState

    yield
    AcceleratorState._reset_state(True)
