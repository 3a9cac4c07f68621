"""Diffusion steering: soft actor-critic over the noise that a frozen flow starts from.

DSRL with noise aliasing (Wagenmaker et al. 2025, arXiv 2506.15799, algorithm 1), names as there: Q^A judges
executed chunks by temporal difference; the actor pi^W climbs it through the frozen flow, which makes a chunk
of every noise, or (`distil`) Q^W, which judges noises and is distilled from Q^A that way. So no noise need be
recorded, and chunks that nobody drew (demonstrations, a person's, a braked one) teach Q^A too. SAC's
temperature after Haarnoja et al. 2018 (arXiv 1812.05905); layer norm, a random pair of an ensemble in the
target and demonstrations in every batch after RLPD (Ball et al. 2023, arXiv 2302.02948), which also leaves
the entropy out of the target.

Needs a package behind a noise actor (`robot-export policy --noise-actor BOUND`).
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from contracts import config
from trainer.interfaces import Update
from trainer.policies.actors import actor_tensors, policy_of_package
from trainer.policies.chance import Chance
from trainer.policies.flow import FlowHead
from trainer.policies.noise import disturb
from trainer.policies.noise_actor import SteeredHead
from trainer.refiners.critics import Batch, Critics, Rewarding, Source, draw_batch, executed, follow
from trainer.refiners.episodic import (
    MOST,
    Episodic,
    EpisodicOptions,
    Ground,
    check_options,
    require_scored,
)
from trainer.refiners.experience import Trajectory, noise_scales, outcomes
from trainer.refiners.head import moments, restore_moments, restore_state, state_of
from trainer.refiners.placement import ALONE, Placement

_RANGES = {
    **dict.fromkeys(("demonstration_share", "target_rate", "average_decay"), (0.0, 1.0)),
    **dict.fromkeys(("execute", "actor_every", "batch", "hidden", "ensemble"), (1.0, math.inf)),
    **dict.fromkeys(("steps", "after", "late"), (0.0, math.inf)),
    **dict.fromkeys(("outcome", "shaping", "anchor", "learning_rate"), (0.0, MOST)),
    "observed": (0.0, 1.0),
    "temperature_rate": (0.0, MOST),
    "temperature": (1e-9, MOST),
    "entropy": (-MOST, MOST),
}


class DsrlOptions(EpisodicOptions, frozen=True):
    """`execute`: actions of a chunk that the robot executes (policy.execute_steps), after the `late` ones
    that have passed when it arrives. `discount` per action. `outcome` is the reward of a success at its end
    (`graded`: of RoboReward's score of 1 to 5, as 0 to 1), `shaping` weighs the reward model's process as a
    potential, which demonstrations lack (0: the outcome alone). `observed`: how much of Q^A's targets is what
    came of the episode (0: temporal difference alone). `distil`: the actor climbs Q^W, as in the paper, or
    Q^A through the flow. `entropy`: the actor's, per element of the noise, in nats; `anchor` weighs the
    divergence from the base's noise, likewise. `steps` of all networks an iteration, the actor's every
    `actor_every`-th. `ensemble` critics of each kind. `target_rate` of the slow copies, `average_decay` of
    the published actor. `after` labelled episodes it begins; until then the base acts. The others are those
    of `bestofn`."""

    execute: int = 8
    late: int = 1
    observed: float = 0.5
    outcome: float = 1.0
    shaping: float = 0.0
    graded: bool = False
    distil: bool = False
    anchor: float = 0.2
    entropy: float = 0.2
    temperature: float = 0.02
    temperature_rate: float = 3e-3
    steps: int = 400
    actor_every: int = 2
    batch: int = 128
    demonstration_share: float = 0.25
    learning_rate: float = 3e-4
    ensemble: int = 4
    hidden: int = 256
    target_rate: float = 0.005
    average_decay: float = 0.98
    after: int = 20
    demonstration_views: int = 4


class Dsrl(Episodic[Trajectory]):
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
        o = config.convert(dict(options), DsrlOptions, "refiner options")
        check_options(o, _RANGES)
        require_scored(o.shaping, demonstrations)
        steered = functools.partial(policy_of_package, kind=SteeredHead)
        ground = Ground(package, demonstrations, o, seed, steered, o.execute, o.late, place)
        learner = DsrlLearner(ground.policy.head, ground.demonstrations, o, seed, place)
        super().__init__(ground, ground.trajectory, learner, seed)


class DsrlLearner:
    """The method itself, on arrays. `own`: all labelled episodes so far, `demonstrations` for good."""

    def __init__(
        self,
        head: FlowHead,
        demonstrations: list[Trajectory],
        options: DsrlOptions,
        seed: int,
        place: Placement = ALONE,
    ) -> None:
        assert isinstance(head, SteeredHead)
        o = self.options = options
        self._place = place
        self.head = head.to(place.device).requires_grad_(False)
        self._average = copy.deepcopy(head)
        self.demonstrations = demonstrations
        self.own: list[Trajectory] = []
        size = head.config.chunk_length * head.config.action_size
        self._executed = executed(o.execute, o.late, head.config.action_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            judged = o.execute * head.config.action_size
            self.q_a = Critics(head.config.unmixed, judged, o.hidden, o.ensemble)
            # Of all features: the flow makes its chunk of them.
            of_w = Critics(head.config.features, size, o.hidden, o.ensemble) if o.distil else None
        self.q_a, self.q_w = self.q_a.to(place.device), of_w.to(place.device) if of_w else None
        self.actor = head.noise_actor.requires_grad_(True)
        log_alpha = torch.tensor([float(np.log(o.temperature))], device=place.device)
        self.log_alpha = nn.Parameter(log_alpha)
        self.q_a_target = copy.deepcopy(self.q_a).requires_grad_(False)
        self._learning = [m for m in (self.actor, self.q_a, self.q_w) if m is not None]
        learned = nn.ModuleList(self._learning).parameters()
        self._optimiser = torch.optim.Adam(learned, lr=o.learning_rate)
        self._optimiser.add_param_group({"params": [self.log_alpha], "lr": o.temperature_rate})
        self._rewarding = Rewarding.of_chunks(
            o.execute, o.thin, o.discount, o.outcome, o.shaping, o.graded
        )
        self._scales = noise_scales(o.noise, demonstrations, head.config).to(place.device)

    def _modules(self) -> dict[str, nn.Module]:
        found = {"actor": self.actor, "q_a": self.q_a, "target": self.q_a_target}
        found["average"] = self._average.noise_actor
        return found if self.q_w is None else found | {"q_w": self.q_w}

    @property
    def released(self) -> FlowHead:
        """The head whose weights `learn` gave last."""
        return self._average

    def learn(self, fresh: list[Trajectory], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration."""
        o = self.options
        self.own += fresh
        rng, chance = self._place.chance(seed, iteration)
        found: list[dict[str, float]] = []
        steps = o.steps if len(self.own) >= max(1, o.after) else 0
        shown = round(o.batch * o.demonstration_share) if self.demonstrations else 0
        sources = [
            Source(self.demonstrations, shown, self._rewarding),
            Source(self.own, o.batch - shown, self._rewarding),
        ]
        for step in range(steps):
            batch = self._place.batch(draw_batch(sources, rng))
            # For what learns alone: with the state's noise on chunks no critic could tell degrees apart.
            seen = disturb(batch.features, self._scales, chance)
            found.append(self._step(batch, seen, rng, chance, acts=step % o.actor_every == 0))
        names = found[0] if found else {}
        return Update(
            tensors=actor_tensors(self._average),
            samples=1,
            metrics={
                **{n: float(np.mean([f[n] for f in found if n in f])) for n in names},
                **outcomes(self.own, fresh),
                "gradient_steps": float(steps),
            },
        )

    def _step(
        self,
        batch: Batch,
        seen: torch.Tensor,
        rng: np.random.Generator,
        chance: Chance,
        *,
        acts: bool,
    ) -> dict[str, float]:
        """One step of the critics and, if it `acts`, of pi^W and the temperature."""
        o, head = self.options, self.head
        with torch.no_grad():
            w_next, _ = self.draw(batch.following, chance)
            next_chunks = head.integrate(batch.following, w_next)
            pair = rng.choice(o.ensemble, size=min(2, o.ensemble), replace=False)
            values = self.q_a_target(batch.following, self._judged(next_chunks))[pair]
            y = self._rewarding.targets(batch, values.amin(0), o.observed)
        acted = head.normalise(batch.features, batch.chunks)
        q_a = self.q_a(seen, self._judged(acted))
        loss = F.mse_loss(q_a, y.expand_as(q_a))
        found = {"q_a_loss": float(loss.detach())}
        if self.q_w is not None:
            loss_w = self._distil(self.q_w, batch.features, seen, chance)
            loss = loss + loss_w
            found["q_w_loss"] = float(loss_w.detach())
        if acts:
            noises, log_pi = self.draw(seen, chance)
            value = self._climbed(batch.features, seen, noises)
            alpha = self.log_alpha.exp()
            entropy = -log_pi / noises.shape[1]
            away = self.divergence(seen).mean()
            loss = loss - value.mean() - alpha.detach() * entropy.mean() + o.anchor * away
            loss = loss + alpha * (entropy.mean().detach() - o.entropy)
            found |= {"value": float(value.mean().detach()), "alpha": float(alpha.detach())}
            found |= {"entropy": float(entropy.mean().detach()), "away": float(away.detach())}
        self._place.step(loss, self._optimiser, *(m.parameters() for m in self._learning))
        follow(self.q_a_target, self.q_a, o.target_rate)
        if acts:
            follow(self._average.noise_actor, self.actor, 1.0 - o.average_decay)
        return found

    def _distil(
        self, q_w: Critics, features: torch.Tensor, seen: torch.Tensor, chance: Chance
    ) -> torch.Tensor:
        """How far Q^W is from Q^A of what the flow makes of noises: half of them where the flow was trained,
        half where the actor goes."""
        with torch.no_grad():
            w, _ = self.draw(seen, chance)
            bound = self.actor.noise.bound
            w[::2] = chance.normal(w[::2].shape).clamp(-bound, bound)
            wanted = self.q_a(seen, self._judged(self.head.integrate(features, w)))
        return F.mse_loss(q_w(features, w), wanted)

    def _climbed(
        self, features: torch.Tensor, seen: torch.Tensor, noises: torch.Tensor
    ) -> torch.Tensor:
        """What pi^W climbs: Q^W(s, w) where it is distilled, else Q^A(s, flow(s, w)) itself, [B]."""
        judges = self.q_w or self.q_a
        judges.requires_grad_(False)
        if self.q_w is not None:
            values: torch.Tensor = self.q_w(features, noises)
        else:
            values = self.q_a(seen, self._judged(self.head.integrate(features, noises)))
        judges.requires_grad_(True)
        return values.mean(0)

    def divergence(self, features: torch.Tensor) -> torch.Tensor:
        """KL(pi^W || the base's noise) per element of it [B], in nats. What the untrained actor draws is
        about what the flow was trained with."""
        mean, log_std = self.actor.distribution(features)
        base = -math.log(self.actor.noise.bound)
        square = (mean**2 + torch.exp(2.0 * log_std)) * math.exp(-2.0 * base)
        return (0.5 * square - 0.5 + base - log_std).mean(1)

    def draw(self, features: torch.Tensor, chance: Chance) -> tuple[torch.Tensor, torch.Tensor]:
        """Noises [B, T*A] of the actor's and log pi of each [B]."""
        mean, log_std = self.actor.distribution(features)
        draws = chance.normal(mean.shape)
        spread = mean + log_std.exp() * draws
        bound = self.actor.noise.bound
        gaussian = -0.5 * draws**2 - log_std - 0.5 * float(np.log(2 * np.pi))
        # log(1 - tanh(x)^2), which is exact where tanh is 1.
        squashed = 2.0 * (float(np.log(2.0)) - spread - F.softplus(-2.0 * spread))
        log_pi = (gaussian - squashed - float(np.log(bound))).sum(1)
        return bound * torch.tanh(spread), log_pi

    def _judged(self, chunks: torch.Tensor) -> torch.Tensor:
        """Of normalised chunks [B, T*A] what is executed."""
        return chunks[:, self._executed]

    def state(self) -> dict[str, np.ndarray]:
        """Everything that `restore` needs, by name."""
        kept = moments(self._optimiser, {"log_alpha": self.log_alpha})
        kept["log_alpha"] = self.log_alpha.detach().cpu().numpy()
        return kept | state_of(self._modules(), self._optimiser)

    def restore(self, tensors: Mapping[str, np.ndarray], what: str) -> None:
        """Take back what `state` gave. Raises `PackageError` if it is another refiner's."""
        restore_state(self._modules(), self._optimiser, tensors, what)
        self.log_alpha.data.copy_(torch.from_numpy(np.array(tensors["log_alpha"])))
        restore_moments(self._optimiser, {"log_alpha": self.log_alpha}, tensors)
