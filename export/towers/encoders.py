"""CLIP's and SigLIP's two towers, each as one module: raw pictures or tokens in, unit vectors out.

transformers' own layers; what is laid out here is what exporters trip over (masks of a dynamic batch).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from export.towers.vision import Pixels


class ImageEncoder(nn.Module):
    """forward: `pixels` uint8[B, S, S, 3] -> `embedding` float32[B, D] of length one."""

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """`model`: a `CLIPModel` or `SiglipModel` in evaluation mode."""
        super().__init__()
        self.pixels = Pixels(mean, std)
        self.vision = model.vision_model
        self.projection = getattr(model, "visual_projection", nn.Identity())

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        pooled = self.vision(pixel_values=self.pixels(pixels)).pooler_output
        return nn.functional.normalize(self.projection(pooled), dim=-1)


class TextEncoder(nn.Module):
    """forward: `tokens` int64[B, L], padded to the model's whole length -> `embedding` float32[B, D]."""

    mask: torch.Tensor | None

    def __init__(self, model: Any) -> None:
        """`model`: a `CLIPModel` (causal, read at the end of the text) or `SiglipModel` (read at the last
        place, padding or not), in evaluation mode."""
        super().__init__()
        self.causal = hasattr(model, "text_projection")
        text = model.text_model
        self.embeddings, self.encoder, self.norm = (
            text.embeddings,
            text.encoder,
            text.final_layer_norm,
        )
        self.projection = model.text_projection if self.causal else text.head
        config = model.config.text_config
        self.length = int(config.max_position_embeddings)
        # Checkpoints from before transformers 4.24 say 2, and end a text with their last token.
        self.end = int(config.eos_token_id) if config.eos_token_id != 2 else config.vocab_size - 1
        mask = torch.full((self.length, self.length), torch.finfo(torch.float32).min).triu(1)
        self.register_buffer("mask", mask[None, None] if self.causal else None, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(input_ids=tokens)
        masks = {"causal_attention_mask": self.mask} if self.causal else {}
        hidden = self.norm(self.encoder(inputs_embeds=hidden, **masks).last_hidden_state)
        if not self.causal:
            return nn.functional.normalize(self.projection(hidden[:, -1]), dim=-1)
        # The first end of the text; what pads behind it may be the same token. No argmax or running sum:
        # TensorRT 10.3 has neither for integers.
        place = torch.arange(self.length) + (tokens != self.end) * self.length
        first = (place == place.amin(dim=1, keepdim=True)).float()
        pooled = (hidden * first[:, :, None]).sum(dim=1)
        return nn.functional.normalize(self.projection(pooled), dim=-1)
