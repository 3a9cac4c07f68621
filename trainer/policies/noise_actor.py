"""A noise actor before a frozen flow: it chooses the flow's starting noise; a release carries it alone.

Diffusion steering (DSRL, Wagenmaker et al. 2025, arXiv 2506.15799): the starting noise of a frozen flow or
diffusion policy is the action of a small actor, a tanh-squashed Gaussian within +-bound. What the head gets
as "noise", standard normal draws, is what the actor draws with; so runtime runs it like any other head, and
with `noise_scale` 0 the actor's mean acts. Owns no learning.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from contracts.errors import PackageError
from trainer.policies.actors import Actor, ActorHead, ActorSettings
from trainer.policies.flow import FlowConfig

LOG_STD_LEAST, LOG_STD_MOST = -5.0, 2.0


class NoiseConfig(ActorSettings, frozen=True):
    """`bound`: largest absolute value of a noise's element, in standard deviations of what the flow was
    trained with."""

    bound: float = 1.5


class NoiseActor(Actor):
    """features float32[B, F] (the state is among them) -> a distribution over noises [B, T*A].

    Until it is trained its mean is 0 and its draws near 0 are the noise that it was given: the policy acts
    about as before.
    """

    def __init__(self, config: FlowConfig, noise: NoiseConfig) -> None:
        if not noise.bound > 0 or noise.hidden < 1 or noise.layers < 1:
            raise PackageError("a noise actor's sizes", expected="all above 0", found=noise)
        super().__init__([config.features, *[noise.hidden] * noise.layers])
        self.noise = noise
        size = config.chunk_length * config.action_size
        self.mean, self.log_std = nn.Linear(noise.hidden, size), nn.Linear(noise.hidden, size)
        for layer in (self.mean, self.log_std):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # bound * tanh(draw / bound) is the draw itself where it is small.
        nn.init.constant_(self.log_std.bias, -math.log(noise.bound))

    def distribution(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the standard deviation of the Gaussian before tanh, each [B, T*A]."""
        x = self.hide(features)
        return self.mean(x), torch.clamp(self.log_std(x), LOG_STD_LEAST, LOG_STD_MOST)

    def forward(self, features: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Noises of the shape of `draws` [N, T, A], standard normal; features [1 or N, F]."""
        mean, log_std = self.distribution(features)
        spread = mean + torch.exp(log_std) * draws.flatten(1)
        noises: torch.Tensor = self.noise.bound * torch.tanh(spread)
        return noises.reshape(draws.shape)


class SteeredHead(ActorHead):
    """A flow head whose noise comes from an actor."""

    ARCHITECTURE = "flow-noise-actor"
    ACTOR = "noise_actor"
    SETTINGS = NoiseConfig

    def __init__(self, config: FlowConfig, noise: NoiseConfig) -> None:
        super().__init__(config, noise)
        self.noise_actor = NoiseActor(config, noise)

    def forward(
        self,
        features: torch.Tensor,
        noise: torch.Tensor,
        prefix: torch.Tensor | None = None,
        prefix_weight: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return super().forward(features, self.noise_actor(features, noise), prefix, prefix_weight)
