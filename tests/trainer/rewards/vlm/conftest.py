"""Tiny checkpoints of the real classes, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_vlm import ANYTHING, build_adapter, build_vlm

from trainer.rewards.vlm.factory import make, read_options
from trainer.rewards.vlm.model import VlmReward

LRM = ("progress", "completion", "contrastive")


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vlm(tmp_path_factory.mktemp("vlm") / "qwen3")


@pytest.fixture(scope="session")
def qwen25(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vlm(tmp_path_factory.mktemp("vlm") / "qwen25", "qwen2_5_vl")


@pytest.fixture(scope="session", params=["qwen3", "qwen25"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Both families."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def adapters(qwen3: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One for each of the three signals; that of completion changes the vision tower too."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: str(build_adapter(qwen3, folder / name, seed, vision=name == "completion"))
        for seed, name in enumerate(LRM)
    }


@pytest.fixture(scope="session")
def judge() -> Callable[..., VlmReward]:
    """A model of a checkpoint and options."""

    def made(folder: Path, **options: Any) -> VlmReward:
        return make(read_options({"model": str(folder), **ANYTHING, **options}))

    return made
