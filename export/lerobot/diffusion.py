"""Diffusion Policy (Chi et al. 2023, arXiv:2303.04137) as LeRobot 0.4 defines it, cut into trunk and head.

Trunk: one observation's pictures (keypoints by spatial softmax, Levine et al. 2016, arXiv:1504.00702) and
normalised joints. Head: the UNet and its denoising steps one after another, on the trunk's features of the
last observations. Tensors have LeRobot's names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from export.lerobot.config import DiffusionConfig
from export.lerobot.denoising import Denoising
from export.lerobot.processors import Affine
from export.lerobot.resnet import FrozenBatchNorm, channels, group_norm, resnet_parts
from export.lerobot.unet import Unet
from export.lerobot.vision import CentreCrop, Pictures, Resize, map_size


class DiffusionTrunk(nn.Module):
    """`forward(uint8[1, H, W, 3] of each camera..., state float32[1, S])` -> float32[1, features]: the
    normalised state, then what each camera sees."""

    def __init__(self, config: DiffusionConfig, pictures: Sequence[Affine], state: Affine) -> None:
        super().__init__()
        self.pictures = Pictures(pictures)
        self.state = state
        self.diffusion = _Vision(config)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *images, state = inputs
        seen = self.diffusion(self.pictures(images))
        return torch.cat([self.state(state), *seen], 1)


class _Vision(nn.Module):
    """One encoder for all cameras or one for each, in LeRobot's names."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.shared = not config.use_separate_rgb_encoder_per_camera
        self.rgb_encoder: nn.Module
        if self.shared:
            self.rgb_encoder = RgbEncoder(config)
        else:
            self.rgb_encoder = nn.ModuleList(RgbEncoder(config) for _ in config.images)

    def forward(self, pictures: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.shared:
            return list(self.rgb_encoder(torch.cat(list(pictures))).split(1))
        encoders: Sequence[nn.Module] = self.rgb_encoder  # type: ignore[assignment]
        return [encoder(picture) for encoder, picture in zip(encoders, pictures, strict=True)]


class RgbEncoder(nn.Module):
    """float32[B, 3, H, W] -> float32[B, 2 * keypoints]."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        _, *size = next(iter(config.images.values())).shape
        seen: tuple[int, int] = (size[0], size[1])
        steps: list[nn.Module] = []
        if config.resize_shape is not None and tuple(config.resize_shape) != seen:
            steps.append(Resize(seen, config.resize_shape))
            seen = config.resize_shape
        if config.crop is not None:
            steps.append(CentreCrop(seen, config.crop))
            seen = config.crop
        self.frame = nn.Sequential(*steps)
        norm = group_norm if config.use_group_norm else FrozenBatchNorm
        self.backbone = nn.Sequential(*resnet_parts(config.vision_backbone, norm).values())
        keypoints = config.spatial_softmax_num_keypoints
        self.pool = SpatialSoftmax(
            channels(config.vision_backbone), keypoints, map_size(self.backbone, seen)
        )
        self.out = nn.Linear(2 * keypoints, 2 * keypoints)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.out(self.pool(self.backbone(self.frame(x))).flatten(1)))


class SpatialSoftmax(nn.Module):
    """float32[B, C, rows, columns] -> keypoints float32[B, K, 2]: mean column and row, each in [-1, 1]."""

    pos_grid: torch.Tensor

    def __init__(self, inner: int, keypoints: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.nets = nn.Conv2d(inner, keypoints, 1)
        rows, columns = size
        x, y = np.meshgrid(np.linspace(-1.0, 1.0, columns), np.linspace(-1.0, 1.0, rows))
        grid = np.stack([x.reshape(-1), y.reshape(-1)], 1).astype(np.float32)
        self.register_buffer("pos_grid", torch.from_numpy(grid))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(self.nets(x).flatten(2).softmax(2), self.pos_grid)


class DiffusionHead(nn.Module):
    """features float32[observations, F], oldest first, and noise -> chunks float32[1, length, A] in the arm's
    units, from the newest observation on.

    noise: float32[1, horizon, A] where only the start is drawn, float32[1, draws, horizon, A] where every
    step but the last draws too: first the start, then the steps in order.
    """

    def __init__(
        self, config: DiffusionConfig, features: int, denoising: Denoising, action: Affine
    ) -> None:
        super().__init__()
        self.denoising = denoising
        self.first = config.n_obs_steps - 1
        self.diffusion = nn.ModuleDict({"unet": Unet(config, features * config.n_obs_steps)})
        self.action = action

    def forward(self, features: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        unet, plan = self.diffusion["unet"], self.denoising
        draws = [noise[:, index] for index in range(plan.draws)] if plan.draws > 1 else [noise]
        x = draws.pop(0)
        known = features.reshape(1, -1)
        conditions = unet.conditions([step.time for step in plan.steps], known)  # type: ignore[operator]
        for step, told in zip(plan.steps, conditions, strict=True):
            answer = unet(x, told)
            if plan.predicts_sample:
                clean, error = answer, (x - step.signal * answer) / step.noise
            else:
                clean, error = (x - step.noise * answer) / step.signal, answer
            if plan.clip is not None:
                clean = clean.clamp(-plan.clip, plan.clip)
            after = step.keep_clean * clean
            if step.keep_sample:
                after = after + step.keep_sample * x
            if step.keep_noise:
                after = after + step.keep_noise * error
            if step.draw:
                after = after + step.draw * draws.pop(0)
            x = after
        chunk: torch.Tensor = self.action(x[:, self.first :])
        return chunk
