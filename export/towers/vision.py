"""Vision towers on raw pictures: uint8 frames of one temporal patch in, the language model's vectors out.

What depends on the grid alone (rotary angles, window order, interpolated places) is computed once, in torch,
when the module is made: a traced graph then holds none of the index arithmetic that exporters stumble over.
The towers themselves are transformers' own layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from contracts.errors import PackageError
from trainer.rewards.vlm.pictures import PixelRule


class Pixels(nn.Module):
    """uint8[N, H, W, 3] -> float32[N, 3, H, W], normalised."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        # Cast first: TensorRT takes uint8 as an input and for a cast, and nothing else.
        pixels = frames.float().permute(0, 3, 1, 2) * (1 / 255)
        return (pixels - self.mean) / self.std


class QwenVision(nn.Module):
    """Qwen3-VL's or Qwen2.5-VL's tower. forward: `frames` uint8[temporal, H, W, 3] -> `features`
    float32[V, D], and for Qwen3-VL `deep` float32[levels, V, D] (deepstack)."""

    cos: torch.Tensor
    sin: torch.Tensor
    places: torch.Tensor
    order: torch.Tensor
    back: torch.Tensor

    def __init__(self, visual: Any, rule: PixelRule, size: tuple[int, int]) -> None:
        """`visual`: transformers' tower, in evaluation mode; `size` (width, height) of what it is given."""
        super().__init__()
        wide, high = size
        if wide % rule.multiple or high % rule.multiple:
            raise PackageError(
                "size of a frame", expected=f"multiples of {rule.multiple}", found=size
            )
        self.pixels = Pixels(rule.mean, rule.std)
        self.visual, self.rule = visual, rule
        self.rows, self.columns = high // rule.patch, wide // rule.patch
        self.third = hasattr(visual, "deepstack_merger_list")
        self._bake()

    @torch.no_grad()
    def _bake(self) -> None:
        visual, count = self.visual, self.rows * self.columns
        grid = torch.tensor([[1, self.rows, self.columns]])
        angles = visual.rot_pos_emb(grid).reshape(count, -1)
        self.whole = torch.tensor([0, count])
        self.windows = self.whole
        if self.third:
            self.register_buffer("places", visual.fast_pos_embed_interpolate(grid).clone())
        else:
            order, ends = visual.get_window_index(grid)
            self.windows = torch.unique_consecutive(torch.tensor(ends))
            unit = visual.spatial_merge_unit
            angles = angles.reshape(count // unit, unit, -1)[order].reshape(count, -1)
            self.register_buffer("order", order)
            self.register_buffer("back", torch.argsort(order))
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, frames: torch.Tensor) -> Any:
        visual = self.visual
        hidden = visual.patch_embed(self._patches(self.pixels(frames)))
        hidden = hidden + self.places if self.third else self._reordered(hidden, self.order)
        deep = []
        for index, block in enumerate(visual.blocks):
            windowed = not self.third and index not in visual.fullatt_block_indexes
            ends = self.windows if windowed else self.whole
            hidden = block(hidden, cu_seqlens=ends, position_embeddings=(self.cos, self.sin))
            if self.third and index in visual.deepstack_visual_indexes:
                level = visual.deepstack_visual_indexes.index(index)
                deep.append(visual.deepstack_merger_list[level](hidden))
        features = visual.merger(hidden)
        if not self.third:
            return features[self.back]
        return (features, torch.stack(deep)) if deep else features

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """As `PixelRule.patches`, of one temporal patch; never more than 8 axes, TensorRT's most."""
        p, m, t = self.rule.patch, self.rule.merge, self.rule.temporal
        cut = pixels.reshape(t, 3, self.rows // m, m, p, self.columns // m, m, p)
        ordered = cut.permute(2, 5, 3, 6, 1, 0, 4, 7)
        return ordered.reshape(self.rows * self.columns, 3 * t * p * p)

    def _reordered(self, hidden: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        unit = self.visual.spatial_merge_unit
        grouped = hidden.reshape(hidden.shape[0] // unit, unit, -1)[order]
        return grouped.reshape(hidden.shape[0], -1)


class SmolVision(nn.Module):
    """SmolVLM's tower and connector on one whole square picture. forward: `frames` uint8[1, S, S, 3] ->
    `features` float32[V, D]."""

    places: torch.Tensor

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`model`: transformers' `SmolVLMModel`, in evaluation mode."""
        super().__init__()
        self.pixels = Pixels(mean, std)
        self.vision, self.connector = model.vision_model, model.connector
        embeddings = self.vision.embeddings
        side = embeddings.num_patches_per_side
        mask = torch.ones(1, side, side, dtype=torch.bool)
        blank = torch.zeros(1, 3, embeddings.image_size, embeddings.image_size)
        with torch.no_grad():
            # The tower's own places of a whole picture, whatever rounding it makes them with.
            seen = embeddings(blank, patch_attention_mask=mask)
            bare = embeddings.patch_embedding(blank).flatten(2).transpose(1, 2)
            self.register_buffer("places", (seen - bare).clone())

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        embeddings = self.vision.embeddings
        hidden = embeddings.patch_embedding(self.pixels(frames)).flatten(2).transpose(1, 2)
        hidden = self.vision.encoder(inputs_embeds=hidden + self.places).last_hidden_state
        features: torch.Tensor = self.connector(self.vision.post_layernorm(hidden))[0]
        return features
