"""Every refiner of ours by its registered name, with options that learn within a moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from contracts import registry
from trainer.interfaces import Refiner
from trainer.refiners.placement import Placement

Make = Callable[..., Any]


@dataclass(frozen=True)
class Kind:
    """`package`: the fixture that it refines. `samples`: candidates that it has the robot draw."""

    options: dict[str, Any]
    package: str = "package"
    samples: int = 1
    other: dict[str, Any] = field(default_factory=dict)
    """Options with which its state is another's; none for one that has no size of its own."""


_BESTOFN = {"gradient_steps": 6, "batch": 8, "critic_batch": 8, "critic_after": 1, "samples": 4}
_AWR = {"steps": 6, "value_steps": 6, "batch": 8, "hidden": 16}
_DSRL = {"steps": 6, "batch": 8, "after": 1, "hidden": 16, "execute": 2, "ensemble": 2}
_RESIDUAL = {**_DSRL, "steps": 8, "actor_every": 2}
_PPO = {"epochs": 3, "batch": 8, "hidden": 16, "learning_rate": 1e-3, "kl": 10.0}
KINDS = {
    "awr": Kind(_AWR, other={"hidden": 8}),
    "bestofn": Kind(_BESTOFN, samples=4),
    "demonstrations": Kind(_BESTOFN),
    "dsrl": Kind(_DSRL, package="steered", other={"hidden": 8}),
    "ppo": Kind(_PPO, other={"hidden": 8}),
    "residual": Kind(_RESIDUAL, package="corrected", other={"hidden": 8}),
}


def maker(request: pytest.FixtureRequest, demonstrations: Path) -> Make:
    """Opens the refiner of a name where a placement says, with further options."""

    def build(kind: str, place: Placement, **options: Any) -> Refiner:
        made: Refiner = registry.load("refiners", kind)(
            package=request.getfixturevalue(KINDS[kind].package).folder,
            demonstrations=[demonstrations],
            options={**KINDS[kind].options, **options},
            seed=0,
            place=place,
        )
        return made

    return build
