"""Pictures as the robot takes them -> as a LeRobot backbone sees them; and which map a backbone makes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from export.lerobot.processors import Affine


class Pictures(nn.Module):
    """uint8[1, H, W, 3] RGB of each camera -> float32[1, 3, H, W], in [0, 1] and then normalised."""

    def __init__(self, normalisers: Sequence[Affine]) -> None:
        super().__init__()
        self.normalisers = nn.ModuleList(normalisers)

    def forward(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        # Floats first: TensorRT casts bytes but can't transpose them.
        return [
            normalise(image.float().permute(0, 3, 1, 2) / 255.0)
            for normalise, image in zip(self.normalisers, images, strict=True)
        ]


class Resize(nn.Module):
    """float32[B, 3, H, W] to another size with triangular filters wide enough to hold what is shrunk away
    (torchvision's default). ONNX before opset 18 has no such operator, so it is two products with matrices,
    which torch itself makes from the unit matrix."""

    down: torch.Tensor
    across: torch.Tensor

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("down", _resampling(size[0], wanted[0]).T, persistent=False)
        self.register_buffer("across", _resampling(size[1], wanted[1]), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(torch.matmul(self.down, x), self.across)


class CentreCrop(nn.Module):
    """float32[B, 3, H, W] -> the middle `wanted` (height, width) of it."""

    def __init__(self, size: tuple[int, int], wanted: tuple[int, int]) -> None:
        super().__init__()
        # Half a pixel goes to the even side, as Python's round has it in torchvision.
        self.top, self.left = (
            round((side - inner) / 2) for side, inner in zip(size, wanted, strict=True)
        )
        self.height, self.width = wanted

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, self.top : self.top + self.height, self.left : self.left + self.width]


def map_size(backbone: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the map that a backbone makes of pictures of (height, width)."""
    with torch.inference_mode():
        seen = backbone(torch.zeros(1, 3, *size))
    return int(seen.shape[2]), int(seen.shape[3])


def _resampling(size: int, wanted: int) -> torch.Tensor:
    """float32[size, wanted]: columns are the weights of the new pixels."""
    unit = torch.eye(size)[None, None]
    resized = F.interpolate(unit, size=(size, wanted), mode="bilinear", antialias=True)
    return resized[0, 0]
