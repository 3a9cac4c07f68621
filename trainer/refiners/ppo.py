"""Proximal policy optimisation of the flow net, by what exploration tried around its chunks.

PPO (Schulman et al. 2017, arXiv 1707.06347) with generalised advantage estimation (GAE, Schulman et al. 2016,
arXiv 1506.02438) on action chunks, as Large Reward Models (arXiv 2603.16065) refine an imitated policy. Their
three rewards, held between two scorings: `shaping` (process, as a potential), `completion`, `contrastive`.

The likelihood: the noise w that a flow starts from is drawn without regard to the weights: part of the state.
The robot adds a constant of its own to each chunk, normal with known sigma (`policy.explore_deg`), so the
mean a of what was executed is normal: pi_theta(a | s, w) = N(m_theta(s, w), sigma^2), m_theta that mean of
the flow's own chunk. Both are drawn again from seeds. What isn't explored is learned as far as it goes with
the rest; `anchor` holds it to the base policy. Of older weights' episodes that mean is in the log; they
weigh pi_theta_old(a) / pi_behaviour(a), at most 1 (Hilton et al. 2022, arXiv 2110.00641).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from contracts import config
from contracts.errors import ConfigError
from trainer.interfaces import Update
from trainer.policies.flow import FlowHead
from trainer.refiners.critics import Critics
from trainer.refiners.episodic import Episodic, EpisodicOptions, Ground, check_options
from trainer.refiners.experience import Trajectory
from trainer.refiners.head import HeadTrainer, restore_state, state_of
from trainer.refiners.placement import ALONE, Placement
from trainer.refiners.rollout import Rollout, rollout

_RANGES = {
    **dict.fromkeys(("discount", "gae_lambda", "clip"), (0.0, 1.0)),
    **dict.fromkeys(("epochs", "batch", "hidden"), (1.0, math.inf)),
    **dict.fromkeys(("stale", "anchor", "learning_rate", "value_rate"), (0.0, math.inf)),
    **dict.fromkeys(("kl", "least_spread", "unaccounted"), (1e-6, math.inf)),
}


class PpoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rewards: `outcome` at the end of a success, `shaping` times the process as a potential, `completion`
    and `contrastive` times what the reward model last said of them, once a chunk. `discount` per action,
    `gae_lambda` per chunk. `clip` of the ratio; at most `epochs` over the chunks in batches of `batch`, until
    a batch's mean KL divergence from the weights before the update is above `kl`. Advantages are divided by
    their standard deviation, or by `least_spread` where that is more: noise is not blown up to a signal.
    `anchor` weighs how far the normalised chunks are from the base policy's. Left out: chunks of weights over
    `stale` releases old, or asked of the gate over `unaccounted` sigma from what the draws say."""

    outcome: float = 1.0
    shaping: float = 0.5
    completion: float = 0.0
    contrastive: float = 0.0
    discount: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    kl: float = 0.05
    epochs: int = 10
    batch: int = 32
    learning_rate: float = 1e-5
    value_rate: float = 1e-3
    least_spread: float = 0.05
    anchor: float = 0.3
    stale: int = 2
    unaccounted: float = 0.3
    hidden: int = 128
    threads: int = 1


class Ppo(Episodic[Rollout]):
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
        o = config.convert(dict(options), PpoOptions, "refiner options")
        check_options(o, _RANGES)
        # No demonstrations: what was imitated from them is what `anchor` holds to.
        ground = Ground(package, (), EpisodicOptions(threads=o.threads), seed, place=place)
        learner, trunk = PpoLearner(ground.policy.head, o, seed, place), ground.trunk
        super().__init__(ground, lambda one, _: rollout(trunk, one, o.discount), learner, seed)


class Chunks(NamedTuple):
    """N chunks. `features` [N, F], `noise` [N, T*A], `executed` [N, T] as in `Rollout`; `action` [N, A]: a;
    `precision` [N, A]: 1 / sigma, 0 where nothing is explored; `mean` [N, A]: m of theta_old; `base`
    [N, T*A]: the base policy's normalised chunk; `weight`, `advantage`, `value` (V's target), `apart`
    (sigmas between what was asked of the gate and what the draws say) [N]. Where `weight` is 0, the chunk
    being left out, `precision` is 0 too and `action` is `mean`."""

    features: torch.Tensor
    noise: torch.Tensor
    executed: torch.Tensor
    action: torch.Tensor
    precision: torch.Tensor
    mean: torch.Tensor
    base: torch.Tensor
    weight: torch.Tensor
    advantage: torch.Tensor
    value: torch.Tensor
    apart: torch.Tensor


class PpoLearner:
    """The method itself, on arrays. Keeps no episode: each update is of what came since the last."""

    def __init__(
        self, head: FlowHead, options: PpoOptions, seed: int, place: Placement = ALONE
    ) -> None:
        o = self.options = options
        self._place = place
        self.own: list[Trajectory] = []
        # No average: the ratio is to the weights that acted, so those are published.
        self.trainer = HeadTrainer(head, o.learning_rate, o.learning_rate, 0.0, place)
        self._base = copy.deepcopy(head).requires_grad_(False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.value = Critics(head.config.unmixed, 0, o.hidden, 1).to(place.device)
        for parameter in list(self.value.parameters())[-2:]:
            nn.init.zeros_(parameter)  # an untrained V is 0 and finds no advantage in nothing
        self._optimiser = torch.optim.Adam(self.value.parameters(), lr=o.value_rate)
        self._release = 0  # theta_old's number, or less if some were passed over; 0: the package's

    @property
    def released(self) -> FlowHead:
        """The head whose weights `learn` gave last."""
        return self.trainer.average

    def learn(self, fresh: list[Rollout], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration. Raises `ConfigError` where
        none of them was explored."""
        o = self.options
        acted = [kept for kept in fresh if len(kept.noise)]
        if not acted:
            return Update(self.trainer.published(), 1, {"chunks": 0.0, "gradient_steps": 0.0})
        if not any(kept.sigma.any() for kept in acted):
            raise ConfigError(
                "ppo learns from what exploration tried",
                expected="episodes that tell policy.seed and an explore_deg above 0",
                found=f"none in {len(acted)}",
                remedy="start robot-run of this version with policy.explore_deg=3",
            )
        newest = max(kept.version for kept in acted)  # a failed update's number is passed over, too
        self._release = max(self._release, newest) if self._release else 0
        rng = np.random.default_rng([seed, iteration])
        chunks = self._chunks(acted)
        count, known = len(chunks.weight), float((chunks.weight > 0).sum())
        value_loss: list[float] = []
        steps, moves = 0, known > 0
        for _ in range(o.epochs):
            order = torch.from_numpy(rng.permutation(count))
            for at in range(0, count, o.batch):
                whole = Chunks(*(column[order[at : at + o.batch]] for column in chunks))
                batch = self._place.batch(whole)
                error = F.mse_loss(self._value(batch.features), batch.value)
                self._place.step(error, self._optimiser)
                value_loss.append(float(error.detach()))
                if not moves:
                    continue
                loss, found = self._loss(batch, whole)
                moves = self._place.mean(found["kl"]) <= o.kl
                if moves:
                    self.trainer.step(loss)
                    steps += 1
        if steps:  # above all that robots have
            self._release = max(self._release, newest) + 1
        with torch.no_grad():
            _, figures = self._loss(chunks)
        metrics = {
            **figures,
            "value_loss": float(np.mean(value_loss)),
            "chunks": float(count),
            "left_out": 1.0 - known / count,
            "weight": float(chunks.weight.sum()) / max(known, 1.0),
            "apart": float(chunks.apart.median()),
            "fresh_success": float(np.mean([float(kept.success) for kept in acted])),
            "gradient_steps": float(steps),
        }
        return Update(self.trainer.published(), 1, metrics)

    def gae(self, kept: Rollout) -> tuple[np.ndarray, np.ndarray]:
        """A of every chunk of an episode (GAE, equation 16) and what V is regressed on, [M] each."""
        o = self.options
        with torch.no_grad():
            value = self._value(self._place.tensor(kept.features)).cpu().numpy().copy()
        along, gamma = kept.along.copy(), o.discount**kept.actions
        if kept.ended:  # nothing comes after; a potential that ends at 0 changes no policy's rank
            value[-1] = along[-1] = 0.0
        reward = o.shaping * (gamma * along[1:] - along[:-1])
        reward += kept.held @ np.array([o.completion, o.contrastive], np.float32)
        reward[-1] += o.outcome * (kept.success and kept.ended)
        delta = reward + gamma * value[1:] - value[:-1]
        advantage, following = np.zeros_like(delta), 0.0
        for at in range(len(delta) - 1, -1, -1):
            following = delta[at] + gamma[at] * o.gae_lambda * following
            advantage[at] = following
        return advantage, advantage + value[:-1]

    def mean(
        self, features: torch.Tensor, noise: torch.Tensor, executed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """m_theta(s, w) [N, A] in arm units, and the normalised chunk that it is the mean of [N, T*A]."""
        head = self.trainer.head
        flat = head.integrate(features, noise)
        chunk = head.denormalise(features, flat)
        return (executed[:, :, None] * chunk).sum(1), flat

    def _chunks(self, episodes: list[Rollout]) -> Chunks:
        """What the update is made from: everything that theta_old and the base say of it."""
        o, tensor = self.options, self._place.tensor

        def column(name: str) -> torch.Tensor:
            found = [np.broadcast_to(getattr(k, name), k.offset.shape) for k in episodes]
            return tensor(np.concatenate(found))

        parts = zip(*((k.features[:-1], k.noise, k.executed) for k in episodes), strict=True)
        features, noise, executed = (tensor(np.concatenate(part)) for part in parts)
        offset, sigma, asked = column("offset"), column("sigma"), column("asked")
        # Above theta_old's is only, where nothing was learned yet, a release that another trainer made.
        ages = [self._release - k.version if k.version <= self._release else 1 for k in episodes]
        age = tensor(np.repeat(ages, [len(k.noise) for k in episodes]))
        precision = torch.where(sigma > 0, 1.0 / sigma, 0.0)
        with torch.no_grad():
            mean, _ = self.mean(features, noise, executed)
            base = self._base.integrate(features, noise)
        # How far off was the mean of the weights that acted; theta_old's by what pictures lose on their way.
        strayed = torch.where(sigma > 0, asked - offset - mean, 0.0)
        sane = torch.isfinite(strayed).all(1)
        strayed = torch.nan_to_num(strayed)
        explored = (sigma > 0).sum(1)
        apart = (((precision * strayed) ** 2).sum(1) / explored.clamp(min=1)).sqrt()
        usable = sane & (explored > 0) & (age <= o.stale) & (apart <= o.unaccounted)
        tried = offset + torch.where(age[:, None] > 0, strayed, 0.0)
        behaviour, proximal = _log_density(offset, precision), _log_density(tried, precision)
        weight = torch.where(usable, (proximal - behaviour).exp().clamp(max=1.0), 0.0)
        usable = weight > 0
        # Weight 0 alone leaves none out: its ratio may be infinite.
        tried, precision = (torch.where(usable[:, None], x, 0.0) for x in (tried, precision))
        both = [self.gae(kept) for kept in episodes]
        advantage, value = (
            tensor(np.concatenate(each)).float() for each in zip(*both, strict=True)
        )
        if usable.any():
            spread = float(advantage[usable].std(unbiased=False))
            advantage = (advantage - advantage[usable].mean()) / max(spread, o.least_spread)
        known = (features, noise, executed, mean + tried, precision, mean, base)
        return Chunks(*known, weight, advantage, value, apart)

    def _loss(
        self, c: Chunks, whole: Chunks | None = None
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """-L^CLIP (PPO, equation 7) with what `anchor` adds, and figures; `whole`: what `c` is a share of."""
        o, whole = self.options, whole or c
        share = len(c.weight) / len(whole.weight)
        mean, flat = self.mean(c.features, c.noise, c.executed)
        new, old = (_log_density(c.action - m, c.precision) for m in (mean, c.mean))
        ratio = (new - old).exp()
        clipped = ratio.clamp(1.0 - o.clip, 1.0 + o.clip)
        surrogate = torch.minimum(ratio * c.advantage, clipped * c.advantage)
        gained = (c.weight * surrogate).sum() / (share * whole.weight.sum().clamp(min=1.0))
        drift = F.mse_loss(flat, c.base)
        # Of two normal distributions with the same sigma; exact, and 0 of a chunk that is left out.
        count = share * (whole.weight > 0).sum().clamp(min=1)
        kl = -_log_density(mean - c.mean, c.precision).sum() / count
        off = (ratio != clipped).sum() / count
        figures = {"loss": -gained, "kl": kl, "clipped": off, "drift": drift}
        return o.anchor * drift - gained, {n: float(v.detach()) for n, v in figures.items()}

    def _value(self, features: torch.Tensor) -> torch.Tensor:
        """V(s) [N]."""
        values: torch.Tensor = self.value(features, features[:, :0])[0]
        return values

    def state(self) -> dict[str, np.ndarray]:
        release = {"release": np.array([self._release], np.int64)}
        value = state_of({"value": self.value}, self._optimiser)
        return self.trainer.state() | value | release

    def restore(self, tensors: Mapping[str, np.ndarray], what: str) -> None:
        self.trainer.restore(tensors, what)
        restore_state({"value": self.value}, self._optimiser, tensors, what)
        self._release = int(tensors["release"][0])


def _log_density(away: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
    """log N(m + away; m, sigma^2) [N] but for its constant."""
    return -0.5 * ((precision * away) ** 2).sum(1)
