"""What an episode of a LeRobotDataset is known, or taken, to have come to. Pure over its metadata.

Nobody knows what an episode that was stopped would have come to, nor what a policy did that nobody judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.messages import ABORTED

STOPPED = (ABORTED, "fault", "rerecord")
"""Ends of episodes that are nobody's demonstration."""


def successful(meta: Mapping[str, Any]) -> bool:
    """True for an episode (`DatasetReader.meta`) that is labelled a success, or shows how it is done."""
    said = labelled(meta["extra"])
    return is_demonstration(meta["extra"]) if said is None else said


def labelled(extra: Mapping[str, Any]) -> bool | None:
    """The operator's or simulator's label of an episode of Entracte's, None without."""
    end = extra.get("end")
    said = end.get("operator_success") if isinstance(end, dict) else None
    return None if said is None else bool(said)


def is_demonstration(extra: Mapping[str, Any]) -> bool:
    """Of one without a label: nobody's policy did it, and it was not stopped. Entracte's own have an end, and
    a start that says what for; LeRobot's have neither and are demonstrations."""
    start, end = extra.get("start"), extra.get("end")
    if not isinstance(end, dict):
        return True
    recorded = isinstance(start, dict) and start.get("purpose") == "record"
    return recorded and not was_stopped(extra)


def was_stopped(extra: Mapping[str, Any]) -> bool:
    end = extra.get("end")
    return isinstance(end, dict) and end.get("reason") in STOPPED
