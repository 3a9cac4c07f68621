"""A flow policy of a few thousand weights with random but spread-out weights, and observations for it."""

from __future__ import annotations

import numpy as np
import torch
from tiny_package import ACTION, UNITS

from contracts.specs import SO101_JOINTS, CameraSpec, ObservationSpec
from trainer.policies.flow import FlowConfig, FlowPolicy

CAMERAS = ("front", "wrist")
HEIGHT, WIDTH = 24, 32
OBSERVATION = ObservationSpec(
    tuple(CameraSpec(name, WIDTH, HEIGHT, 10.0) for name in CAMERAS), SO101_JOINTS, UNITS
)


def make_config(**changes: object) -> FlowConfig:
    fields: dict[str, object] = {
        "observation": OBSERVATION,
        "action": ACTION,
        "cameras": CAMERAS,
        "image_height": HEIGHT,
        "image_width": WIDTH,
        "vocabulary": ("drawer", "open", "the"),
        "relative": (True,) * 5 + (False,),
        "instruction_length": 6,
        "chunk_length": 4,
        "features": 48,
        "hidden": 16,
        "blocks": 1,
        "flow_steps": 3,
        "critics": 3,
        "critic_hidden": 8,
    }
    return FlowConfig(**{**fields, **changes})  # type: ignore[arg-type]


def make_policy(seed: int = 0, **changes: object) -> FlowPolicy:
    torch.manual_seed(seed)
    policy = FlowPolicy(make_config(**changes))
    rng = np.random.default_rng(seed)
    states = rng.normal(scale=20, size=(64, 6)).astype(np.float32)
    length = policy.config.chunk_length
    chunks = states[:, None] + rng.normal(scale=5, size=(64, length, 6)).astype(np.float32)
    policy.set_statistics(states, chunks)
    return policy.eval()


def make_examples(count: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    """Trunk inputs by name, stacked."""
    rng = np.random.default_rng(seed)
    images = {
        f"images.{name}": rng.integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
        for name in CAMERAS
    }
    state = rng.normal(scale=20, size=(count, 6)).astype(np.float32)
    return {**images, "state": state, "tokens": rng.integers(0, 5, (count, 6))}
