"""The one-dimensional UNet of Diffusion Policy (Chi et al. 2023, arXiv:2303.04137) in LeRobot's names.

A chunk is a signal over time with an action's joints as channels; what is known (observation, denoising
time) acts on every block as a scale and a shift (FiLM, Perez et al. 2017, arXiv:1709.07871).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from export.lerobot.config import DiffusionConfig

Condition = tuple[torch.Tensor, ...]
"""What a block is told at one time, float32[1, channels, 1] each: (scale, shift), or (shift,)."""


class Unet(nn.Module):
    """First `conditions` once for all denoising times, then `forward` for each of them."""

    def __init__(self, config: DiffusionConfig, known: int) -> None:
        super().__init__()
        embed, widths = config.diffusion_step_embed_dim, config.down_dims
        condition = embed + known
        self.embed = embed
        self.diffusion_step_encoder = nn.Sequential(
            nn.Identity(), nn.Linear(embed, 4 * embed), nn.Mish(), nn.Linear(4 * embed, embed)
        )

        def block(inner: int, outer: int) -> FilmBlock:
            return FilmBlock(config, inner, outer, condition)

        pairs = list(zip((config.action_size, *widths[:-1]), widths, strict=True))
        self.down_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    block(inner, outer),
                    block(outer, outer),
                    nn.Conv1d(outer, outer, 3, 2, 1) if index < len(pairs) - 1 else nn.Identity(),
                ]
            )
            for index, (inner, outer) in enumerate(pairs)
        )
        self.mid_modules = nn.ModuleList(block(widths[-1], widths[-1]) for _ in range(2))
        self.up_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    # Twice the channels: what the way down had here comes alongside.
                    block(outer * 2, inner),
                    block(inner, inner),
                    nn.ConvTranspose1d(inner, inner, 4, 2, 1),
                ]
            )
            for inner, outer in reversed(pairs[1:])
        )
        self.final_conv = nn.Sequential(
            ConvBlock(widths[0], widths[0], config.kernel_size, 8),
            nn.Conv1d(widths[0], config.action_size, 1),
        )

    def conditions(self, times: Sequence[int], known: torch.Tensor) -> list[tuple[Condition, ...]]:
        """What `forward` is to be given at each of the times. All are made at once: the wide matrices are
        then read once, and the graph holds one product a block."""
        told = self.diffusion_step_encoder(time_embedding(times, self.embed))
        condition = torch.cat([told, known.expand(len(times), -1)], 1)
        told_blocks = [block.told(condition) for block in self._blocks()]
        return list(zip(*told_blocks, strict=True))

    def forward(self, x: torch.Tensor, conditions: Sequence[Condition]) -> torch.Tensor:
        """float32[1, T, A] -> float32[1, T, A]; `conditions` of each block, for one time."""
        told = iter(conditions)
        x = x.transpose(1, 2)
        skipped: list[torch.Tensor] = []
        for level in _levels(self.down_modules):
            x = level[1](level[0](x, next(told)), next(told))
            skipped.append(x)
            x = level[2](x)
        for block in self.mid_modules:
            x = block(x, next(told))
        for level in _levels(self.up_modules):
            x = level[0](torch.cat([x, skipped.pop()], 1), next(told))
            x = level[2](level[1](x, next(told)))
        out: torch.Tensor = self.final_conv(x).transpose(1, 2)
        return out

    def _blocks(self) -> list[FilmBlock]:
        """In the order in which `forward` comes to them."""
        groups = [*_levels(self.down_modules), self.mid_modules, *_levels(self.up_modules)]
        return [part for group in groups for part in group if isinstance(part, FilmBlock)]


def _levels(modules: nn.ModuleList) -> list[nn.ModuleList]:
    return [level for level in modules if isinstance(level, nn.ModuleList)]


class ConvBlock(nn.Module):
    """Convolution over time, group norm, Mish: float32[B, inner, T] -> float32[B, outer, T]."""

    def __init__(self, inner: int, outer: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv1d(inner, outer, kernel, padding=kernel // 2),
            TimeGroupNorm(groups, outer),
            nn.Mish(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.block(x)
        return out


class TimeGroupNorm(nn.GroupNorm):
    """Group norm of float32[1, channels, T]. Torch's own puts the sizes into the graph as computations, in
    every step again; here they are numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = x.reshape(1, self.num_groups, -1)
        normal = F.instance_norm(groups, eps=self.eps).reshape(1, self.num_channels, -1)
        return normal * self.weight.reshape(-1, 1) + self.bias.reshape(-1, 1)


class FilmBlock(nn.Module):
    """Two `ConvBlock`s with the condition between them, and the way past."""

    def __init__(self, config: DiffusionConfig, inner: int, outer: int, condition: int) -> None:
        super().__init__()
        self.scales = config.use_film_scale_modulation
        self.conv1 = ConvBlock(inner, outer, config.kernel_size, config.n_groups)
        self.conv2 = ConvBlock(outer, outer, config.kernel_size, config.n_groups)
        self.cond_encoder = nn.Sequential(
            nn.Mish(), nn.Linear(condition, outer * 2 if self.scales else outer)
        )
        self.residual_conv: nn.Module = (
            nn.Conv1d(inner, outer, 1) if inner != outer else nn.Identity()
        )

    def told(self, condition: torch.Tensor) -> list[Condition]:
        """Conditions float32[times, C] as `forward` takes them, one for each time."""
        told = self.cond_encoder(condition).unsqueeze(2)
        parts = told.chunk(2, 1) if self.scales else (told,)
        return list(zip(*(part.split(1) for part in parts), strict=True))

    def forward(self, x: torch.Tensor, told: Condition) -> torch.Tensor:
        out = self.conv1(x)
        if self.scales:
            out = told[0] * out
        done: torch.Tensor = self.conv2(out + told[-1]) + self.residual_conv(x)
        return done


def time_embedding(times: Sequence[int], size: int) -> torch.Tensor:
    """Denoising times as sines, then cosines: float32[times, size]."""
    half = size // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    angles = torch.tensor(list(times))[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
