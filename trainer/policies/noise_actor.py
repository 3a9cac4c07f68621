"""A noise actor before a frozen flow: it chooses the flow's starting noise; a release carries it alone.

Diffusion steering (DSRL, Wagenmaker et al. 2025, arXiv 2506.15799): the starting noise of a frozen flow or
diffusion policy is the action of a small actor, a tanh-squashed Gaussian within +-bound. What the head gets
as "noise", standard normal draws, is what the actor draws with; so runtime runs it like any other head, and
with `noise_scale` 0 the actor's mean acts. Owns no learning.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import msgspec
import numpy as np
import torch
from torch import nn

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import float_weights
from trainer.policies import flow
from trainer.policies.flow import FlowConfig, FlowHead, FlowPolicy

ARCHITECTURE = "flow-noise-actor"
PREFIX = "head/noise_actor."
"""Of the refinable tensors."""
LOG_STD_LEAST, LOG_STD_MOST = -5.0, 2.0
_SETTINGS = {"bound": "noise_bound", "hidden": "noise_hidden", "layers": "noise_layers"}


class NoiseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bound`: largest absolute value of a noise's element, in standard deviations of what the flow was
    trained with; `layers` hidden layers of `hidden` units."""

    bound: float = 1.5
    hidden: int = 256
    layers: int = 2


class NoiseActor(nn.Module):
    """features float32[B, F] (the state is among them) -> a distribution over noises [B, T*A].

    Until it is trained its mean is 0 and its draws near 0 are the noise that it was given: the policy acts
    about as before.
    """

    def __init__(self, config: FlowConfig, noise: NoiseConfig) -> None:
        super().__init__()
        if not noise.bound > 0 or noise.hidden < 1 or noise.layers < 1:
            raise PackageError("a noise actor's sizes", expected="all above 0", found=noise)
        self.noise = noise
        size = config.chunk_length * config.action_size
        widths = [config.features, *[noise.hidden] * noise.layers]
        self.layers = nn.ModuleList(
            nn.Linear(one, other) for one, other in itertools.pairwise(widths)
        )
        self.mean, self.log_std = nn.Linear(noise.hidden, size), nn.Linear(noise.hidden, size)
        for layer in (self.mean, self.log_std):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # bound * tanh(draw / bound) is the draw itself where it is small.
        nn.init.constant_(self.log_std.bias, -math.log(noise.bound))

    def distribution(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the standard deviation of the Gaussian before tanh, each [B, T*A]."""
        x = features
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.mean(x), torch.clamp(self.log_std(x), LOG_STD_LEAST, LOG_STD_MOST)

    def forward(self, features: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Noises of the shape of `draws` [N, T, A], standard normal; features [1 or N, F]."""
        mean, log_std = self.distribution(features)
        spread = mean + torch.exp(log_std) * draws.flatten(1)
        noises: torch.Tensor = self.noise.bound * torch.tanh(spread)
        return noises.reshape(draws.shape)


class SteeredHead(FlowHead):
    """A flow head whose noise comes from an actor; inputs and outputs are `FlowHead`'s."""

    def __init__(self, config: FlowConfig, noise: NoiseConfig) -> None:
        super().__init__(config)
        self.noise_actor = NoiseActor(config, noise)

    def forward(
        self,
        features: torch.Tensor,
        noise: torch.Tensor,
        prefix: torch.Tensor | None = None,
        prefix_weight: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return super().forward(features, self.noise_actor(features, noise), prefix, prefix_weight)


def steer(policy: FlowPolicy, noise: NoiseConfig) -> FlowPolicy:
    """A policy with the same trunk and flow and an untrained noise actor before them."""
    head = SteeredHead(policy.config, noise)
    fresh = {k: v for k, v in head.state_dict().items() if k.startswith("noise_actor.")}
    head.load_state_dict({**policy.head.state_dict(), **fresh})
    steered = FlowPolicy(policy.config)
    steered.trunk, steered.head = policy.trunk, head
    return steered.eval()


def settings_of(head: SteeredHead) -> dict[str, float]:
    """What a package's manifest must say beside the flow's settings."""
    return {key: float(getattr(head.noise_actor.noise, name)) for name, key in _SETTINGS.items()}


def steered_of_package(package: Package) -> FlowPolicy:
    """The torch twin of a package with a noise actor. Raises `PackageError`."""
    manifest = package.manifest
    missing = sorted(set(_SETTINGS.values()) - manifest.settings.keys())
    if manifest.architecture != ARCHITECTURE or missing:
        raise PackageError(
            f"package {package.folder}",
            expected=f"architecture '{ARCHITECTURE}'",
            found=f"'{manifest.architecture}' without {missing}",
        )
    values = {name: manifest.settings[key] for name, key in _SETTINGS.items()}
    noise = NoiseConfig(values["bound"], int(values["hidden"]), int(values["layers"]))
    bare = msgspec.structs.replace(manifest, architecture=flow.ARCHITECTURE)
    policy = FlowPolicy(flow.config_of_package(dataclasses.replace(package, manifest=bare)))
    policy.head = SteeredHead(policy.config, noise)
    weights = float_weights(manifest, package.weights)
    try:
        policy.load_state_dict(_tensors(weights))
    except RuntimeError as error:
        raise PackageError(
            f"weights of {package.folder} are not this policy's",
            found=str(error).replace("\n", " ")[:200],
            remedy="export it again with this version",
        ) from error
    return policy.eval()


def actor_tensors(head: SteeredHead) -> dict[str, np.ndarray]:
    """The actor's weights as a release carries them: "head/noise_actor.<name>"."""
    return {
        f"{PREFIX}{name}": tensor.detach().numpy().copy()
        for name, tensor in head.noise_actor.state_dict().items()
    }


def _tensors(weights: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {
        name.replace("/", ".", 1): torch.from_numpy(np.array(value))
        for name, value in weights.items()
    }
