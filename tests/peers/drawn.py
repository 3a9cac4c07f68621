"""Weights, statistics and observations drawn from their names alone: the same in any environment with numpy.

Knows neither torch nor LeRobot; both sides of a comparison import it, so that no weights are committed.
"""

from __future__ import annotations

import hashlib

import numpy as np

KEPT = ("pos_grid", "vae_encoder_pos_enc")
"""Ends of the names of fixed tensors: they are computed, never drawn."""


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 in [-1, 1)."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    drawn = np.random.Generator(np.random.PCG64(seed)).random(shape, np.float32)
    return np.asarray(drawn * 2 - 1, np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a policy: spread as a trained one's might be, so that no layer is silent or explodes."""
    values = uniform(name, shape)
    if name.endswith("running_var"):
        return 1.0 + 0.5 * values
    if len(shape) == 1:
        return (1.0 if name.endswith("weight") else 0.0) + 0.2 * values
    if "pos_embed" in name:
        return values * np.float32(np.sqrt(3.0))
    return values * np.float32(np.sqrt(3.0 / np.prod(shape[1:])))


def statistics(feature: str, size: int, spread: float) -> dict[str, np.ndarray]:
    """What a data set would say of a vector feature; the last of its entries is a gripper, 0 to 100."""
    mean = spread * np.float32(0.4) * uniform(f"{feature}.mean", (size,))
    std = spread * (np.float32(0.3) + np.float32(0.1) * uniform(f"{feature}.std", (size,)))
    mean[-1], std[-1] = 50.0, 20.0
    found = {"mean": mean, "std": std, "count": np.array([1000.0], np.float32)}
    for name, width in (("min", -2.2), ("max", 2.0), ("q01", -1.9), ("q99", 1.8)):
        found[name] = (mean + np.float32(width) * std).astype(np.float32)
    return found


def picture_statistics(feature: str) -> dict[str, np.ndarray]:
    """Of a camera, shaped (3, 1, 1) as LeRobot has them."""
    shape = (3, 1, 1)
    return {
        "mean": (0.5 + 0.1 * uniform(f"{feature}.mean", shape)).astype(np.float32),
        "std": (0.25 + 0.05 * uniform(f"{feature}.std", shape)).astype(np.float32),
        "min": np.zeros(shape, np.float32),
        "max": np.ones(shape, np.float32),
    }


def picture(feature: str, step: int, height: int, width: int) -> np.ndarray:
    """uint8[H, W, 3]: coarse squares under fine noise."""
    coarse = uniform(f"{feature}/{step}", (-(-height // 8), -(-width // 8), 3))
    square = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[:height, :width]
    fine = uniform(f"{feature}/{step}/fine", (height, width, 3))
    return np.clip(127.5 + 100 * square + 27 * fine, 0, 255).astype(np.uint8)


def state(feature: str, step: int, size: int, spread: float) -> np.ndarray:
    """float32[size] inside the range of `statistics`."""
    of = statistics(feature, size, spread)
    moved = of["mean"] + of["std"] * uniform(f"{feature}/{step}", (size,))
    return moved.astype(np.float32)
