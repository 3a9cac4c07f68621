"""What a person is shown of a run, as plain data read from shared memory and the run folder."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError
from runtime.board import Board, LoopState, TripReason
from runtime.cautions import sentences
from runtime.frames import CaptureState, FrameSlots
from runtime.operator.floor import Flag, read_helm, read_outcomes, read_phase
from runtime.operator.window import Window
from runtime.run import EXIT_FILE, Run

SIGNALS_S = 60.0
"""How much of the reward signals is kept for the plot."""
_CAMERA_COUNTERS = ("late", "dropped", "frozen", "errors", "opened")


class Looker:
    """Reads a run that may not be there yet, or not any more; never raises for that. For several threads."""

    def __init__(self, run: Run, board: Board) -> None:
        self.run, self.board = run, board
        self._lock = threading.RLock()
        self._realtime = run.config.pace == "realtime"
        """Else time stands while control thinks, and no age means anything."""
        self._slots: dict[str, FrameSlots] = {}
        self._window: Window | None = None
        self._row = 0
        self.signals: deque[tuple[int, float, float, float, float]] = deque(maxlen=4000)
        """(tick, seconds on the run's clock, process, completion, contrastive) of ticks that brought any."""
        self._shown_s = 0.0
        self._joints: list[str] = []
        """Known once control has opened the arm."""

    def slots(self, camera: str) -> FrameSlots | None:
        """A camera's pictures, once somebody writes them."""
        with self._lock, contextlib.suppress(EntracteError, OSError, ValueError):
            if camera not in self._slots:
                self._slots[camera] = FrameSlots.open(self.run.frames_path(camera))
            return self._slots[camera]
        return None

    def window(self) -> Window | None:
        with self._lock, contextlib.suppress(EntracteError, OSError, ValueError):
            if self._window is None:
                self._window = Window.open(self.run.window_path)
        return self._window

    def look(self) -> dict[str, Any]:
        """One reading of everything, fit for JSON; call it a few times a second."""
        with self._lock:
            found: dict[str, Any] = _for_json(self._look())
            return found

    def recent(self, seconds: float) -> list[tuple[int, float, float, float, float]]:
        """Signals of the last so many seconds of episodes: [tick, seconds on the run's clock, scores]."""
        with self._lock:
            return [
                (number, round(at_s, 2), *(_for_json(round(score, 4)) for score in scores))
                for number, at_s, *scores in self.signals
                if self._shown_s - at_s <= seconds
            ]

    def about(self) -> dict[str, Any]:
        """What doesn't change: names and what can be done here."""
        config = self.run.config
        return {
            "robot": config.robot.id,
            "session": self.run.session_id,
            "task": config.episode.instruction or config.episode.task,
            "purpose": self.run.plan.purpose,
            "cameras": list(config.cameras),
            "picture_rate_hz": config.operator.picture_rate_hz,
            "jogs": config.operator.teleoperator == "keyboard",
        }

    # -- inside

    def _look(self) -> dict[str, Any]:
        board, now_s = self.board, time.monotonic()
        self._collect()
        state = LoopState(board.loop_state)
        tripped = TripReason(board.watchdog_tripped)
        phase, flags = read_phase(board)
        successes, judged = read_outcomes(board)
        lights = {flag.name.lower(): flag in flags for flag in Flag if flag.name}
        return {
            "session": self.run.session_id,
            "state": state.name.lower(),
            "phase": phase.name.lower(),
            "reason": self._reason(state, tripped),
            "latched": state in (LoopState.FAULT, LoopState.ESTOP) or bool(tripped),
            **lights,
            "helm": read_helm(board),
            "joints": self._joints,
            "stopping": bool(board.stop_requested or board.estop_requested),
            "label_wanted": board.label_wanted,
            "episode": board.episode_seq,
            "episodes_done": board.episodes_done,
            "step": board.step,
            "episode_s": round(board.step / self.run.config.loop.rate_hz, 1),
            "episode_max_s": self.run.config.episode.max_s,
            "successes": successes,
            "judged": judged,
            "reset_progress": round(board.reset_progress, 3),
            "tick": board.tick,
            "rate_hz": round(board.loop_rate_hz, 2),
            "rate_wanted_hz": self.run.config.loop.rate_hz,
            "lateness_p99_ms": round(1e3 * board.lateness_p99_s, 2),
            "missed": board.missed_ticks,
            "held": board.held_ticks,
            "gate_changed": board.gate_interventions,
            "cautions": sentences(board),
            "abstained": board.rewards_abstained,
            "policy_version": board.policy_version,
            "reward_version": board.reward_version,
            "watchdog": tripped.name.lower().replace("_", " "),
            "watchdog_age_s": _age(now_s, board.watchdog_beat_s),
            "loop_age_s": _age(now_s, board.tick_at_s) if self._realtime else None,
            "cameras": {name: self._camera(name, now_s) for name in self.run.config.cameras},
        }

    def _collect(self) -> None:
        window = self.window()
        if window is None:
            return
        if not self._joints:
            self._joints = [name.removesuffix(".pos") for name in window.about().names]
        rows, _ = window.since(self._row)
        for row in rows:
            self._row = row.number
            if not math.isnan(row.process) or not math.isnan(row.completion):
                scores = (row.process, row.completion, row.contrastive)
                self.signals.append((row.number, row.at_s, *scores))
            self._shown_s = row.at_s

    def _camera(self, name: str, now_s: float) -> dict[str, Any]:
        slots = self.slots(name)
        if slots is None:
            return {"state": "waiting", "pictures": 0, "age_s": None}
        counters = slots.counters()
        at_s = slots.captured_s
        # Who draws pictures (the bench) has no device that could be lost.
        state = CaptureState.LIVE if slots.state is CaptureState.STARTING and at_s else slots.state
        found: dict[str, Any] = {
            "state": state.name.lower(),
            "pictures": slots.pictures,
            "age_s": _age(now_s, at_s) if self._realtime else None,
        }
        return found | {key: counters[key] for key in _CAMERA_COUNTERS}

    def _reason(self, state: LoopState, tripped: TripReason) -> str:
        if tripped:
            return f"the watchdog took the arm: {tripped.name.lower().replace('_', ' ')}"
        if state in (LoopState.FAULT, LoopState.ESTOP) and (said := last_words(self.run)):
            return said
        window = self.window()
        return window.said() if window else ""


def last_words(run: Run) -> str:
    """Why control left, where it said so."""
    for folder in (run.run_dir, run.shm_dir):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads((Path(folder) / EXIT_FILE).read_text())["what"])
    return ""


def _age(now_s: float, at_s: float) -> float | None:
    return round(now_s - at_s, 3) if at_s > 0 else None


def _for_json(value: Any) -> Any:
    """JSON has no NaN and no infinity: a browser refuses the whole event for one of them."""
    if isinstance(value, dict):
        return {key: _for_json(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
