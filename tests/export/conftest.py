"""One thread: with every core busy, torch's threads wait for each other far longer than they compute."""

import shutil
from pathlib import Path

import cv2
import pytest
import torch

from contracts.files.packages import load_package
from runtime.demo import demonstrations

ROOT = Path(__file__).resolve().parents[2]

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def recorded_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that the bench's front camera took: those of the shipped reward model's golden
    vectors."""
    folder = tmp_path_factory.mktemp("recorded")
    cases = load_package(ROOT / "pretrained/reward-zero-shot").golden["trunk"]
    for row, case in enumerate(cases):
        picture = case.inputs["images.front"][0]
        cv2.imwrite(str(folder / f"{row:03d}.png"), picture[..., ::-1])
    return folder


@pytest.fixture(scope="session")
def recorded_episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstrations of the shipped policy, recorded on the bench: they are not in the repository."""
    pytest.importorskip("mujoco", reason="episodes are recorded on the bench (extra: sim)")
    folder = tmp_path_factory.mktemp("pretrained")
    shutil.copy(ROOT / "pretrained" / demonstrations.LIST_FILE, folder)
    return demonstrations.ensure(folder, "open_drawer", folder / "run")
