"""When the black box of a run is dumped, and what the dump says of the stop. For the watchdog and, where that
is gone, the supervisor: whoever outlives control."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from contracts.errors import EntracteError
from runtime.arms import ArmState
from runtime.blackbox import box
from runtime.board import Board, LoopState, StopCheck, TripReason
from runtime.run import Run


def cause_of(board: Board) -> str:
    """What stopped this run out of order, in a word or two; empty if nothing did."""
    tripped = TripReason(board.watchdog_tripped)
    if tripped:
        return tripped.name.lower().replace("_", " ")
    state = LoopState(board.loop_state)
    return state.name.lower() if state in (LoopState.FAULT, LoopState.ESTOP) else ""


def dump(
    run: Run, board: Board, by: str, after: Sequence[ArmState] = (), note: str = ""
) -> Path | None:
    """Write it; None where there is nothing to write or no room, said on stderr. `note`: what the dumping
    process found about the arm. Never raises: a robot that stopped must not trip over its own report."""
    try:
        found = box.look(run.blackbox_path)
        about = {**found.about, "cause": cause_of(board) or "asked for", "dumped_by": by}
        about |= {
            "note": note,
            "watchdog": TripReason(board.watchdog_tripped).name.lower(),
            "stop_check": StopCheck(board.stop_check).name.lower(),
            **{
                name: getattr(board, name) or None
                for name in (
                    "stopped_at_s",
                    "held_at_s",
                    "still_at_s",
                    "watchdog_tripped_at_s",
                    "watchdog_held_at_s",
                )
            },
        }
        rows = [[one.at_s, *one.positions, *_targets(one)] for one in after]
        measured = np.array(rows, np.float64) if rows else found.after
        path = box.write(replace(found, about=about, after=measured), run.blackbox_dir)
    except (EntracteError, OSError, ValueError, ImportError) as error:
        print(f"{by}: no black box was written: {error}", file=sys.stderr)
        return None
    board.blackbox_dumps += 1
    print(f"{by}: black box in {path}", file=sys.stderr)
    return path


def _targets(state: ArmState) -> np.ndarray:
    return np.full(len(state.positions), np.nan) if state.targets is None else state.targets
