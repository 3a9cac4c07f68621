"""An actor beside a frozen flow, which alone is refined and released: how such a policy is made of one
without, and made again from a package.

Owns names and sizes. What an actor does, and what an untrained one changes, is its head's: `noise_actor`,
`residual`.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import ClassVar

import msgspec
import numpy as np
import torch
from torch import nn

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import float_weights
from trainer.policies import flow
from trainer.policies.flow import FlowConfig, FlowHead, FlowPolicy


class ActorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`layers` hidden layers of `hidden` units."""

    hidden: int = 256
    layers: int = 2


class Actor(nn.Module):
    """Hidden layers of `widths`; what goes in and comes out is a subclass's."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(one, other) for one, other in itertools.pairwise(widths)
        )

    def hide(self, x: torch.Tensor) -> torch.Tensor:
        """[B, widths[0]] -> [B, widths[-1]]."""
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


class ActorHead(FlowHead):
    """A flow head with an actor of `settings`; inputs and outputs are `FlowHead`'s.

    A subclass says what its packages are called and what its actor's module is, and puts one there.
    """

    ARCHITECTURE: ClassVar[str]
    ACTOR: ClassVar[str]
    SETTINGS: ClassVar[type[ActorSettings]]
    GOES_ON: ClassVar[bool] = True
    """Whether a chunk can be made to go on from the one under way."""

    def __init__(self, config: FlowConfig, settings: ActorSettings) -> None:
        super().__init__(config)
        self.settings = settings

    @property
    def actor(self) -> Actor:
        actor: Actor = getattr(self, self.ACTOR)
        return actor

    @classmethod
    def prefix(cls) -> str:
        """Of the refinable tensors."""
        return f"head/{cls.ACTOR}."

    @classmethod
    def keys(cls) -> dict[str, str]:
        """Name of each setting of the actor's -> its name among a manifest's settings."""
        short = cls.ACTOR.partition("_")[0]
        return {name: f"{short}_{name}" for name in cls.SETTINGS.__struct_fields__}


def with_actor(policy: FlowPolicy, kind: type[ActorHead], settings: ActorSettings) -> FlowPolicy:
    """A policy with the same trunk and flow and an untrained actor. Raises `PackageError` for settings that
    are none."""
    head = kind(policy.config, settings)
    head.load_state_dict({**head.state_dict(), **policy.head.state_dict()})
    made = FlowPolicy(policy.config)
    made.trunk, made.head = policy.trunk, head
    return made.eval()


def settings_of(head: ActorHead) -> dict[str, float]:
    """What a package's manifest must say beside the flow's settings."""
    return {key: float(getattr(head.settings, name)) for name, key in head.keys().items()}


def policy_of_package(package: Package, kind: type[ActorHead]) -> FlowPolicy:
    """The torch twin of a package with such an actor. Raises `PackageError`."""
    manifest = package.manifest
    missing = sorted(set(kind.keys().values()) - manifest.settings.keys())
    if manifest.architecture != kind.ARCHITECTURE or missing:
        raise PackageError(
            f"package {package.folder}",
            expected=f"architecture '{kind.ARCHITECTURE}'",
            found=f"'{manifest.architecture}'" + (f" without {missing}" if missing else ""),
            remedy=f"export one: robot-export policy --{kind.ACTOR.replace('_', '-')}",
        )
    said = {name: manifest.settings[key] for name, key in kind.keys().items()}
    types = {one.name: one.type for one in msgspec.structs.fields(kind.SETTINGS)}
    settings = kind.SETTINGS(**{name: types[name](value) for name, value in said.items()})
    bare = msgspec.structs.replace(manifest, architecture=flow.ARCHITECTURE)
    policy = FlowPolicy(flow.config_of_package(dataclasses.replace(package, manifest=bare)))
    policy.head = kind(policy.config, settings)
    weights = float_weights(manifest, package.weights)
    policy.take(
        {name.replace("/", ".", 1): array for name, array in weights.items()}, package.folder
    )
    return policy.eval()


def actor_tensors(head: ActorHead) -> dict[str, np.ndarray]:
    """The actor's weights as a release carries them: "head/<actor>.<name>"."""
    return {
        f"{head.prefix()}{name}": tensor.detach().cpu().numpy().copy()
        for name, tensor in head.actor.state_dict().items()
    }
