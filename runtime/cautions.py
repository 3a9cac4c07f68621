"""What a robot does not do though its configuration reads as if it did: told at the start, before it moves.

Control finds it out, having opened the arm; the supervisor says it and reports it.
"""

from __future__ import annotations

from enum import IntFlag

from contracts.specs import ActionSpec
from runtime.board import Board
from runtime.config import RobotConfig
from runtime.gate.limits import GateLimits


class Caution(IntFlag):
    """Bits of `Board.cautions`."""

    NO_WORKSPACE = 1
    NO_EXPLORATION = 2


_SENTENCES = {
    Caution.NO_WORKSPACE: "gate.workspace_* limits nothing: where this arm is in space is not "
    "known (its joints' ranges, speeds and accelerations are limited as ever)",
    Caution.NO_EXPLORATION: "policy.explore_deg explores nothing: no joint of this arm is in degrees",
}


def cautions(config: RobotConfig, purpose: str, action: ActionSpec, limits: GateLimits) -> Caution:
    """What holds for this arm in a run of this purpose."""
    found = Caution(0)
    if limits.points is None:
        found |= Caution.NO_WORKSPACE
    if purpose == "refine" and config.policy.explore_deg > 0 and "deg" not in action.units:
        found |= Caution.NO_EXPLORATION
    return found


def sentences(board: Board) -> list[str]:
    """What control found, in words; empty before it has opened its arm."""
    return [text for caution, text in _SENTENCES.items() if board.cautions & caution]
