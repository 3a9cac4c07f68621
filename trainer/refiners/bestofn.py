"""Refinement by imitating one's own successes and choosing the best of N chunks by what chunks gained.

Each iteration the flow net imitates successful episodes mixed with the demonstrations (filtered behaviour
cloning), and an ensemble of critics learns, from successes and failures alike, how much further the reward
model's process was after a chunk than before it. The critics travel in the head: the robot draws N chunks and
executes the one of the highest pessimistic value. An episode's outcome is one bit; what its chunks gained is
a few dozen numbers, and a miss that is tried again is told from the hit that follows.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from contracts import config
from contracts.errors import ConfigError
from trainer.interfaces import Update
from trainer.policies.chance import Chance
from trainer.policies.flow import Critic, FlowHead
from trainer.policies.noise import disturb
from trainer.refiners.episodic import (
    MOST,
    OPTIONS,
    Episodic,
    EpisodicOptions,
    Ground,
    check_options,
)
from trainer.refiners.experience import Trajectory, noise_scales, outcomes
from trainer.refiners.head import HeadTrainer
from trainer.refiners.placement import ALONE, Placement

_RANGES = {
    **dict.fromkeys(("demonstration_share", "average_decay"), (0.0, 1.0)),
    **dict.fromkeys(("batch", "critic_batch", "samples"), (1.0, math.inf)),
    **dict.fromkeys(("gradient_steps", "critic_after", "late"), (0.0, math.inf)),
    **dict.fromkeys(("learning_rate", "critic_learning_rate", "anchor"), (0.0, MOST)),
    **dict.fromkeys(("least_gain", "most_gain"), (-1.0, 1.0)),
}


class BestOfNOptions(EpisodicOptions, frozen=True):
    """`demonstration_share` of each batch are demonstrations; `samples` above 1 are drawn on the robot once
    `critic_after` labelled episodes were seen. Critics tell gains from `least_gain` (or less) to `most_gain`
    (or more) apart, and see nothing of a chunk's first `late` entries, which have passed when it arrives:
    what was commanded then is the chunk's before, and of a candidate nobody executes it. `discount`: of a
    success, per action left until it, where there is no process. `anchor` weighs how far the flow net strays
    from the package's own on the robot's episodes, good and bad (0: not at all); a head that has seen many
    scenes forgets them without. `average_decay` of the published weights. The others are those of
    `EpisodicOptions`."""

    gradient_steps: int = 200
    batch: int = 128
    learning_rate: float = 3e-4
    demonstration_share: float = 0.25
    average_decay: float = 0.98
    samples: int = 16
    critic_after: int = 20
    critic_batch: int = 192
    critic_learning_rate: float = 3e-4
    least_gain: float = -0.2
    most_gain: float = 0.6
    late: int = 1
    discount: float = 0.97
    anchor: float = 0.0


class BestOfN(Episodic[Trajectory]):
    """See the module."""

    def __init__(
        self,
        *,
        package: Path,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
        place: Placement = ALONE,
    ) -> None:
        o = config.convert(dict(options), BestOfNOptions, "refiner options")
        check_options(o, _RANGES)
        if not o.least_gain < o.most_gain:
            raise ConfigError(
                f"{OPTIONS}least_gain",
                expected=f"below most_gain, which is {o.most_gain:g}",
                found=o.least_gain,
            )
        ground = Ground(package, demonstrations, o, seed, place=place)
        learner = Learner(ground.policy.head, ground.demonstrations, o, place)
        super().__init__(ground, ground.trajectory, learner, seed)


class Learner:
    """The method itself, on arrays. `own`: all labelled episodes so far, `demonstrations` for good."""

    def __init__(
        self,
        head: FlowHead,
        demonstrations: list[Trajectory],
        options: BestOfNOptions,
        place: Placement = ALONE,
    ) -> None:
        o = self.options = options
        self._place = place
        rates = o.learning_rate, o.critic_learning_rate
        self.trainer = HeadTrainer(head, *rates, o.average_decay, place)
        self._base = copy.deepcopy(head).requires_grad_(False) if o.anchor > 0 else None
        self.demonstrations = demonstrations
        self.own: list[Trajectory] = []
        self._scales = noise_scales(o.noise, demonstrations, head.config).to(place.device)
        self._passed = o.late * head.config.action_size

    @property
    def released(self) -> FlowHead:
        """The head whose weights `learn` gave last."""
        return self.trainer.average

    def learn(self, fresh: list[Trajectory], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration."""
        o = self.options
        self.own += fresh
        successes = [kept for kept in self.own if kept.success and len(kept.moving)]
        judging = o.samples > 1 and len(self.own) >= max(1, o.critic_after) and self._differ()
        rng, chance = self._place.chance(seed, iteration)
        from_demonstrations = round(o.batch * o.demonstration_share) if successes else o.batch
        if not self.demonstrations:
            from_demonstrations = 0
        imitation, critic, drift = [0.0], [0.0], [0.0]
        for _ in range(o.gradient_steps if successes or self.demonstrations else 0):
            features, chunks, _ = _batch(
                [
                    (self.demonstrations, from_demonstrations),
                    (successes, o.batch - from_demonstrations),
                ],
                rng,
                self._place,
                imitated=True,
            )
            features = disturb(features, self._scales, chance)
            loss = self.trainer.head.flow_loss(features, chunks, chance).mean()
            imitation.append(float(loss.detach()))
            if self._base is not None and self.own:
                features, chunks, _ = _batch([(self.own, o.batch)], rng, self._place)
                features = disturb(features, self._scales, chance)
                strayed = self.trainer.head.drift(self._base, features, chunks, chance).mean()
                drift.append(float(strayed.detach()))
                loss = loss + o.anchor * strayed
            if judging:
                judged = self._critic_loss(rng, chance)
                critic.append(float(judged.detach()))
                loss = loss + judged
            self.trainer.step(loss)
        self._blind()
        return Update(
            tensors=self.trainer.published(),
            samples=o.samples if judging else 1,
            metrics={
                "imitation_loss": float(np.mean(imitation[1:] or imitation)),
                "critic_loss": float(np.mean(critic[1:] or critic)),
                "drift": float(np.mean(drift[1:] or drift)),
                **outcomes(self.own, fresh),
                "gradient_steps": float(len(imitation) - 1),
            },
        )

    def state(self) -> dict[str, np.ndarray]:
        return self.trainer.state()

    def restore(self, tensors: Mapping[str, np.ndarray], what: str) -> None:
        self.trainer.restore(tensors, what)

    def _blind(self) -> None:
        """Critics, which saw 0 there, are told nothing of the robot's first `late` entries, either."""
        with torch.no_grad():
            for head in (self.trainer.head, self.trainer.average):
                for critic in head.critics:
                    assert isinstance(critic, Critic)
                    critic.chunk_in.weight[:, : self._passed] = 0.0

    def _differ(self) -> bool:
        """Whether chunks can be told apart at all: not by a reward that says the same of everything."""
        gains = np.concatenate([kept.gains for kept in self.own])
        return float(np.ptp(gains)) > 1e-3

    def _critic_loss(self, rng: np.random.Generator, chance: Chance) -> torch.Tensor:
        """Cross-entropy against the gain as a share of the range that is told apart; every critic has its
        own share of the batch left out, so that they disagree where data are few."""
        o = self.options
        features, chunks, gains = _batch([(self.own, o.critic_batch)], rng, self._place)
        target = ((gains - o.least_gain) / (o.most_gain - o.least_gain)).clamp(0.0, 1.0)
        head = self.trainer.head
        features = disturb(features, self._scales, chance)
        judged = head.normalise(features, chunks)
        judged[:, : self._passed] = 0.0
        logits = head.critic_logits(features, judged)
        shape = len(logits), o.critic_batch
        whole = torch.from_numpy((rng.random(shape) < 0.7).astype(np.float32))
        kept = self._place.rows(whole, 1)
        losses = F.binary_cross_entropy_with_logits(
            logits, target.expand_as(logits), reduction="none"
        )
        return (losses * kept).sum() / self._place.share(whole.sum()) * len(logits)


def _batch(
    sources: list[tuple[list[Trajectory], int]],
    rng: np.random.Generator,
    place: Placement,
    *,
    imitated: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """So many steps from each list of episodes, every episode as likely as any other: features [B, F],
    chunks [B, T, A] and gains [B], or this process's rows of them. `imitated`: none in which the arm only
    waited."""
    features, chunks, gains = [], [], []
    for episodes, count in sources:
        for pick in rng.integers(len(episodes), size=count) if episodes else ():
            kept = episodes[pick]
            steps = kept.moving if imitated else range(len(kept.chunks))
            at = int(steps[rng.integers(len(steps))])
            features.append(kept.features[int(rng.integers(len(kept.features))), at])
            chunks.append(kept.chunks[at])
            gains.append(float(kept.gains[at]))
    return (
        place.rows(torch.from_numpy(np.stack(features))),
        place.rows(torch.from_numpy(np.stack(chunks))),
        place.rows(torch.tensor(gains, dtype=torch.float32)),
    )
