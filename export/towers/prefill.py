"""The language model of a VLM as one forward pass over a prompt: score-token logits out, nothing kept.

transformers' own decoder layers, normalisation and head rows; the sequence, its mask and its rotary places
are laid out here so that every shape is fixed and any exporter can follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Prefill(nn.Module):
    """forward: `tokens` int64[L] (rows of `table`, vision vectors behind it), `positions` int64[3, L], `last`
    int64[1] (place of the last real token; what is padded behind it is never looked at), `features`
    float32[V, D] and for deepstack models `deep` float32[levels, V, D] -> `logits` float32[K] of the score
    tokens, and with `whole` `normaliser` float32[1], log of the sum over the whole vocabulary."""

    axis: torch.Tensor

    def __init__(
        self,
        text: Any,
        head: nn.Linear,
        vocabulary: Sequence[int],
        scores: Sequence[int],
        whole: bool = True,
    ) -> None:
        """`text`: transformers' text model, in evaluation mode; `vocabulary`: token ids that prompts use, in
        the order of the package's own numbers; `scores`: token ids that are read."""
        super().__init__()
        self.layers, self.norm, self.rotary = text.layers, text.norm, text.rotary_emb
        embedded = text.get_input_embeddings().weight
        self.table = nn.Parameter(embedded.detach()[list(vocabulary)].clone())
        self.rows = nn.Parameter(head.weight.detach()[list(scores)].clone())
        self.head = head if whole else None
        self.interleaved = hasattr(self.rotary, "apply_interleaved_mrope")
        self.axes = 3 if hasattr(text.config, "rope_scaling") and _sections(text.config) else 1
        if self.interleaved:
            axis = torch.zeros(len(self.rotary.inv_freq), dtype=torch.long)
            for which in (1, 2):
                axis[which : self.rotary.mrope_section[which] * 3 : 3] = which
            self.register_buffer("axis", axis, persistent=False)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        last: torch.Tensor,
        features: torch.Tensor,
        deep: torch.Tensor | None = None,
    ) -> Any:
        hidden = torch.cat((self.table, features))[tokens][None]
        angles = self._angles(hidden, positions)
        place = torch.arange(tokens.shape[0])
        ahead = place[None, :] > place[:, None]
        mask = torch.zeros(ahead.shape).masked_fill(ahead, torch.finfo(torch.float32).min)
        # Vector 0 is nothing, for the tokens of text.
        seen = (tokens - self.table.shape[0] + 1).clamp(min=0)
        for index, layer in enumerate(self.layers):
            answer = layer(hidden, attention_mask=mask[None, None], position_embeddings=angles)
            hidden = answer[0] if isinstance(answer, tuple) else answer
            if deep is not None and index < deep.shape[0]:
                nothing = torch.zeros(1, deep.shape[2])
                hidden = hidden + torch.cat((nothing, deep[index]))[seen][None]
        read = self.norm(hidden[0][last])
        logits = nn.functional.linear(read, self.rows)[0]
        if self.head is None:
            return logits
        return logits, torch.logsumexp(self.head(read), dim=-1)

    def _angles(
        self, hidden: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.interleaved:
            shown = positions[:, None] if self.axes == 3 else positions[:1]
            cos, sin = self.rotary(hidden, shown)
            return cos, sin
        # Qwen3-VL writes the three axes' frequencies into one another in place; picked, they are the same.
        picked = positions.float()[self.axis].transpose(0, 1) * self.rotary.inv_freq.float()
        angles = torch.cat((picked, picked), dim=-1)[None]
        scale = self.rotary.attention_scaling
        return angles.cos() * scale, angles.sin() * scale


def _sections(config: Any) -> bool:
    return bool((config.rope_scaling or {}).get("mrope_section"))
