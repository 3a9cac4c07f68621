"""What off-policy refiners judge chunks with: transitions between them and ensembles of critics.

Owns no method: who draws the chunks and what is climbed is the refiner's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from trainer.refiners.experience import Trajectory


class Batch(NamedTuple):
    """`features`, `following` [B, F]: before a chunk and after what was executed of it; `chunks` [B, T, A];
    `rewards`, `discounts` [B]; a discount is 0 where the episode ended."""

    features: torch.Tensor
    chunks: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    following: torch.Tensor


class Rewarding(NamedTuple):
    """`stride`: kept steps from one chunk to the next; `discount` over them. `outcome`: the reward of a
    success, at its end; `shaping` weighs how far along the task is as a potential (Ng et al. 1999), which
    leaves the best policy what it was."""

    stride: int
    discount: float
    outcome: float
    shaping: float

    @staticmethod
    def of_chunks(
        execute: int, thin: int, discount: float, outcome: float, shaping: float
    ) -> Rewarding:
        """From one chunk to the next where `execute` of its actions are executed, every `thin`-th step was
        kept, which divides it (`Ground` asks for that), and `discount` is per action."""
        stride = execute // thin
        return Rewarding(stride, discount ** (stride * thin), outcome, shaping)

    def of(self, kept: Trajectory, at: int) -> tuple[float, float, int]:
        """Reward and discount of the chunk at step `at`, and the step that follows."""
        after = at + self.stride
        if after >= len(kept.chunks):
            end = self.outcome * kept.success - self.shaping * float(kept.along[at])
            return end, 0.0, len(kept.chunks) - 1
        gained = self.discount * float(kept.along[after]) - float(kept.along[at])
        return self.shaping * gained, self.discount, after

    def returns(self, kept: Trajectory) -> np.ndarray:
        """float32[M]: the discounted rewards from each step to the end."""
        found = np.zeros(len(kept.chunks), np.float32)
        for at in range(len(found) - 1, -1, -1):
            reward, discount, after = self.of(kept, at)
            found[at] = reward + discount * found[after] if discount else reward
        return found


class Source(NamedTuple):
    """So `many` chunks of these episodes; `helped`: of those alone that a person showed (in each
    episode there are some)."""

    episodes: list[Trajectory]
    many: int
    helped: bool = False


def draw_batch(sources: list[Source], rewarding: Rewarding, rng: np.random.Generator) -> Batch:
    """Chunks from each source, every episode of it as likely as any other."""
    rows = []
    for episodes, many, helped in sources:
        for pick in rng.integers(len(episodes), size=many) if episodes else ():
            kept = episodes[pick]
            steps = np.flatnonzero(kept.helped) if helped else range(len(kept.chunks))
            at = int(steps[rng.integers(len(steps))])
            features = kept.features[int(rng.integers(len(kept.features)))]
            reward, discount, after = rewarding.of(kept, at)
            rows.append((features[at], kept.chunks[at], reward, discount, features[after]))
    columns = (np.asarray(np.stack(column), np.float32) for column in zip(*rows, strict=True))
    return Batch(*(torch.from_numpy(column) for column in columns))


class Critics(nn.Module):
    """An ensemble: the unmixed ones of features [B, F] and what is judged [B, D] -> values [K, B].

    From all features it would learn the scenes by heart, as `trainer.policies.flow.Critic` would. Layer norm
    keeps values from running away where there are few data (Ball et al. 2023, arXiv 2302.02948).
    """

    def __init__(self, unmixed: int, judged: int, hidden: int, count: int) -> None:
        super().__init__()
        self.unmixed = unmixed
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(unmixed + judged, hidden),
                nn.LayerNorm(hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.LayerNorm(hidden),
                nn.SiLU(),
                nn.Linear(hidden, 1),
            )
            for _ in range(count)
        )

    def forward(self, features: torch.Tensor, judged: torch.Tensor) -> torch.Tensor:
        x = torch.cat([features[:, features.shape[1] - self.unmixed :], judged], 1)
        return torch.stack([member(x).squeeze(1) for member in self.members])


def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move the weights of `slow` by this share towards those of `fast`."""
    with torch.no_grad():
        torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)
