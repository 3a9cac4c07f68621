"""The policy's trunk: cameras, joint state and instruction to one feature vector. Frozen when refined.

Small enough for one CPU core: about 35 MMAC a 128x96 picture. Normalisation is inside.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WORD_SIZE = 32
PHRASE_SIZE = 96
CELL_SIZE = 32
ASKED = 4
CELL_PX = 4
"""Pixels from one cell of a camera's finer map to the next."""
PLACE_SIZE = 6
PLACE_SCALE_M = 0.06
"""A place is told in units of so many metres."""


class InstructionEncoder(nn.Module):
    """Word ids int64[B, L] -> float32[B, PHRASE_SIZE]. Two convolutions over three words tie a colour to its
    noun and both to their preposition ("on the red cube"); the maximum over positions makes it
    independent of where it stands."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, WORD_SIZE)
        self.near = nn.Conv1d(WORD_SIZE, 96, 3, padding=1)
        self.wide = nn.Conv1d(96, 96, 3, padding=1)
        self.out = nn.Linear(96, PHRASE_SIZE)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        known = (tokens > 0).unsqueeze(1).float()
        words = self.words(tokens).transpose(1, 2) * known
        x = F.relu(self.near(words)) * known
        x = (x + F.relu(self.wide(x))) * known
        return F.relu(self.out(x.amax(2)))


class CameraEncoder(nn.Module):
    """uint8[B, H, W, 3] RGB -> `look`: what the picture holds, whatever is asked; then `ask`: where the
    things of an instruction are and how they look. Points are the mean cell of a softmax (Levine et al. 2016)
    over a map of one cell each 4 px; a thing may also be nowhere. The first two asked are learned as the
    instruction's thing and its target."""

    KEYPOINTS = 16
    COARSE = 64
    POINTS = 3 * ASKED
    FOUND = 2 * CELL_SIZE
    size = 2 * KEYPOINTS + COARSE + FOUND + POINTS
    grid: torch.Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        rows, columns = -(-height // 8), -(-width // 8)
        # No norms (they cost a third of the time, and four layers train without); one wide first layer:
        # three channels at full resolution would cost more than all the rest.
        self.conv1 = nn.Conv2d(3, 48, 8, stride=CELL_PX, padding=2)
        self.conv2 = nn.Conv2d(48, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1)
        self.conv4 = nn.Conv2d(64, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, CELL_SIZE, 2, stride=2)
        self.across = nn.Conv2d(48, CELL_SIZE, 1)
        self.mix = nn.Conv2d(CELL_SIZE, CELL_SIZE, 3, padding=1)
        self.keypoints = nn.Conv2d(CELL_SIZE, self.KEYPOINTS, 1)
        self.squeeze = nn.Conv2d(64, 8, 1)
        self.coarse = nn.Linear(8 * rows * columns, self.COARSE)
        self.queries = nn.Sequential(
            nn.Linear(PHRASE_SIZE, 128), nn.ReLU(), nn.Linear(128, ASKED * CELL_SIZE)
        )
        self.nowhere = nn.Linear(PHRASE_SIZE, ASKED)
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, 2 * rows), torch.linspace(-1, 1, 2 * columns), indexing="ij"
        )
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], 1))

    def forward(self, image: torch.Tensor, phrase: torch.Tensor) -> torch.Tensor:
        seen, cells = self.look(image)
        return torch.cat([seen, self.ask(cells, phrase)[0]], 1)

    def look(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is seen whatever is asked [B, 2*KEYPOINTS + COARSE], and cells to ask [B, CELL_SIZE, R*C]."""
        # Floats first: TensorRT casts bytes but can't transpose them.
        x = image.float().permute(0, 3, 1, 2) * (1.0 / 64.0) - 2.0
        fine = F.relu(self.conv1(x))
        x = F.relu(self.conv2(fine))
        x = x + F.relu(self.conv3(x))
        x = x + F.relu(self.conv4(x))
        fine = F.relu(self.up(x) + self.across(fine))
        fine = fine + F.relu(self.mix(fine))
        attention = self.keypoints(fine).flatten(2).float().softmax(2)
        keypoints = torch.matmul(attention, self.grid).flatten(1)
        coarse = F.relu(self.coarse(F.relu(self.squeeze(x)).flatten(1)))
        return torch.cat([keypoints, coarse.float()], 1), fine.flatten(2).float()

    def ask(self, cells: torch.Tensor, phrase: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answers [N, FOUND + POINTS] and scores [N, ASKED, R*C + 1] for N = B*G phrases (G of each picture,
        one after another). An answer is what the cells of thing and target hold, then of each thing asked
        for its column and row in [-1, 1] and whether it is there at all."""
        pictures, rows = cells.shape[0], phrase.shape[0]
        queries = self.queries(phrase).reshape(pictures, -1, CELL_SIZE)
        matches = torch.matmul(queries, cells) * CELL_SIZE**-0.5
        matches = matches.reshape(rows, ASKED, cells.shape[2])
        scores = torch.cat([matches, self.nowhere(phrase).unsqueeze(2)], 2)
        attention = scores.softmax(2)[:, :, :-1]
        places = torch.matmul(attention, self.grid)
        looks = attention[:, :2].reshape(pictures, -1, cells.shape[2])
        found = torch.matmul(looks, cells.transpose(1, 2)).reshape(rows, self.FOUND)
        return torch.cat([found, places.flatten(1), attention.sum(2)], 1), scores


class Trunk(nn.Module):
    """`forward(image of each camera..., state float32[B, S], tokens int64[B, L])` -> float32[B, features].

    The last features are unmixed, for the head to be exact with: what the trunk makes of it all (`tell`),
    where the things asked for are in each picture, and last of all the S values of the normalised state,
    which the head works relative to.
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
        self.mix = nn.Sequential(nn.Linear(mixed, 512), nn.ReLU(), nn.Linear(512, 384), nn.ReLU())
        self.tell = nn.Sequential(
            nn.Linear(384, 128), nn.ReLU(), nn.Linear(128, PLACE_SIZE + state_size)
        )
        free = features - unmixed(len(cameras), state_size)
        if free < 1:
            raise ValueError(f"{features} features are too few for {len(cameras)} cameras")
        self.out = nn.Linear(384, free)
        self.norm = nn.LayerNorm(free)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        *images, state, tokens = inputs
        phrase = self.instruction(tokens)
        seen = [encoder(image, phrase) for encoder, image in zip(self.cameras, images, strict=True)]
        return self.combine(seen, state, phrase)

    def combine(
        self, seen: list[torch.Tensor], state: torch.Tensor, phrase: torch.Tensor
    ) -> torch.Tensor:
        """What each camera sees [B, CameraEncoder.size], state [B, S] and phrase -> [B, features]."""
        normal = (state - self.state_mean) / self.state_std
        mixed = self.mix(torch.cat([*seen, normal, phrase], 1))
        points = [one[:, -CameraEncoder.POINTS :] for one in seen]
        return torch.cat([self.norm(self.out(mixed)), self.tell(mixed), *points, normal], 1)

    def told(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of features [B, F]: where thing and target are, as seen from the fingertips [B, PLACE_SIZE], in
        units of PLACE_SCALE_M, and how far the joints are from the next keyframe [B, S], normalised. As good
        as what they were taught: nothing, in a trunk that never saw such labels."""
        size = self.state_mean.shape[0]
        begin = features.shape[1] - unmixed(len(self.cameras), size)
        place = features[:, begin : begin + PLACE_SIZE]
        return place, features[:, begin + PLACE_SIZE : begin + PLACE_SIZE + size]


def unmixed(cameras: int, state_size: int) -> int:
    """How many of a trunk's last features are exact, see `Trunk`."""
    return PLACE_SIZE + state_size + CameraEncoder.POINTS * cameras + state_size
