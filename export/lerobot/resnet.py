"""ResNets up to their last feature map, in torchvision's names (He et al. 2015, arXiv:1512.03385; stride in
the 3x3 convolution of a bottleneck). No classifier: policies look at the map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

DEPTHS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}
"""Whether blocks are bottlenecks, and how many there are in each of four layers."""

Norm = Callable[[int], nn.Module]


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with its statistics as constants: y = x * scale + shift. As plain arithmetic all
    four tensors keep their names through export, which the operator BatchNormalization would fold."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


def group_norm(channels: int) -> nn.Module:
    """What LeRobot's Diffusion puts in the place of batch normalisation: groups of 16 channels."""
    return nn.GroupNorm(channels // 16, channels)


class Block(nn.Module):
    """Two 3x3 convolutions and the way past them; with `bottleneck` 1x1, 3x3, 1x1 at four times the width."""

    def __init__(
        self,
        inner: int,
        width: int,
        *,
        bottleneck: bool,
        stride: int,
        dilation: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        outer = width * 4 if bottleneck else width
        if bottleneck:
            self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
            self.bn1 = norm(width)
            self.conv2 = _conv3(width, width, stride, dilation)
            self.bn2 = norm(width)
            self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
            self.bn3 = norm(outer)
        else:
            self.conv1 = _conv3(inner, width, stride, 1)
            self.bn1 = norm(width)
            self.conv2 = _conv3(width, width, 1, 1)
            self.bn2 = norm(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride=stride, bias=False), norm(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        past = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            x = self.bn3(self.conv3(F.relu(x)))
        return F.relu(x + past)


def resnet_parts(name: str, norm: Norm, dilate_last: bool = False) -> OrderedDict[str, nn.Module]:
    """The parts of a ResNet in order, by torchvision's names: float32[B, 3, H, W] -> a map of 512 channels
    (2048 with bottlenecks), 1/32 of the picture; `dilate_last` trades the last stride for dilation (1/16)."""
    bottleneck, depths = DEPTHS[name]
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        bn1=norm(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inner = 64
    for index, depth in enumerate(depths):
        width = 64 << index
        stride = 1 if index == 0 else 2
        dilation = 1
        if dilate_last and index == 3:
            stride, dilation = 1, 2
        blocks = []
        for place in range(depth):
            first = place == 0
            blocks.append(
                Block(
                    inner,
                    width,
                    bottleneck=bottleneck,
                    stride=stride if first else 1,
                    # Torchvision dilates from the second block of the layer on.
                    dilation=1 if first else dilation,
                    norm=norm,
                )
            )
            inner = width * 4 if bottleneck else width
        parts[f"layer{index + 1}"] = nn.Sequential(*blocks)
    return parts


def channels(name: str) -> int:
    """Channels of the last map."""
    return 2048 if DEPTHS[name][0] else 512


def _conv3(inner: int, outer: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        inner, outer, 3, stride=stride, padding=dilation, dilation=dilation, bias=False
    )
