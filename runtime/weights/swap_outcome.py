"""What the swapper tells of a release: the transition that is owed, with the times of its slot."""

from __future__ import annotations

import math

from contracts.errors import EntracteError
from contracts.messages import ReleaseOutcome
from runtime.weights.slot_state import Owed, Slot
from runtime.weights.slots import boot_id


def outcome_of(robot_id: str, target: str, slot: Slot, owed: Owed, now_s: float) -> ReleaseOutcome:
    """`now_s`: monotonic, of the swap if it is one. Times of an earlier boot are NaN."""
    swapped_s = now_s - slot.offered_s if slot.boot_id == boot_id() else math.nan
    return ReleaseOutcome(
        robot_id=robot_id,
        target=target,
        publish_seq=owed.publish_seq,
        outcome=owed.outcome,
        reason=owed.reason,
        episode_seq=owed.episode_seq,
        bytes_on_wire=slot.bytes_on_wire,
        verified_s=slot.verified_s if slot.verified_s >= 0 else math.nan,
        staged_s=slot.staged_s if slot.staged_s >= 0 else math.nan,
        swapped_s=swapped_s if owed.outcome == "swapped" else math.nan,
        report_id=owed.report_id,
    )


def in_words(error: Exception) -> str:
    """Why in words; with its type where it is none of ours, such as an engine's own."""
    ours = isinstance(error, EntracteError | OSError)
    return str(error) if ours else f"{type(error).__name__}: {error}"
