"""The pixel grid of the Qwen-VL family: scale, normalise, cut into patches. Owns no model and no tokens.

transformers' video processor of Qwen3-VL needs torchvision; this needs Pillow alone and gives the same grid.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import EntracteError, MissingDependency, PackageError


@dataclass(frozen=True)
class PixelRule:
    """A checkpoint's preprocessor settings. Sides in pixels; (least, most) pixels of a picture and of a
    video: over all its frames where `video_is_whole` (Qwen3-VL), else of each (Qwen2.5-VL)."""

    patch: int
    merge: int
    temporal: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    picture_pixels: tuple[int, int]
    video_pixels: tuple[int, int]
    video_is_whole: bool = True

    @property
    def multiple(self) -> int:
        """Sides are multiples of this: one token of the language model."""
        return self.patch * self.merge

    def size(self, width: int, height: int, frames: int, *, video: bool) -> tuple[int, int]:
        """(width, height) that the checkpoint's own processor would scale to."""
        if max(width, height) > 200 * min(width, height):
            raise EntracteError(
                "a picture's sides", expected="a ratio up to 200", found=(width, height)
            )
        m = self.multiple
        # As transformers' `smart_resize` counts: whole temporal patches in the test, frames in the scale.
        whole = max(1, round(frames / self.temporal)) * self.temporal
        if not (video and self.video_is_whole):
            frames = whole = 1
        least, most = self.video_pixels if video else self.picture_pixels
        wide, high = round(width / m) * m, round(height / m) * m
        if whole * wide * high > most:
            scale = math.sqrt(frames * width * height / most)
            wide = max(m, math.floor(width / scale / m) * m)
            high = max(m, math.floor(height / scale / m) * m)
        elif whole * wide * high < least:
            scale = math.sqrt(least / (frames * width * height))
            wide, high = math.ceil(width * scale / m) * m, math.ceil(height * scale / m) * m
        return wide, high

    def patches(self, images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """float32[T, h*w, C*temporal*patch*patch] of uint8[N, H, W, 3]: T temporal patches (an odd last
        frame is repeated), each of h x w patches in the order in which the model merges them."""
        wide, high = size
        if wide % self.multiple or high % self.multiple:
            raise EntracteError(
                "size of a picture", expected=f"multiples of {self.multiple}", found=size
            )
        scaled = np.stack([_scaled(image, size) for image in images]).astype(np.float32)
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        pixels = (scaled * np.float32(1 / 255) - mean) / std
        missing = -len(pixels) % self.temporal
        pixels = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        p, m = self.patch, self.merge
        rows, columns = high // p, wide // p
        grid = pixels.transpose(0, 3, 1, 2).reshape(
            len(pixels) // self.temporal, self.temporal, 3, rows // m, m, p, columns // m, m, p
        )
        ordered = grid.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return np.ascontiguousarray(ordered.reshape(len(ordered), rows * columns, -1))


def _scaled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if (image.shape[1], image.shape[0]) == size:
        return image
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency(
            "the reward model 'vlm' scales pictures with Pillow",
            remedy="pip install 'entracte[vlm]'",
        ) from error
    # OpenCV's bicubic doesn't smooth before it shrinks; what these models were trained with does.
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def load_pixel_rule(folder: Path, vision: Any, *, video_is_whole: bool) -> PixelRule:
    """The rule in a checkpoint's preprocessor files. `vision`: the vision part of its config, which the
    files must agree with. Raises `PackageError`."""
    picture = _settings(folder / "preprocessor_config.json")
    video = _settings(folder / "video_preprocessor_config.json") or picture
    if not picture:
        raise PackageError(f"{folder} has no preprocessor_config.json")
    rule = PixelRule(
        patch=int(picture.get("patch_size", vision.patch_size)),
        merge=int(picture.get("merge_size", vision.spatial_merge_size)),
        temporal=int(picture.get("temporal_patch_size", vision.temporal_patch_size)),
        mean=tuple(map(float, picture["image_mean"])),
        std=tuple(map(float, picture["image_std"])),
        picture_pixels=_bounds(picture),
        video_pixels=_bounds(video),
        video_is_whole=video_is_whole,
    )
    found = (rule.patch, rule.merge, rule.temporal)
    expected = (vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
    if found != expected:
        raise PackageError(
            f"patch, merge and temporal size in {folder}/preprocessor_config.json",
            expected=f"{expected} as in config.json",
            found=found,
        )
    return rule


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise PackageError(f"{path} is no JSON", found=str(error)) from error
    return dict(found)


def _bounds(settings: dict[str, Any]) -> tuple[int, int]:
    size = settings.get("size") or {}
    least = settings.get("min_pixels") or size.get("shortest_edge")
    most = settings.get("max_pixels") or size.get("longest_edge")
    if not least or not most:
        raise PackageError(
            "pixel bounds of the preprocessor", expected="size or min_pixels/max_pixels", found=size
        )
    return int(least), int(most)
