"""LeRobot checkpoints and their packages, made once for all tests of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Made = Callable[[str], Path]


@pytest.fixture(scope="session")
def checkpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Name of a fixture -> folder of the checkpoint with its weights."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            from lerobot_checkpoints import make_checkpoint

            made[name] = make_checkpoint(name, tmp_path_factory.mktemp("lerobot") / name)
        return made[name]

    return make


@pytest.fixture(scope="session")
def package_folder(checkpoint_folder: Made) -> Made:
    """Name of a fixture -> folder of its package."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            from lerobot_checkpoints import SO101

            from export.lerobot.package import export_checkpoint

            source = checkpoint_folder(name)
            made[name] = export_checkpoint(source, source.with_name("package"), SO101).folder
        return made[name]

    return make
