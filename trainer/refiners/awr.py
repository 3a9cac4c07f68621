"""Advantage-weighted imitation: chunks that led to more than was to be expected are imitated more.

Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177): a value V(s) is regressed on the returns
R(s, a) of all episodes so far, and the flow net imitates each chunk with weight exp((R - V) / beta), at most
`most_weight`. V of an episode is a member's that has not seen it: one that has knows how it ended, and
finds no advantage in anything. Demonstrations have weight 1 and no return. With `least_advantage` 0 chunks
that led to less than was to be expected are left out: a flow net that imitates failures, however little,
learns them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from contracts import config
from trainer.interfaces import Update
from trainer.policies.flow import FlowHead
from trainer.policies.noise import disturb
from trainer.refiners.critics import Critics, Rewarding
from trainer.refiners.episodic import MOST, Episodic, EpisodicOptions, Ground, check_options
from trainer.refiners.experience import Trajectory, noise_scales, outcomes
from trainer.refiners.head import HeadTrainer, restore_state, state_of
from trainer.refiners.placement import ALONE, Placement

_RANGES = {
    **dict.fromkeys(("demonstration_share", "average_decay"), (0.0, 1.0)),
    **dict.fromkeys(("batch", "hidden"), (1.0, math.inf)),
    **dict.fromkeys(("steps", "value_steps"), (0.0, math.inf)),
    **dict.fromkeys(("outcome", "shaping", "learning_rate", "value_rate"), (0.0, MOST)),
    "beta": (1e-6, MOST),
    "most_weight": (1e-6, MOST),
    "least_advantage": (-math.inf, MOST),
    "folds": (2.0, math.inf),
}


class AwrOptions(EpisodicOptions, frozen=True):
    """`beta`: the temperature, in standard deviations of the advantages of a batch. `outcome`, `discount`
    (per action) as in `dsrl`; `shaping` weighs what the reward model's process rose by over the chunk itself,
    which is added to its return: as a potential, V would take it off again. `value_steps` of V before the
    `steps` of the flow net. V has `folds` members, each of which leaves out one episode in so many. The
    others are those of `bestofn`."""

    beta: float = 1.0
    most_weight: float = 5.0
    least_advantage: float = 0.0
    outcome: float = 1.0
    shaping: float = 0.5
    steps: int = 200
    value_steps: int = 200
    batch: int = 128
    demonstration_share: float = 0.25
    learning_rate: float = 3e-4
    value_rate: float = 1e-3
    folds: int = 4
    hidden: int = 128
    average_decay: float = 0.98


class Awr(Episodic[Trajectory]):
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
        o = config.convert(dict(options), AwrOptions, "refiner options")
        check_options(o, _RANGES)
        ground = Ground(package, demonstrations, o, seed, place=place)
        learner = AwrLearner(ground.policy.head, ground.demonstrations, o, seed, place)
        super().__init__(ground, ground.trajectory, learner, seed)


class AwrLearner:
    """The method itself, on arrays. `own`: all labelled episodes so far, `demonstrations` for good."""

    def __init__(
        self,
        head: FlowHead,
        demonstrations: list[Trajectory],
        options: AwrOptions,
        seed: int,
        place: Placement = ALONE,
    ) -> None:
        o = self.options = options
        self._place = place
        self.trainer = HeadTrainer(head, o.learning_rate, o.learning_rate, o.average_decay, place)
        self.demonstrations = demonstrations
        self.own: list[Trajectory] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.value = Critics(head.config.unmixed, 0, o.hidden, o.folds).to(place.device)
        self._optimiser = torch.optim.Adam(self.value.parameters(), lr=o.value_rate)
        self._rewarding = Rewarding(1, o.discount**o.thin, o.outcome, 0.0)
        self._scales = noise_scales(o.noise, demonstrations, head.config).to(place.device)

    @property
    def released(self) -> FlowHead:
        """The head whose weights `learn` gave last."""
        return self.trainer.average

    def learn(self, fresh: list[Trajectory], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration."""
        o, place = self.options, self._place
        self.own += fresh
        rng, chance = place.chance(seed, iteration)
        returns = [self._rewarding.returns(kept) + o.shaping * kept.gains for kept in self.own]
        # Where no return differs from any other, what V is off by would pass for an advantage.
        differ = bool(returns) and float(np.ptp(np.concatenate(returns))) > 1e-3
        learns = differ or len(self.demonstrations) > 0
        value_loss, imitation, weight = [0.0], [0.0], [0.0]
        for _ in range(o.value_steps if self.own else 0):
            whole, _, targets, fold, _ = self._own_batch(o.batch, returns, rng)
            features, reached = place.rows(whole), place.rows(targets)
            value = self._value(disturb(features, self._scales, chance))
            errors = F.mse_loss(value, reached.expand_as(value), reduction="none")
            seen = (torch.arange(o.folds)[:, None] != fold).float()
            loss = (errors * place.rows(seen, 1)).sum() / place.share(seen.sum()) * len(value)
            place.step(loss, self._optimiser)
            value_loss.append(float(loss.detach()))
        shown = round(o.batch * o.demonstration_share) if differ else o.batch
        shown = shown if self.demonstrations else 0
        for _ in range(o.steps if learns else 0):
            features, chunks, weights = self._weighted(o.batch - shown, returns, rng)
            if shown:
                told = [
                    _pick(self.demonstrations, int(pick), rng)
                    for pick in rng.integers(len(self.demonstrations), size=shown)
                ]
                features = torch.cat(
                    [features, torch.from_numpy(np.stack([f for f, _, _ in told]))]
                )
                chunks = torch.cat([chunks, torch.from_numpy(np.stack([c for _, c, _ in told]))])
                weights = torch.cat([weights, torch.ones(shown)])
            features = disturb(place.rows(features), self._scales, chance)
            losses = self.trainer.head.flow_loss(features, place.rows(chunks), chance)
            total = place.share(weights.sum().clamp(min=1.0))
            loss = (place.rows(weights) * losses).sum() / total
            self.trainer.step(loss)
            imitation.append(float(loss.detach()))
            weight.append(float(weights[: o.batch - shown].mean()) if shown < o.batch else 0.0)
        return Update(
            tensors=self.trainer.published(),
            samples=1,
            metrics={
                "imitation_loss": float(np.mean(imitation[1:] or imitation)),
                "value_loss": float(np.mean(value_loss[1:] or value_loss)),
                "weight": float(np.mean(weight[1:] or weight)),
                **outcomes(self.own, fresh),
                "gradient_steps": float(len(imitation) - 1),
            },
        )

    def _weighted(
        self, count: int, returns: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """So many of the robot's chunks with their weights."""
        o, settings = self.options, self.trainer.head.config
        if not self.own or not count:
            shape = (0, settings.chunk_length, settings.action_size)
            return torch.zeros(0, settings.features), torch.zeros(shape), torch.zeros(0)
        features, chunks, reached, fold, stood = self._own_batch(count, returns, rng)
        with torch.no_grad():
            value = self._value(features.to(self._place.device)).cpu()
            advantage = reached - value[fold, torch.arange(count)]
        weights = torch.exp(advantage / (o.beta * advantage.std(unbiased=False) + 1e-6))
        weights = weights.clamp(max=o.most_weight) * (advantage >= o.least_advantage) * ~stood
        return features, chunks, weights

    def _own_batch(
        self, count: int, returns: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """features [B, F], chunks [B, T, A], returns [B], folds [B] and `stood` [B] of the robot's, every
        episode as likely as any other."""
        picks = rng.integers(len(self.own), size=count)
        rows = [_pick(self.own, int(pick), rng) for pick in picks]
        reached = [returns[pick][at] for pick, (_, _, at) in zip(picks, rows, strict=True)]
        where = [(self.own[pick].stood, at) for pick, (_, _, at) in zip(picks, rows, strict=True)]
        stood = [found is not None and bool(found[at]) for found, at in where]
        return (
            torch.from_numpy(np.stack([f for f, _, _ in rows])),
            torch.from_numpy(np.stack([c for _, c, _ in rows])),
            torch.tensor(reached, dtype=torch.float32),
            torch.from_numpy(picks % len(self.value.members)),
            torch.tensor(stood),
        )

    def _value(self, features: torch.Tensor) -> torch.Tensor:
        """V(s) of every member [K, B]."""
        values: torch.Tensor = self.value(features, features[:, :0])
        return values

    def state(self) -> dict[str, np.ndarray]:
        return self.trainer.state() | state_of({"value": self.value}, self._optimiser)

    def restore(self, tensors: Mapping[str, np.ndarray], what: str) -> None:
        self.trainer.restore(tensors, what)
        restore_state({"value": self.value}, self._optimiser, tensors, what)


def _pick(
    episodes: list[Trajectory], index: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, int]:
    """Features [F] in one of the views, chunk [T, A] and number of a step of that episode."""
    kept = episodes[index]
    at = int(rng.integers(len(kept.chunks)))
    return kept.features[int(rng.integers(len(kept.features))), at], kept.chunks[at], at
