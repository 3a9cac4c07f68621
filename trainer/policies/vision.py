"""The policy's trunk: cameras, joint state and instruction to one feature vector. Frozen when refined.

Small enough for one CPU core: about 26 MMAC a 128x96 picture. Normalisation is inside.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WORD_SIZE = 32
PHRASE_SIZE = 64


class InstructionEncoder(nn.Module):
    """Word ids int64[B, L] -> float32[B, PHRASE_SIZE]. A convolution over three words ties a colour to
    its noun ("red cube"); the maximum over positions makes it independent of where it stands."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, WORD_SIZE)
        self.phrases = nn.Conv1d(WORD_SIZE, 96, 3, padding=1)
        self.out = nn.Linear(96, PHRASE_SIZE)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        known = (tokens > 0).unsqueeze(1).float()
        words = self.words(tokens).transpose(1, 2) * known
        phrases = F.relu(self.phrases(words)) * known
        return F.relu(self.out(phrases.amax(2)))


class CameraEncoder(nn.Module):
    """uint8[B, H, W, 3] RGB and a phrase -> float32[B, size]: where 32 learned things are in the picture
    (spatial softmax, Levine et al. 2016), and a coarse map of the rest. The phrase scales and shifts the
    last two layers' channels (FiLM, Perez et al. 2018), so that the instruction says what to look for."""

    KEYPOINTS = 32
    COARSE = 64
    size = 2 * KEYPOINTS + COARSE
    grid: torch.Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        rows, columns = -(-height // 8), -(-width // 8)
        # No norms (they cost a third of the time, and four layers train without); one wide first layer:
        # three channels at full resolution would cost more than all the rest.
        self.conv1 = nn.Conv2d(3, 48, 8, stride=4, padding=2)
        self.conv2 = nn.Conv2d(48, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.film = nn.Linear(PHRASE_SIZE, 4 * 64)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.keypoints = nn.Conv2d(64, self.KEYPOINTS, 1)
        self.squeeze = nn.Conv2d(64, 8, 1)
        self.coarse = nn.Linear(8 * rows * columns, self.COARSE)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij"
        )
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], 1))

    def forward(self, image: torch.Tensor, phrase: torch.Tensor) -> torch.Tensor:
        # Floats first: TensorRT casts bytes but can't transpose them.
        x = image.float().permute(0, 3, 1, 2) * (1.0 / 64.0) - 2.0
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        scale3, shift3, scale4, shift4 = self.film(phrase)[:, :, None, None].chunk(4, 1)
        x = x + F.relu(self.conv3(x) * (1.0 + scale3) + shift3)
        x = x + F.relu(self.conv4(x) * (1.0 + scale4) + shift4)
        attention = self.keypoints(x).flatten(2).softmax(2)
        points = torch.matmul(attention, self.grid)
        coarse = F.relu(self.coarse(F.relu(self.squeeze(x)).flatten(1)))
        return torch.cat([points.flatten(1), coarse], 1)


class Trunk(nn.Module):
    """`forward(image of each camera..., state float32[B, S], tokens int64[B, L])` -> float32[B, features].

    The last S features are the normalised state itself, unmixed: the head works relative to it.
    """

    state_mean: torch.Tensor
    state_std: torch.Tensor

    def __init__(
        self,
        *,
        cameras: tuple[str, ...],
        height: int,
        width: int,
        state_size: int,
        vocabulary_size: int,
        features: int,
    ) -> None:
        super().__init__()
        self.camera_names = cameras
        self.register_buffer("state_mean", torch.zeros(state_size))
        self.register_buffer("state_std", torch.ones(state_size))
        self.instruction = InstructionEncoder(vocabulary_size)
        self.cameras = nn.ModuleList(CameraEncoder(height, width) for _ in cameras)
        mixed = CameraEncoder.size * len(cameras) + state_size + PHRASE_SIZE
        self.mix = nn.Sequential(nn.Linear(mixed, 256), nn.ReLU())
        self.out = nn.Linear(256, features - state_size)
        self.norm = nn.LayerNorm(features - state_size)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *images, state, tokens = inputs
        phrase = self.instruction(tokens)
        seen = [encoder(image, phrase) for encoder, image in zip(self.cameras, images, strict=True)]
        normal = (state - self.state_mean) / self.state_std
        mixed = self.mix(torch.cat([*seen, normal, phrase], 1))
        return torch.cat([self.norm(self.out(mixed)), normal], 1)
