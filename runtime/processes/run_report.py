"""What a run did, for `run_report.json`: counters, cameras, black box and loop in words and numbers.

Reads only; processes, and what became of them, are the supervisor's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.board import Board, LoopState, StopCheck, TripReason
from runtime.cameras.report import report as cameras_report
from runtime.cautions import sentences
from runtime.processes.stop_report import arm_report, stopped
from runtime.run import LOOP_FILE, Run


def robot_report(run: Run, board: Board) -> dict[str, Any]:
    """Everything that the robot itself can say, as JSON's types."""
    return {
        "session_id": run.session_id,
        "state": LoopState(board.loop_state).name.lower(),
        "episodes": board.episodes_done,
        "ticks": board.tick,
        "loop_rate_hz": round(board.loop_rate_hz, 3),
        "lateness_p99_s": board.lateness_p99_s,
        "loop": _loop(run),
        "missed_ticks": board.missed_ticks,
        "held_ticks": board.held_ticks,
        "cautions": sentences(board),
        "gate_interventions": board.gate_interventions,
        "gate_refusals": board.gate_refusals,
        "ring_frames_dropped": board.ring_frames_dropped,
        "ring_records_dropped": board.ring_records_dropped,
        "rewards_abstained": board.rewards_abstained,
        "policy_version": board.policy_version,
        "spooled": board.spooled,
        "episodes_unkept": board.episodes_unkept,
        "episodes_aside": board.episodes_aside,
        "watchdog": TripReason(board.watchdog_tripped).name.lower(),
        "stop_check": StopCheck(board.stop_check).name.lower() if stopped(board) else None,
        "blackbox": sorted(path.name for path in run.blackbox_dir.glob("*.safetensors")),
        "watchdog_tripped_at_s": board.watchdog_tripped_at_s or None,
        **({"arm": arm_report(board)} if board.arm_state else {}),
        "cameras": cameras_report(run),
    }


def _loop(run: Run) -> dict[str, Any]:
    """What control said of its loop after the last whole episode; empty before."""
    try:
        found: dict[str, Any] = json.loads((Path(run.run_dir) / LOOP_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found
