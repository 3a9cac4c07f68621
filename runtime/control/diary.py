"""What the control process writes down: one row an episode, and the number of the next one.

Survives a kill at any point: a number is on disk before its episode begins and never used again.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.messages import EpisodeEnd, EpisodeStart
from runtime.control.scene import EpisodePlan
from runtime.run import Run


class Diary:
    """<run>/episodes.jsonl and <run>/episodes.state.json."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rows = Path(run.run_dir) / "episodes.jsonl"
        self._state = Path(run.run_dir) / "episodes.state.json"
        self.next_seq = 0
        if self._state.exists():
            self.next_seq = int(atomic.read_json(self._state)["next_episode_seq"])

    def begin(self, episode_seq: int) -> None:
        """Raises `EntracteError` where that can't be written: the number would be used twice."""
        self.next_seq = episode_seq + 1
        try:
            atomic.write_json(self._state, {"next_episode_seq": self.next_seq})
        except OSError as error:
            raise self._unwritable(error) from error

    def end(self, plan: EpisodePlan, start: EpisodeStart, end: EpisodeEnd, wall_s: float) -> None:
        row = {
            "session_id": self._run.session_id,
            "instruction": start.instruction,
            "policy_version": start.policy_version,
            "reward_version": start.reward_version,
            "started_unix_s": start.started_at_unix_s,
            "wall_s": round(wall_s, 4),
            "rate_hz": self._run.config.loop.rate_hz,
            "max_s": self._run.config.episode.max_s,
            **msgspec.to_builtins(plan),
            **msgspec.to_builtins(end),
        }
        try:
            with self._rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> EntracteError:
        return EntracteError(
            f"the run folder {self._run.run_dir} can't be written",
            found=error.strerror,
            remedy="free some space on its disk",
        )
