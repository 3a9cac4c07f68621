"""Small deterministic episodes for the data set's tests: content is a function of the seed."""

from __future__ import annotations

import numpy as np

from contracts.files.dataset_format import Feature

CAMERAS = ("front", "wrist")
HEIGHT, WIDTH = 32, 48
FPS = 15

FEATURES = {
    "observation.state": Feature("float32", (3,), ("pan.pos", "lift.pos", "gripper.pos")),
    "action": Feature("float32", (3,), ("pan.pos", "lift.pos", "gripper.pos")),
    "requested_chunk": Feature("float32", (4, 3)),
    "latent": Feature("float64", (2,)),
    "chunk": Feature("int64", (1,)),
    "next.done": Feature("bool", (1,)),
    "observation.images.front": Feature("video", (HEIGHT, WIDTH, 3)),
    "observation.images.wrist": Feature("video", (HEIGHT, WIDTH, 3)),
    "observation.depth.front": Feature("depth16", (HEIGHT, WIDTH)),
}


def columns(seed: int, length: int) -> dict[str, np.ndarray]:
    """Given columns and a few of Entracte's own, with NaN where a reward abstained."""
    rng = np.random.default_rng(seed)
    process = rng.random(length).astype(np.float32)
    process[::3] = np.nan
    return {
        "observation.state": rng.normal(size=(length, 3)).astype(np.float32),
        "action": rng.normal(size=(length, 3)).astype(np.float32),
        "requested_chunk": rng.normal(size=(length, 4, 3)).astype(np.float32),
        "latent": rng.normal(size=(length, 2)),
        "chunk": np.arange(length) // 4,
        "next.done": np.arange(length) == length - 1,
        "time.capture.front": 123456.789 + np.arange(length) / FPS + rng.normal(size=length) * 1e-3,
        "policy_version": np.full(length, seed),
        "reward.process": process,
        "gate.verdict": rng.integers(0, 8, length),
        "intervention": rng.random(length) > 0.5,
    }


def pictures(seed: int, length: int) -> list[np.ndarray]:
    """A gradient with a square that moves by a pixel a frame, so that frames can be told apart."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    base = np.stack([x * 4, y * 6, (x + y + 20 * seed) % 200], axis=2).astype(np.uint8)
    frames = []
    for step in range(length):
        frame = base.copy()
        frame[8:16, step % (WIDTH - 8) : step % (WIDTH - 8) + 8] = (250, 20, 20)
        frames.append(frame)
    return frames


def depths(seed: int, length: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1000 + seed)
    return [rng.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16) for _ in range(length)]


def episode(seed: int, length: int = 9) -> dict[str, object]:
    """Arguments of `DatasetWriter.add_episode`."""
    return {
        "columns": columns(seed, length),
        "frames": {f"observation.images.{camera}": pictures(seed, length) for camera in CAMERAS},
        "depth": {"observation.depth.front": depths(seed, length)},
        "task": f"open drawer {seed % 2}",
        "extra": {"seed": seed, "reason": "time_limit"},
    }
