"""A residual on a frozen flow policy, learned off-policy with demonstrations and people's help in the buffer.

Residual reinforcement learning (Silver et al. 2018, arXiv 1812.06298; Johannink et al. 2019, arXiv
1812.03201): the robot executes a = a_base(s, w) + bound * rho(s, a_base), where the flow draws a_base from
noise w and rho, in [-1, 1], is all that learns. Off-policy behind a frozen chunk policy, as ResFiT (Ankile et
al. 2025, arXiv 2509.19301), which corrects every step; here one rho corrects a chunk.

RLPD (Ball et al. 2023, arXiv 2302.02948): half of every batch is demonstrations (symmetric sampling), critics
have layer norm and are an ensemble of E of which a random pair Z makes the target, many critic steps to one
of the actor (update ratio), which climbs the mean of all. The actor is deterministic, with target policy
smoothing, a slow copy and delayed steps (TD3, Fujimoto et al. 2018, arXiv 1802.09477): what tries is the
robot's own exploration (`policy.explore_deg`), a constant a chunk as the residual is one. No noise and no
offset need be known again: critics judge what was executed.

A person's interventions are in both buffers (HIL-SERL, Luo et al. 2024, arXiv 2410.21845): what they did is
in the episode like all else, and once more among the demonstrations.

Trust region: the bound, and `anchor` times |rho|^2, without which chance alone in few episodes takes joints
that do not matter to their bounds. Stale data: a transition is as true as ever whatever weights acted, and
targets are made afresh, so every episode keeps its weight (as in `dsrl`).

Needs a package with a residual (`robot-export policy --residual DEGREES`).
"""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from contracts import config
from trainer.interfaces import ScoredEpisode, Update
from trainer.policies.actors import actor_tensors, policy_of_package
from trainer.policies.chance import Chance
from trainer.policies.flow import FlowHead
from trainer.policies.noise import disturb
from trainer.policies.residual import ResidualHead
from trainer.refiners.critics import Batch, Critics, Rewarding, Source, draw_batch, executed, follow
from trainer.refiners.episodic import (
    MOST,
    OPTIONS,
    Episodic,
    EpisodicOptions,
    Ground,
    check_options,
    require_scored,
)
from trainer.refiners.experience import Trajectory, noise_scales, outcomes
from trainer.refiners.head import (
    arrays_of,
    moments,
    parameters_of,
    restore_modules,
    restore_moments,
)
from trainer.refiners.placement import ALONE, Placement

_RANGES = {
    **dict.fromkeys(("demonstration_share", "target_rate", "average_decay"), (0.0, 1.0)),
    **dict.fromkeys(("execute", "actor_every", "batch", "hidden"), (1.0, math.inf)),
    **dict.fromkeys(("ensemble", "subset"), (1.0, math.inf)),
    **dict.fromkeys(("steps", "after", "late"), (0.0, math.inf)),
    **dict.fromkeys(("outcome", "shaping", "learning_rate", "anchor"), (0.0, MOST)),
    **dict.fromkeys(("smoothing", "most_smoothing", "observed"), (0.0, 1.0)),
}


class ResidualOptions(EpisodicOptions, frozen=True):
    """`discount` per action. `steps` of the critics an iteration, one of the actor every `actor_every`.
    `demonstration_share` of a batch are demonstrations and interventions. `ensemble` critics (E), of which
    `subset` (Z) make the target. `smoothing`: standard deviation of the noise on rho in the target, at most
    `most_smoothing`. `anchor` weighs |rho|^2: what a joint must gain to be at its bound (0.1: a tenth of an
    `outcome`). The others are those of `dsrl`."""

    execute: int = 8
    late: int = 1
    observed: float = 0.5
    outcome: float = 1.0
    shaping: float = 0.0
    steps: int = 400
    actor_every: int = 4
    batch: int = 128
    demonstration_share: float = 0.5
    learning_rate: float = 3e-4
    ensemble: int = 10
    subset: int = 2
    smoothing: float = 0.2
    most_smoothing: float = 0.5
    anchor: float = 0.1
    hidden: int = 256
    target_rate: float = 0.005
    average_decay: float = 0.98
    after: int = 20
    demonstration_views: int = 4


class Residual(Episodic[Trajectory]):
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
        o = config.convert(dict(options), ResidualOptions, "refiner options")
        _check(o, demonstrations)
        corrected = functools.partial(policy_of_package, kind=ResidualHead)
        ground = Ground(package, demonstrations, o, seed, corrected, o.execute, o.late, place)
        head, scale = ground.policy.head, ground.trunk.chunk.noise_scale
        assert isinstance(head, ResidualHead)
        learner = ResidualLearner(head, ground.demonstrations, o, seed, scale, place)
        super().__init__(ground, ground.trajectory, learner, seed)
        self._residual, self._degrees = learner, head.degrees

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        """As every refiner's; says in the trainer's log where there is nothing that could be learned from."""
        made, learner = super().update(episodes, iteration), self._residual
        tried = [scored.episode.start.explore_deg for scored in episodes]
        # Only joints in degrees are explored.
        explored = float(np.mean(tried)) / self._degrees if tried and self._degrees else 0.0
        made.metrics["explored"] = explored
        if tried and not (explored or learner.demonstrations or made.metrics["helped"]):
            print(
                "robot-trainer: residual learns from what exploration tried, from demonstrations and from "
                "people's help, and there is none of them: start robot-run with policy.explore_deg at about "
                f"half of the package's bound ({self._degrees:g} degrees), or give demonstrations",
                file=sys.stderr,
                flush=True,
            )
        return made


def _check(o: ResidualOptions, demonstrations: Sequence[Path]) -> None:
    """Raises `ConfigError`."""
    check_options(o, _RANGES)
    if o.steps:
        config.check_ranges(OPTIONS, [("actor_every", o.actor_every, 1, o.steps)])
    require_scored(o.shaping, demonstrations)


class ResidualLearner:
    """The method itself, on arrays. `own`: all labelled episodes so far, `demonstrations` for good;
    `noise_scale`: of the noise that the robot draws the base's chunks from."""

    def __init__(
        self,
        head: FlowHead,
        demonstrations: list[Trajectory],
        options: ResidualOptions,
        seed: int,
        noise_scale: float = 1.0,
        place: Placement = ALONE,
    ) -> None:
        assert isinstance(head, ResidualHead)
        o = self.options = options
        self._place = place
        self.head = head.to(place.device).requires_grad_(False)
        self.actor = head.residual.requires_grad_(True)
        self._average = copy.deepcopy(head).requires_grad_(False)
        self._slow = self._average.residual
        self.demonstrations = demonstrations
        self.own: list[Trajectory] = []
        self._noise_scale = noise_scale
        self._executed = executed(o.execute, o.late, head.config.action_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judged = o.execute * head.config.action_size
            self.q = Critics(head.config.unmixed, judged, o.hidden, o.ensemble).to(place.device)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self._modules: dict[str, nn.Module] = {"actor": self.actor, "q": self.q}
        self._modules |= {"slow": self._slow, "target": self.q_target}
        learning = {"actor": self.actor, "q": self.q}
        self._parameters = parameters_of(learning)
        self._of_actor, self._of_q = (
            torch.optim.Adam(one.parameters(), lr=o.learning_rate) for one in learning.values()
        )
        self._rewarding = Rewarding.of_chunks(o.execute, o.thin, o.discount, o.outcome, o.shaping)
        self._scales = noise_scales(o.noise, demonstrations, head.config).to(place.device)

    @property
    def released(self) -> FlowHead:
        """The head whose weights `learn` gave last."""
        return self._average

    def learn(self, fresh: list[Trajectory], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration."""
        o = self.options
        self.own += fresh
        rng, chance = self._place.chance(seed, iteration)
        helped = [kept for kept in self.own if kept.helped.any()]
        shown = self.demonstrations + helped
        count = round(o.batch * o.demonstration_share) if shown else 0
        mine = Source(self.own, o.batch - count, self._rewarding)
        sources = [Source(shown, count, self._rewarding, helped=True), mine]
        steps = o.steps if len(self.own) >= max(1, o.after) else 0
        found: list[dict[str, float]] = []
        for step in range(steps):
            batch = self._place.batch(draw_batch(sources, rng))
            # For what learns alone: with the state's noise on chunks no critic could tell degrees apart.
            seen = disturb(batch.features, self._scales, chance)
            figures = self._critic_step(batch, seen, rng, chance)
            if (step + 1) % o.actor_every == 0:
                figures |= self._actor_step(batch.features, seen, chance)
            found.append(figures)
        names = {name: None for figures in found for name in figures}
        return Update(
            tensors=actor_tensors(self._average),
            samples=1,
            metrics={
                **{n: float(np.mean([f[n] for f in found if n in f])) for n in names},
                **outcomes(self.own, fresh),
                "helped": float(len(helped)),
                "gradient_steps": float(steps),
            },
        )

    def _critic_step(
        self, batch: Batch, seen: torch.Tensor, rng: np.random.Generator, chance: Chance
    ) -> dict[str, float]:
        """L(theta_i) of every critic (RLPD, algorithm 1): y = r + gamma min over Z of Q_target(s', a')."""
        o, head = self.options, self.head
        with torch.no_grad():
            base = self.base(batch.following, chance)
            rho = self._slow(batch.following, base)
            smoothing = o.smoothing * chance.normal(rho.shape)
            rho = rho + smoothing.clamp(-o.most_smoothing, o.most_smoothing)
            following = self._judged(batch.following, base, rho.clamp(-1.0, 1.0))
            z = rng.choice(o.ensemble, size=min(o.subset, o.ensemble), replace=False)
            values = self.q_target(batch.following, following)[z]
            y = self._rewarding.targets(batch, values.amin(0), o.observed)
            acted = head.normalise(batch.features, batch.chunks)[:, self._executed]
        q = self.q(seen, acted)
        loss = F.mse_loss(q, y.expand_as(q))
        self._place.step(loss, self._of_q, self.q.parameters())
        follow(self.q_target, self.q, o.target_rate)
        return {"q_loss": float(loss.detach()), "target": float(y.mean())}

    def _actor_step(
        self, features: torch.Tensor, seen: torch.Tensor, chance: Chance
    ) -> dict[str, float]:
        """J(phi): the mean of all critics at what would be executed, less what holds to the base."""
        o = self.options
        base = self.base(features, chance)
        rho = self.actor(seen, base)
        self.q.requires_grad_(False)
        value = self.q(seen, self._judged(features, base, rho)).mean()
        with torch.no_grad():
            unmoved = self.q(seen, self._judged(features, base, torch.zeros_like(rho))).mean()
        self.q.requires_grad_(True)
        held = o.anchor * (rho**2).sum(1).mean()
        self._place.step(held - value, self._of_actor, self.actor.parameters())
        follow(self._slow, self.actor, 1.0 - o.average_decay)
        found = {"value": value, "gain": value - unmoved, "residual": rho.abs().mean()}
        return {name: float(one.detach()) for name, one in found.items()}

    def base(self, features: torch.Tensor, chance: Chance) -> torch.Tensor:
        """a_base(s, w) as the flow draws it on the robot: normalised [B, T*A] at features [B, F]."""
        size = self.head.config.chunk_length * self.head.config.action_size
        w = self._noise_scale * chance.normal((len(features), size))
        with torch.no_grad():
            return self.head.integrate(features, w)

    def _judged(
        self, features: torch.Tensor, base: torch.Tensor, rho: torch.Tensor
    ) -> torch.Tensor:
        """What is executed of a_base + bound * rho, as critics see it."""
        acted = self.head.normalise(features, self.head.shifted(features, base, rho))
        return acted[:, self._executed]

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs, by name."""
        out = arrays_of(self._modules)
        for optimiser in (self._of_actor, self._of_q):
            out |= moments(optimiser, self._parameters)
        return out

    def restore(self, tensors: Mapping[str, np.ndarray], what: str) -> None:
        """Take back what `state` gave. Raises `PackageError` if it is another refiner's."""
        restore_modules(self._modules, tensors, what)
        for optimiser, name in ((self._of_actor, "actor/"), (self._of_q, "q/")):
            own = {k: p for k, p in self._parameters.items() if k.startswith(name)}
            restore_moments(optimiser, own, tensors)
