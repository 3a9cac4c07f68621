"""A person's hand on the arm: a leader arm, a gamepad or keys, seen as a page of shared memory.

Owns the protocol of devices, the page and the hand-over (`runtime.teleoperation.helm`). A device runs in a
process of its own (`runtime.teleoperation.server`); what it wants is judged by the gate like a policy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from contracts import registry
from contracts.errors import ConfigError
from contracts.specs import ActionSpec
from runtime.operator.commands import Command

KEYBOARD = "keyboard"
"""Needs no device: the terminal and the web page write their pages themselves."""


@dataclass(frozen=True, slots=True)
class Reading:
    """`targets`: a leader's joint positions in the arm's units, or None. `shares`: how fast each joint is
    wanted to move, -1 to 1 of the jog speed, or None. `commands`: buttons pressed since the last reading."""

    targets: tuple[float, ...] | None = None
    shares: tuple[float, ...] | None = None
    commands: tuple[Command, ...] = ()


class Teleoperator(Protocol):
    """One device, in the process that owns it. Made as `make(spec, **options)` with the arm's `ActionSpec`;
    may raise `DeviceError` anywhere: the process then says so and ends, and the arm holds."""

    rate_hz: float

    def read(self) -> Reading:
        """What it says now; may wait for it, up to a tenth of a second."""
        ...

    def close(self) -> None: ...


def open_teleoperator(kind: str, options: dict[str, Any], spec: ActionSpec) -> Teleoperator:
    """The device of that name (entry-point group `entracte.teleoperators`). Raises `ConfigError` or
    `DeviceError`."""
    make = registry.load("teleoperators", kind)
    try:
        return cast(Teleoperator, make(spec, **options))
    except TypeError as error:
        raise ConfigError(f"operator.teleoperator_options of '{kind}'", found=str(error)) from error
