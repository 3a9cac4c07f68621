"""What is true of an episode's success, who is told of it, and the row of the truth file that says it.

Of whatever simulation there is; what success means is the simulation's. Truth leaves only where the protocol
(`runtime.bench.protocol`) says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from runtime.bench.protocol import Finish, Reset
from runtime.run import Run


class Verdict:
    """`begin` an episode, `judge` whenever time has passed, `write` at its end."""

    def __init__(self, run: Run, already_s: float) -> None:
        """`already_s`: how long success has lasted by the time that the simulation says so."""
        self._run, self._already_s = run, already_s
        self.asked: Reset | None = None
        self._since_s: float | None = None
        self._first_s = math.nan
        self._best = self._started_s = 0.0

    def begin(self, asked: Reset, now_s: float) -> None:
        """Another episode, of the scene that was `asked` for."""
        self.asked, self._since_s, self._first_s = asked, None, math.nan
        self._best, self._started_s = 0.0, now_s

    def judge(self, success: bool, progress: float, now_s: float) -> None:
        """What is true now."""
        self._best = max(self._best, progress)
        if not success:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
            if math.isnan(self._first_s):
                self._first_s = now_s

    @property
    def label(self) -> bool:
        """Whether the configuration has this truth tell the robot."""
        return self._run.config.episode.label == "truth"

    def finished(self, now_s: float) -> bool:
        """Success has lasted: told in evaluation, in recordings and in comparison runs only."""
        if self.asked is None or self._since_s is None:
            return False
        told = self.asked.purpose in ("evaluate", "record") or self.label
        lasted_s = now_s - self._since_s + self._already_s
        return told and lasted_s >= self._run.config.episode.success_hold_s - 1e-6

    def write(
        self,
        end: Finish,
        instruction: str,
        success: bool,
        progress: float,
        events: Sequence[str],
    ) -> bool | None:
        """The episode's row; whether it succeeded, None where that is nobody's business."""
        asked = self.asked
        assert asked is not None
        known = not math.isnan(self._first_s)
        row = {
            "task": asked.task,
            "seed": asked.seed,
            "split": asked.split,
            "instruction": instruction,
            "episode_seq": end.episode_seq,
            "session_id": self._run.session_id,
            "purpose": asked.purpose,
            "style": asked.style,
            "success": success,
            "ever_success": known,
            "success_at_s": round(self._first_s - self._started_s, 3) if known else None,
            "progress": round(progress, 4),
            "best_progress": round(self._best, 4),
            "steps": end.steps,
            "reason": end.reason,
            "policy_version": end.policy_version,
            "events": list(events),
        }
        with self._run.truth_path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return success if self.label or asked.purpose == "record" else None
