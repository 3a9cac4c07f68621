"""ACT (Zhao et al. 2023, arXiv:2304.13705) as LeRobot 0.4 defines it, cut into a trunk and a head.

Trunk: backbone, projection of its map, normalised joints. Head: transformer and action regression. The
latent is zero as in LeRobot's inference; the encoder that made it in training has no part here. Tensors
have LeRobot's names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from export.lerobot.config import ActConfig
from export.lerobot.processors import Affine
from export.lerobot.resnet import FrozenBatchNorm, channels, resnet_parts
from export.lerobot.vision import Pictures


class ActTrunk(nn.Module):
    """`forward(uint8[1, H, W, 3] of each camera..., state float32[1, S])` -> float32[1, S + tokens * dim]:
    the normalised state, then the image tokens of every camera, row by row."""

    def __init__(self, config: ActConfig, pictures: Sequence[Affine], state: Affine) -> None:
        super().__init__()
        self.pictures = Pictures(pictures)
        self.state = state
        self.model = _Vision(config)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *images, state = inputs
        seen = [self.model(picture).flatten(1) for picture in self.pictures(images)]
        return torch.cat([self.state(state), *seen], 1)


class _Vision(nn.Module):
    """float32[1, 3, H, W] -> tokens float32[1, h * w, dim]."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        dilate = bool(config.replace_final_stride_with_dilation)
        parts = resnet_parts(config.vision_backbone, FrozenBatchNorm, dilate)
        self.backbone = nn.Sequential(parts)
        self.encoder_img_feat_input_proj = nn.Conv2d(
            channels(config.vision_backbone), config.dim_model, 1
        )

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.encoder_img_feat_input_proj(self.backbone(picture))
        return tokens.flatten(2).transpose(1, 2)


class ActHead(nn.Module):
    """features float32[1, S + tokens * dim] -> chunks float32[1, chunk, A] in the arm's units. `maps`: height
    and width of each camera's map."""

    def __init__(self, config: ActConfig, maps: Sequence[tuple[int, int]], action: Affine) -> None:
        super().__init__()
        self.state_size, self.dim = config.state_size, config.dim_model
        self.model = _Transformer(config, maps)
        self.action = action

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        state = features[:, : self.state_size]
        tokens = features[:, self.state_size :].reshape(-1, self.dim)
        chunk: torch.Tensor = self.action(self.model(state, tokens))
        return chunk.unsqueeze(0)


class _Transformer(nn.Module):
    """state float32[1, S], image tokens float32[N, dim] -> normalised actions float32[chunk, A]."""

    places: torch.Tensor

    def __init__(self, config: ActConfig, maps: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        dim = config.dim_model
        self.latent_dim, self.chunk = config.latent_dim, config.chunk_size
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.encoder_robot_state_input_proj = nn.Linear(config.state_size, dim)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, dim)
        self.encoder_1d_feature_pos_embed = nn.Embedding(2, dim)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, dim)
        self.action_head = nn.Linear(dim, config.action_size)
        # Fixed by the size of the pictures: no weight, so nothing that a release would carry.
        places = torch.cat([place_embedding(*size, dim) for size in maps])
        self.register_buffer("places", places, persistent=False)

    def forward(self, state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        latent = torch.zeros(1, self.latent_dim)
        first = [self.encoder_latent_input_proj(latent), self.encoder_robot_state_input_proj(state)]
        places = torch.cat([self.encoder_1d_feature_pos_embed.weight, self.places])
        memory = self.encoder(torch.cat([*first, tokens]), places)
        asked = torch.zeros(self.chunk, memory.shape[1])
        decoded = self.decoder(asked, memory, self.decoder_pos_embed.weight, places)
        actions: torch.Tensor = self.action_head(decoded)
        return actions


class _Encoder(nn.Module):
    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(config.n_encoder_layers))
        self.norm = nn.LayerNorm(config.dim_model) if config.pre_norm else nn.Identity()

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, places)
        encoded: torch.Tensor = self.norm(x)
        return encoded


class _Decoder(nn.Module):
    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DecoderLayer(config) for _ in range(config.n_decoder_layers))
        self.norm = nn.LayerNorm(config.dim_model)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, asked: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, memory, asked, places)
        decoded: torch.Tensor = self.norm(x)
        return decoded


class _Layer(nn.Module):
    """What encoder and decoder layers share: the feed-forward part and where the norms stand."""

    def __init__(self, config: ActConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.activation: nn.Module = (
            nn.GELU() if config.feedforward_activation == "gelu" else nn.ReLU()
        )
        self.linear1 = nn.Linear(config.dim_model, config.dim_feedforward)
        self.linear2 = nn.Linear(config.dim_feedforward, config.dim_model)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        fed: torch.Tensor = self.linear2(self.activation(self.linear1(x)))
        return fed


class _EncoderLayer(_Layer):
    def __init__(self, config: ActConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.dim_model, config.n_heads)
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)

    def forward(self, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        if self.pre_norm:
            inner = self.norm1(x)
            x = x + self.self_attn(inner + places, inner + places, inner)
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.self_attn(x + places, x + places, x))
        fed: torch.Tensor = self.norm2(x + self.feed(x))
        return fed


class _DecoderLayer(_Layer):
    def __init__(self, config: ActConfig) -> None:
        super().__init__(config)
        self.self_attn = Attention(config.dim_model, config.n_heads)
        self.multihead_attn = Attention(config.dim_model, config.n_heads)
        self.norm1 = nn.LayerNorm(config.dim_model)
        self.norm2 = nn.LayerNorm(config.dim_model)
        self.norm3 = nn.LayerNorm(config.dim_model)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, asked: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        if self.pre_norm:
            inner = self.norm1(x)
            x = x + self.self_attn(inner + asked, inner + asked, inner)
            x = x + self.multihead_attn(self.norm2(x) + asked, memory + places, memory)
            return x + self.feed(self.norm3(x))
        x = self.norm1(x + self.self_attn(x + asked, x + asked, x))
        x = self.norm2(x + self.multihead_attn(x + asked, memory + places, memory))
        fed: torch.Tensor = self.norm3(x + self.feed(x))
        return fed


class Attention(nn.Module):
    """`nn.MultiheadAttention` in its own names, for one sequence: queries float32[L, D], keys and values
    float32[M, D] -> float32[L, D]. Written out, so that the graph holds each of its tensors once."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).reshape(len(x), self.heads, -1).transpose(0, 1)
            for x, weight, bias in zip((queries, keys, values), weights, biases, strict=True)
        )
        scores = torch.matmul(q * (1.0 / math.sqrt(q.shape[2])), k.transpose(1, 2))
        mixed = torch.matmul(scores.softmax(2), v).transpose(0, 1).reshape(len(queries), -1)
        out: torch.Tensor = self.out_proj(mixed)
        return out


def place_embedding(rows: int, columns: int, dim: int) -> torch.Tensor:
    """Where each cell of a map is, as sines and cosines: float32[rows * columns, dim], the vertical half
    first. Positions count from 1 and end at 2 pi, as in DETR (Carion et al. 2020, arXiv:2005.12872)."""
    half = dim // 2
    wavelength = 10000 ** (2 * (torch.arange(half, dtype=torch.float32) // 2) / half)

    def waves(count: int) -> torch.Tensor:
        place = torch.arange(1, count + 1, dtype=torch.float32)
        angle = (place / (place[-1:] + 1e-6) * 2 * math.pi)[:, None] / wavelength
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

    vertical = waves(rows)[:, None].expand(rows, columns, half)
    horizontal = waves(columns)[None].expand(rows, columns, half)
    return torch.cat([vertical, horizontal], 2).reshape(rows * columns, dim)
