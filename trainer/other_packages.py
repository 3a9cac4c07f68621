"""Episodes of robots that run another package than the one that is refined: counted, and told once a robot.

Their policy_version is a number of other releases, or of none, and what they show is another policy's.
"""

from __future__ import annotations

import contextlib
import sys

from trainer.metrics import Metrics
from trainer.store import IndexEntry


class OtherPackages:
    """Of one refiner, whose package is `ours`."""

    def __init__(self, ours: str, metrics: Metrics) -> None:
        self._ours, self._metrics = ours, metrics
        self._told: set[str] = set()
        self.episodes = 0
        """Since the last iteration."""

    def hold(self, entry: IndexEntry) -> bool:
        """Whether that episode is known to be of another package."""
        return entry.policy_id not in ("", self._ours)

    def count(self, entry: IndexEntry) -> None:
        self.episodes += 1
        if entry.robot_id in self._told:
            return
        self._told.add(entry.robot_id)
        found = {"robot_id": entry.robot_id, "policy_id": entry.policy_id, "refined": self._ours}
        self._metrics.add("other_package", **found)
        with contextlib.suppress(OSError):  # what it is printed to may be gone
            print(
                f"robot-trainer: robot {entry.robot_id!r} runs package {entry.policy_id!r}, and"
                f" {self._ours} is refined: its episodes are stored and scored, and not learned from."
                " Give it that package",
                file=sys.stderr,
                flush=True,
            )
