"""What the supervisor says of the arm when a run is over: how it was stopped, whether it stands, counters.

Pure: the board in, words and numbers out.
"""

from __future__ import annotations

from typing import Any

from runtime.board import ArmPhase, Board, StopCheck, TripReason

_STANDS = {
    StopCheck.PENDING: "nobody verified that the arm stands",
    StopCheck.VERIFIED: "the arm was seen to stand",
    StopCheck.FAILED: "the arm was NOT seen to stand",
    StopCheck.UNREADABLE: "could not verify that the arm stands",
}


def stopped(board: Board) -> bool:
    """Whether an arm that this run had was stopped out of order."""
    return bool(board.lease_epoch and (board.stopped_at_s or board.watchdog_tripped))


def how_it_stopped(board: Board, *, told: bool) -> str:
    """What the watchdog did, and whether the arm was seen to stand, unless control `told` that; each after a
    semicolon, and nothing after a run in good order."""
    said, tripped = "", TripReason(board.watchdog_tripped)
    if tripped:
        held = board.watchdog_held_at_s > 0.0
        did = "put the arm in hold" if held else "took over, but the arm does NOT acknowledge hold"
        said = f"; the watchdog {did} ({tripped.name.lower().replace('_', ' ')})"
    if stopped(board) and (tripped or not told):
        said += f"; {_STANDS[StopCheck(board.stop_check)]}"
    return said


def arm_report(board: Board) -> dict[str, Any]:
    """What the arm's process counted."""
    return {
        "state": ArmPhase(board.arm_state).name.lower(),
        "readings": board.arm_readings,
        "retries": board.arm_retries,
        "refused": board.arm_refused,
        "timeouts": board.arm_timeouts,
        "read_p99_s": round(board.arm_read_p99_s, 6),
        "read_max_s": round(board.arm_read_max_s, 6),
        "warmest_c": board.arm_warmest_c or None,
    }
