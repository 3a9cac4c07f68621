"""The edge reward network: a frozen trunk (pictures to embedding) and a small head (language and time).

Trunk and head have the graph signatures of the reward package (see `export`): the trunk knows no
language and no time, so that embeddings are computed once per frame; the head compares the first,
an earlier and the current one under an instruction. After RoboReward (arXiv 2601.00675, counterfactual
instructions) and Large Reward Models (arXiv 2603.16065, the three signals).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor, nn

from contracts.language import UNKNOWN_ID


class EdgeShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every size of the network. Pictures are `width` x `height` RGB; `context` is the number of
    demonstration frames that the head carries (0: zero-shot)."""

    vocabulary_size: int
    instruction_length: int = 16
    width: int = 128
    height: int = 96
    front_channels: int = 24
    wrist_channels: int = 16
    word_width: int = 48
    text_width: int = 64
    map_width: int = 48
    slots: int = 4
    hidden: int = 128
    key_width: int = 32
    context: int = 0

    @property
    def front_grid(self) -> tuple[int, int]:
        return self.height // 8, self.width // 8

    @property
    def wrist_grid(self) -> tuple[int, int]:
        return self.height // 16, self.width // 16

    @property
    def front_size(self) -> int:
        return self.front_channels * self.front_grid[0] * self.front_grid[1]

    @property
    def embedding_size(self) -> int:
        return self.front_size + self.wrist_channels * self.wrist_grid[0] * self.wrist_grid[1]


class ConvUnit(nn.Module):
    """3x3 convolution, batch norm, ReLU; `fuse` folds the norm into the convolution for export."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return torch.relu(x) if self.relu else x

    def fuse(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (
            ConvUnit(channels, channels),
            ConvUnit(channels, channels, relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.first(x)))


class CameraEncoder(nn.Module):
    """uint8[B,H,W,3] -> float32[B, channels, H/stride, W/stride]; stride 8, or 16 from a halved picture
    (the wrist camera sees things from so near that half its pixels do)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AvgPool2d(2)] if stride == 16 else []
        layers += [
            ConvUnit(3, 16, 2),
            ConvUnit(16, 24, 2),
            ConvUnit(24, 32),
            ConvUnit(32, 48, 2),
            Residual(48),
        ]
        layers += [Residual(48)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(48, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        # Floats first: TensorRT casts bytes but can't transpose them.
        x = image.to(torch.float32).permute(0, 3, 1, 2) * (1.0 / 64.0) - 2.0
        grid: Tensor = self.out(self.layers(x))
        return grid


class EdgeTrunk(nn.Module):
    """Front and wrist pictures to one embedding float32[B, D]: both feature grids, flattened."""

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        self.front = CameraEncoder(shape.front_channels, 8)
        self.wrist = CameraEncoder(shape.wrist_channels, 16)

    def forward(self, front: Tensor, wrist: Tensor) -> Tensor:
        return torch.cat([self.front(front).flatten(1), self.wrist(wrist).flatten(1)], dim=1)

    def fuse(self) -> EdgeTrunk:
        """Fold every batch norm; the trunk is then in its exported form and can't be trained."""
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fuse()
        return self


class InstructionEncoder(nn.Module):
    """int64[B,L] word ids -> a summary [B, text] and `slots` queries [B, K, text].

    Word pairs are bound by convolutions ("red" to "cube"), roles by attention of learned slots over
    the words; learned from scratch, since sentence encoders do not tell "open" from "close".
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        width = shape.word_width
        self.words = nn.Embedding(shape.vocabulary_size + 2, width, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, width, shape.instruction_length) * 0.1)
        self.bind1 = nn.Conv1d(width, shape.text_width, 3, padding=1)
        self.bind2 = nn.Conv1d(shape.text_width, shape.text_width, 3, padding=1)
        self.slots = nn.Parameter(torch.randn(1, shape.slots + 1, shape.text_width) * 0.3)
        self.scale = 1.0 / math.sqrt(shape.text_width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        real = (tokens != 0).to(torch.float32)
        x = (self.words(tokens).transpose(1, 2) + self.places) * real.unsqueeze(1)
        x = torch.relu(self.bind1(x)) * real.unsqueeze(1)
        x = x + torch.relu(self.bind2(x))
        scores = torch.matmul(self.slots, x) * self.scale  # [B, K+1, L]
        scores = scores - (1.0 - real).unsqueeze(1) * 1e4
        read = torch.matmul(torch.softmax(scores, dim=2), x.transpose(1, 2))
        return read[:, 0], read[:, 1:]


class Film(nn.Module):
    """Feature-wise scale and shift of a map by the instruction (Perez et al. 2018)."""

    def __init__(self, text: int, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Linear(text, channels), nn.Linear(text, channels)

    def forward(self, grid: Tensor, text: Tensor) -> Tensor:
        scale = self.scale(text).unsqueeze(2).unsqueeze(3)
        out: Tensor = grid * (1.0 + scale) + self.shift(text).unsqueeze(2).unsqueeze(3)
        return out


class Relation(nn.Module):
    """(first, frame, instruction) -> hidden float32[B, hidden] and where each slot looks [B, K, cells].

    Slots attend to cells of the front picture, so that what they find has a place: "the cube is over the
    plate" is then the same feature for any cube and any plate.
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        self.shape = shape
        width, text = shape.map_width, shape.text_width
        rows, columns = shape.front_grid
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
        )
        self.register_buffer("cells", torch.stack([x, y]), persistent=False)
        self.enter = nn.Conv2d(2 * shape.front_channels + 2, width, 1)
        self.film1, self.film2 = Film(text, width), Film(text, width)
        self.mix1 = nn.Conv2d(width, width, 3, padding=1)
        self.mix2 = nn.Conv2d(width, width, 3, padding=1)
        self.look = nn.Conv2d(width, text, 1)
        self.wrist_enter = nn.Conv2d(2 * shape.wrist_channels, 32, 1)
        self.wrist_film = Film(text, 32)
        self.wrist_mix = nn.Conv2d(32, 32, 3, padding=1)
        slots = shape.slots
        joined = slots * width + 2 * slots + 4 * (slots - 1) + 2 * width + 64 + text
        self.join = nn.Sequential(
            nn.Linear(joined, shape.hidden),
            nn.ReLU(),
            nn.Linear(shape.hidden, shape.hidden),
            nn.ReLU(),
        )

    def forward(
        self, first: Tensor, frame: Tensor, text: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen, scores = self.gather(first, frame, text, slots)
        return self.join(seen), scores

    def gather(
        self, first: Tensor, frame: Tensor, text: Tensor, slots: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `join` makes the hidden state of: float32[B, J], by far the larger part of the work."""
        shape = self.shape
        cut = shape.front_size
        front = [
            e[:, :cut].reshape(-1, shape.front_channels, *shape.front_grid) for e in (frame, first)
        ]
        wrist = [
            e[:, cut:].reshape(-1, shape.wrist_channels, *shape.wrist_grid) for e in (frame, first)
        ]
        cells: Tensor = self.cells  # type: ignore[assignment]
        ones = torch.ones_like(front[0][:, :2])
        grid = self.enter(torch.cat([front[0], front[1] - front[0], ones * cells], dim=1))
        grid = torch.relu(self.film1(grid, text))
        grid = grid + torch.relu(self.film2(self.mix1(grid), text))
        grid = grid + torch.relu(self.mix2(grid))
        seen = grid.flatten(2).transpose(1, 2)  # [B, cells, width]
        keys = self.look(grid).flatten(2)
        scores = torch.matmul(slots, keys) * (1.0 / math.sqrt(shape.text_width))
        weights = torch.softmax(scores, dim=2)
        found = torch.matmul(weights, seen)
        places = torch.matmul(weights, cells.flatten(1).transpose(0, 1))  # [B, K, 2]
        apart = places[:, 1:] - places[:, :1]
        hand = torch.relu(
            self.wrist_film(
                self.wrist_enter(torch.cat([wrist[0], wrist[1] - wrist[0]], dim=1)), text
            )
        )
        hand = hand + torch.relu(self.wrist_mix(hand))
        joined = torch.cat(
            [
                found.flatten(1),
                places.flatten(1),
                apart.flatten(1) * 4.0,
                (apart * apart).flatten(1) * 16.0,
                grid.mean(dim=(2, 3)),
                grid.amax(dim=(2, 3)),
                hand.mean(dim=(2, 3)),
                hand.amax(dim=(2, 3)),
                text,
            ],
            dim=1,
        )
        return joined, scores


class Ground(nn.Module):
    """How sure the head is that a frame is of the kind it was trained on, in [0, 1].

    Mahalanobis distance of grid-averaged features (mean and spread per channel) to the training frames;
    0 where the instruction holds an unknown word. Buffers are set by `train_edge.fit_ground`.
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        self.shape = shape
        size = 2 * (shape.front_channels + shape.wrist_channels)
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.whiten = nn.Parameter(torch.eye(size), requires_grad=False)
        self.limit = nn.Parameter(torch.full((1,), 4.0), requires_grad=False)
        self.softness = nn.Parameter(torch.ones(1), requires_grad=False)

    def features(self, frame: Tensor) -> Tensor:
        cut, shape = self.shape.front_size, self.shape
        front = frame[:, :cut].reshape(
            -1, shape.front_channels, shape.front_grid[0] * shape.front_grid[1]
        )
        wrist = frame[:, cut:].reshape(
            -1, shape.wrist_channels, shape.wrist_grid[0] * shape.wrist_grid[1]
        )
        parts = []
        for grid in (front, wrist):
            mean = grid.mean(dim=2)
            centred = grid - mean.unsqueeze(2)
            parts += [mean, torch.sqrt((centred * centred).mean(dim=2) + 1e-6)]
        return torch.cat(parts, dim=1)

    def distance(self, frame: Tensor) -> Tensor:
        """Mean squared whitened deviation [B]; about 1 on training frames."""
        z = torch.matmul(self.features(frame) - self.mean, self.whiten)
        return (z * z).mean(dim=1)

    def forward(self, first: Tensor, frame: Tensor, tokens: Tensor) -> Tensor:
        unknown = (tokens == UNKNOWN_ID).to(torch.float32).sum(dim=1)
        worst = torch.maximum(self.distance(first), self.distance(frame))
        sure = torch.sigmoid((self.limit - worst) / self.softness)
        return sure * torch.clamp(1.0 - unknown, min=0.0)


class Match(nn.Module):
    """Learned matching against demonstration frames: hidden vectors [N, hidden] with progress [N].

    Gives [B, 4]: the progress of what the frame resembles, how much it resembles anything at all,
    and how much more it resembles the demonstrations' ends than their middles, and starts.
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        self.query = nn.Linear(shape.hidden, shape.key_width)
        self.sharpness = nn.Parameter(torch.tensor([2.0]))

    def forward(self, hidden: Tensor, context: Tensor, progress: Tensor) -> Tensor:
        query, keys = self.query(hidden), self.query(context)
        squared = (
            (query * query).sum(dim=1, keepdim=True)
            + (keys * keys).sum(dim=1).unsqueeze(0)
            - 2.0 * torch.matmul(query, keys.transpose(0, 1))
        )
        near = -squared * torch.exp(self.sharpness) / query.shape[1]
        weights = torch.softmax(near, dim=1)
        expected = torch.matmul(weights, progress.unsqueeze(1))
        closest = torch.amax(near, dim=1, keepdim=True)
        at_end = torch.amax(near - (1.0 - progress) * 20.0, dim=1, keepdim=True)
        before = torch.amax(near - torch.relu(progress - 0.6) * 50.0, dim=1, keepdim=True)
        soft = torch.cat([closest, at_end, torch.tanh((at_end - before) * 0.25)], dim=1)
        return torch.cat([expected, torch.tanh(soft * 0.25)], dim=1)


class EdgeHead(nn.Module):
    """(first, earlier, current) embeddings and word ids -> process, completion, contrastive, ground.

    `contrastive` is a difference of one function at both frames: swapping them flips its sign, by
    construction. `completion` is calibrated by `calibration` (scale, shift of the logit), which is set on
    validation data. With `shape.context` > 0 the head also matches against `context` (demonstrations).
    """

    def __init__(self, shape: EdgeShape) -> None:
        super().__init__()
        self.shape = shape
        self.instruction = InstructionEncoder(shape)
        self.relation = Relation(shape)
        width = shape.hidden + (4 if shape.context else 0)
        self.process = nn.Linear(width, 1)
        self.completion = nn.Linear(width, 1)
        self.closer = nn.Linear(width, 1)
        self.compare = nn.Sequential(nn.Linear(2 * width, 64), nn.ReLU(), nn.Linear(64, 1))
        self.calibration = nn.Parameter(torch.tensor([1.0, 0.0]), requires_grad=False)
        self.ground = Ground(shape)
        if shape.context:
            self.match = Match(shape)
            self.context = nn.Parameter(
                torch.zeros(shape.context, shape.hidden), requires_grad=False
            )
            self.context_progress = nn.Parameter(torch.zeros(shape.context), requires_grad=False)

    def describe(
        self,
        first: Tensor,
        frame: Tensor,
        text: Tensor,
        slots: Tensor,
        context: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden state of a frame (with its match, if any) and the slots' scores over the cells."""
        seen, scores = self.relation.gather(first, frame, text, slots)
        return self.conclude(seen, context), scores

    def conclude(self, seen: Tensor, context: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Hidden state with its match from what `relation` gathered of a frame [B, J]."""
        hidden: Tensor = self.relation.join(seen)
        if self.shape.context:
            vectors, progress = context or (self.context, self.context_progress)
            hidden = torch.cat([hidden, self.match(hidden, vectors, progress)], dim=1)
        return hidden

    def contrast(self, earlier: Tensor, current: Tensor) -> Tensor:
        """Logit of "current is nearer to the goal" from two hidden states [B, width]; odd in the swap."""
        forth = self.compare(torch.cat([earlier, current], dim=1))
        back = self.compare(torch.cat([current, earlier], dim=1))
        odd: Tensor = (self.closer(current) - self.closer(earlier)) + (forth - back)
        return odd.squeeze(1)

    def forward(
        self, first: Tensor, earlier: Tensor, current: Tensor, tokens: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        text, slots = self.instruction(tokens)
        now, _ = self.describe(first, current, text, slots)
        then, _ = self.describe(first, earlier, text, slots)
        logit = self.completion(now).squeeze(1)
        return (
            torch.sigmoid(self.process(now).squeeze(1)),
            torch.sigmoid(logit * self.calibration[0] + self.calibration[1]),
            torch.tanh(self.contrast(then, now)),
            self.ground(first, current, tokens),
        )


HEAD_OUTPUTS: Sequence[str] = ("process", "completion", "contrastive", "ground")
