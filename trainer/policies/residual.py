"""A residual actor behind a frozen flow: it shifts the flow's chunk by a little; a release carries it alone.

Residual policies (Silver et al. 2018, arXiv 1812.06298; Johannink et al. 2019, arXiv 1812.03201): the action
is the base policy's plus a learned one, which here sees both the situation and what the base wants to do. It
is one number a joint for the whole chunk, within a bound: the same that exploration tries on the robot
(`contracts.draws.chunk_offset`). Owns no learning.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from contracts.errors import PackageError
from contracts.specs import ActionSpec
from trainer.policies.actors import Actor, ActorHead, ActorSettings
from trainer.policies.flow import FlowConfig


class ResidualConfig(ActorSettings, frozen=True):
    """Most that an action is shifted by: `degrees` where its unit is "deg", in other units (a gripper's)
    `share` of its range; 0: not at all."""

    degrees: float = 5.0
    share: float = 0.05


class ResidualActor(Actor):
    """Of the features float32[1 or B, F] the unmixed ones and the flow's normalised chunk [B, T*A] -> the
    residual as a share of its bound, in (-1, 1), [B, A]. The last layer starts at zero, and so does it."""

    def __init__(self, config: FlowConfig, residual: ResidualConfig) -> None:
        if residual.hidden < 1 or residual.layers < 1:
            raise PackageError("a residual actor's sizes", expected="all above 0", found=residual)
        super().__init__([residual.hidden] * residual.layers)
        self.unmixed = config.unmixed
        self.features_in = nn.Linear(config.unmixed, residual.hidden)
        self.chunk_in = nn.Linear(config.chunk_length * config.action_size, residual.hidden)
        self.out = nn.Linear(residual.hidden, config.action_size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        features = features[:, features.shape[1] - self.unmixed :]
        x = self.hide(torch.tanh(self.features_in(features) + self.chunk_in(chunk)))
        return torch.tanh(self.out(x))


class ResidualHead(ActorHead):
    """A flow head whose chunks are shifted by an actor."""

    ARCHITECTURE = "flow-residual"
    ACTOR = "residual"
    SETTINGS = ResidualConfig
    # What is under way holds the residual (and what exploration added) already: taken for the flow's own,
    # what is not quite settled of it would be shifted once more, chunk by chunk beyond the bound.
    GOES_ON = False
    # Not the actor's: no release moves it.
    residual_bound: torch.Tensor

    def __init__(self, config: FlowConfig, residual: ResidualConfig) -> None:
        super().__init__(config, residual)
        self.register_buffer("residual_bound", torch.tensor(bounds(config.action, residual)))
        self.residual = ResidualActor(config, residual)
        self.degrees = residual.degrees

    def denormalise(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        """The flow's [B, T*A] -> [B, T, A] in arm units with the residual, inside the action limits."""
        return self.shifted(features, chunk, self.residual(features, chunk))

    def shifted(
        self, features: torch.Tensor, chunk: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:
        """The same with another residual, `share` [B, A] of its bound."""
        shifted = super().denormalise(features, chunk) + (self.residual_bound * share).unsqueeze(1)
        return torch.minimum(torch.maximum(shifted, self.low), self.high)


def bounds(action: ActionSpec, residual: ResidualConfig) -> list[float]:
    """Most that each action is shifted by, in its own unit. Raises `PackageError` for what is no bound."""
    sane = 0 <= residual.degrees < math.inf and 0 <= residual.share <= 1
    rows = zip(action.units, action.low, action.high, strict=True)
    found = [
        residual.degrees if unit == "deg" else residual.share * (high - low)
        for unit, low, high in rows
    ]
    if not sane or not any(found):
        raise PackageError(
            "the bound of a residual",
            expected="degrees from 0, a share of the range from 0 to 1, and some joint that may move",
            found=f"{residual.degrees:g} degrees, {residual.share:g} of the range, units {set(action.units)}",
        )
    return found
