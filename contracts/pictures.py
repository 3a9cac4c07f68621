"""A camera's picture as a large model was trained to see it: scaled and cropped by numpy alone.

Models of the CLIP, SigLIP and Qwen-VL families were trained on pictures that Pillow had scaled, and their
answers move when another library scales them. Pure.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from contracts.errors import EntracteError

Filter = Literal["bicubic", "lanczos", "bilinear"]
_BITS = 22
"""Fraction bits of Pillow's integer weights for 8-bit pictures."""


class PictureRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a picture of any size becomes: `width` x `height`. `crop`: its shorter side is scaled to the
    larger of the two and the middle is cut out (CLIP); else both sides are scaled, whatever its shape."""

    width: int
    height: int
    filter: Filter = "bicubic"
    crop: bool = False


def prepare(image: np.ndarray, rule: PictureRule) -> np.ndarray:
    """uint8[rule.height, rule.width, 3] of uint8[H, W, 3]. Raises `EntracteError` for anything else."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise EntracteError(
            "a picture", expected="uint8[H, W, 3]", found=f"{image.dtype}{list(image.shape)}"
        )
    if not rule.crop:
        return scaled(image, (rule.width, rule.height), rule.filter)
    high, wide = image.shape[:2]
    side, short = max(rule.width, rule.height), min(wide, high)
    size = (side * wide // short, side * high // short)
    whole = scaled(image, size, rule.filter)
    top, left = (size[1] - rule.height) // 2, (size[0] - rule.width) // 2
    return np.ascontiguousarray(whole[top : top + rule.height, left : left + rule.width])


def scaled(image: np.ndarray, size: tuple[int, int], filter: Filter = "bicubic") -> np.ndarray:
    """uint8[height, width, 3] of uint8[H, W, 3], `size` (width, height); equal to Pillow's `resize` to the
    last bit (its resampling: a filter as wide as what one pixel covers, 8 bits between the two passes; since
    Pillow 13 columns go first where a picture gets lower and wider, python-pillow/Pillow pull 9549)."""
    wide, high = size
    columns_first = high < image.shape[0] and wide > image.shape[1]
    for axis in (0, 1) if columns_first else (1, 0):
        if image.shape[axis] != (high, wide)[axis]:
            image = _along(image, axis, (high, wide)[axis], filter)
    return np.ascontiguousarray(image)


def _along(image: np.ndarray, axis: int, length: int, filter: Filter) -> np.ndarray:
    if axis == 0:
        return _along(image.swapaxes(0, 1), 1, length, filter).swapaxes(0, 1)
    places, weights = _taps(image.shape[1], length, filter)
    total = np.full((image.shape[0], length, image.shape[2]), 1 << (_BITS - 1), np.int32)
    for place, weight in zip(places, weights, strict=True):
        total += image[:, place].astype(np.int32) * weight[:, None]
    return np.clip(total >> _BITS, 0, 255).astype(np.uint8)


@lru_cache(64)
def _taps(length: int, wanted: int, filter: Filter) -> tuple[np.ndarray, np.ndarray]:
    """int64[K, wanted] source places and int32[K, wanted] weights of each target pixel."""
    scale = length / wanted
    stretch = max(1.0, scale)
    reach = _REACH[filter] * stretch
    centres = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    behind = np.minimum((centres + reach + 0.5).astype(np.int64), length)
    places = first + np.arange(int((behind - first).max()))[:, None]
    distances = (places - centres + 0.5) / stretch
    weights = np.vectorize(_SHAPE[filter], otypes=[np.float64])(distances)
    weights[places >= behind] = 0.0
    weights /= weights.sum(axis=0)
    whole = np.trunc(weights * (1 << _BITS) + np.copysign(0.5, weights)).astype(np.int32)
    return np.minimum(places, length - 1), whole


def _bicubic(x: float) -> float:
    """Keys' cubic convolution (1981) with a = -1/2."""
    a, x = -0.5, abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    """Lanczos' window of three lobes on a sinc."""
    if x == 0.0:
        return 1.0
    if not -3.0 <= x < 3.0:
        return 0.0
    whole, slow = math.pi * x, math.pi * x / 3.0
    return math.sin(whole) / whole * math.sin(slow) / slow


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


_SHAPE = {"bicubic": _bicubic, "lanczos": _lanczos, "bilinear": _bilinear}
_REACH = {"bicubic": 2.0, "lanczos": 3.0, "bilinear": 1.0}
