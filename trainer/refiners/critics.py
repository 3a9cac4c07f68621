"""What off-policy refiners judge chunks with: transitions between them and ensembles of critics.

Owns no method: who draws the chunks and what is climbed is the refiner's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from trainer.refiners.experience import Trajectory


class Batch(NamedTuple):
    """`features`, `following` [B, F]: before a chunk and after what was executed of it; `chunks` [B, T, A];
    `rewards`, `discounts`, `returns` [B]: a discount is 0 where the episode ended, a return is what its
    rewards came to from there on."""

    features: torch.Tensor
    chunks: torch.Tensor
    rewards: torch.Tensor
    discounts: torch.Tensor
    following: torch.Tensor
    returns: torch.Tensor


class Rewarding(NamedTuple):
    """`stride`: kept steps from one chunk to the next; `discount` over them. `outcome`: the reward of a
    success, at its end; `shaping` weighs how far along the task is as a potential (Ng et al. 1999), which
    leaves the best policy what it was. `graded`: the outcome is by the episode's score of 1 to 5, as
    RoboReward has it, not by its label."""

    stride: int
    discount: float
    outcome: float
    shaping: float
    graded: bool = False

    @staticmethod
    def of_chunks(
        execute: int,
        thin: int,
        discount: float,
        outcome: float,
        shaping: float,
        graded: bool = False,
    ) -> Rewarding:
        """From one chunk to the next where `execute` of its actions are executed, every `thin`-th step was
        kept, which divides it (`Ground` asks for that), and `discount` is per action."""
        stride = execute // thin
        return Rewarding(stride, discount ** (stride * thin), outcome, shaping, graded)

    def of(self, kept: Trajectory, at: int) -> tuple[float, float, int]:
        """Reward and discount of the chunk at step `at`, and the step that follows."""
        after = at + self.stride
        if after >= len(kept.chunks):
            end = self.outcome * self.reached(kept) - self.shaping * float(kept.along[at])
            return end, 0.0, len(kept.chunks) - 1
        gained = self.discount * float(kept.along[after]) - float(kept.along[at])
        return self.shaping * gained, self.discount, after

    def reached(self, kept: Trajectory) -> float:
        """How well the episode went, in [0, 1]."""
        return float(kept.success if kept.score is None or not self.graded else kept.score[0])

    def returns(self, kept: Trajectory) -> np.ndarray:
        """float32[M]: the discounted rewards from each step to the end."""
        found = np.zeros(len(kept.chunks), np.float32)
        for at in range(len(found) - 1, -1, -1):
            reward, discount, after = self.of(kept, at)
            found[at] = reward + discount * found[after] if discount else reward
        return found

    def targets(self, batch: Batch, following: torch.Tensor, observed: float) -> torch.Tensor:
        """What critics of the chunks of `batch` learn [B]: r + gamma Q(s', a'), of which `following` [B] is
        the Q, and `observed` of it what came of the episode. Of a failure's chunks a handful ends in its
        outcome and all others in an opinion of chunks that nobody executed, which alone drifts up. Where the
        outcome is all there is, no value is outside of what it can be."""
        y = batch.rewards + batch.discounts * following
        y = (1.0 - observed) * y + observed * batch.returns
        return y if self.shaping else y.clamp(0.0, self.outcome)


def executed(execute: int, late: int, actions: int) -> slice:
    """What the robot executes of flattened chunks [B, T*A] of A `actions`: `execute` entries, after `late`
    ones that have passed when a chunk arrives and were the chunk's before."""
    return slice(late * actions, (late + execute) * actions)


class Source:
    """So `many` chunks of these episodes, each as likely as any other; `helped`: of those alone that a person
    showed."""

    def __init__(
        self,
        episodes: Sequence[Trajectory],
        many: int,
        rewarding: Rewarding,
        *,
        helped: bool = False,
    ) -> None:
        self.episodes, self.many, self.helped, self._rewarding = episodes, many, helped, rewarding
        self._returns = [rewarding.returns(kept) for kept in episodes]
        steps = [np.flatnonzero(e.helped) if helped else np.arange(len(e.chunks)) for e in episodes]
        # By chunks and not by episodes: an early state that failures were in as well would be drawn with what
        # became of it in the (short) successes more often than it led to one.
        self._places = [(n, int(at)) for n, taken in enumerate(steps) for at in taken]

    def rows(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray | float, ...]]:
        """As in `Batch`."""
        for pick in rng.integers(len(self._places), size=self.many) if self._places else ():
            index, at = self._places[pick]
            kept = self.episodes[index]
            features = kept.features[int(rng.integers(len(kept.features)))]
            reward, discount, after = self._rewarding.of(kept, at)
            reached = float(self._returns[index][at])
            yield features[at], kept.chunks[at], reward, discount, features[after], reached


def draw_batch(sources: Iterable[Source], rng: np.random.Generator) -> Batch:
    """Chunks from each source."""
    rows = [row for source in sources for row in source.rows(rng)]
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
