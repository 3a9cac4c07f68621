"""The monitors at work: hears of every scored episode, chooses what a person is to label, pauses refinement.

Of the worker's thread. Owns when refinement stands; the tests are `trainer.monitors.verdicts`'.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.config import TrainerConfig
from trainer.interfaces import EpisodeKey, ScoredEpisode
from trainer.metrics import Metrics
from trainer.monitors.records import Pause, Records, Row, waiting
from trainer.monitors.second import open_second, said
from trainer.monitors.verdicts import judged, true_success

LOOK_S = 1.0
NEWEST = 100
"""Episodes that the newer of two estimates is over."""
RESUME = "robot-trainer monitors resume"


class Monitors:
    """Of one run folder and the reward model in use: what another model said before says nothing of it."""

    def __init__(
        self,
        root: Path,
        config: TrainerConfig,
        model_id: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Goes on from what is on disk, and judges it: a kill may have come before the pause that it asks
        for, and people label while no daemon runs. Raises `EntracteError`: a second model that can't be
        opened, a damaged state."""
        self._config, self._rules = config, config.monitors
        self._model_id, self._metrics, self._clock = model_id, metrics, clock
        self._records = Records(root)
        self._second = open_second(config)
        self._looked_s = -math.inf
        self._stamp: tuple[object, ...] = ()
        self._rows = [row for row in self._records.rows() if row.model_id == model_id]
        self._known = {row.key for row in self._rows}
        self._read()
        self._judge()

    @property
    def paused(self) -> str:
        """Why refinement stands, "" while it may go on."""
        pause = self._standing.pause
        return f"{pause.monitor}: {pause.why}; {RESUME} lets it go on" if pause else ""

    def see(self, scored: ScoredEpisode) -> None:
        """One scored episode of refinement, in order of arrival; one that was seen before changes nothing.
        Raises `OSError` where the disk does not take it."""
        key = scored.episode.key
        if str(key) in self._known:
            return
        row = self._row(scored)
        self._records.add_row(row)
        self._rows.append(row)
        self._known.add(row.key)
        self._verdicts.add(row, counts=row.arrival > self._standing.since)
        if row.operator is not None:
            self._verdicts.label(row, row.operator)
        self._judge()

    def look(self, *, now: bool = False) -> None:
        """Labels, and a person's leave to go on, that came from another process. Asks the disk once a second
        unless `now`."""
        if not now and self._clock() - self._looked_s < LOOK_S:
            return
        self._looked_s = self._clock()
        if self._records.stamp() == self._stamp:
            return
        before = self._standing.pause
        self._read()
        if before is not None and self._standing.pause is None:
            note = self._standing.note
            self._metrics.add("resumed", monitor=before.monitor, why=before.why, note=note)
        self._judge()

    def figures(self) -> dict[str, Any]:
        """For the metrics: evidence of each monitor in powers of ten, and true success as estimated."""
        window = self._config.iteration.episodes
        found: dict[str, Any] = {"waiting": len(waiting(self._rows, self._labels))}
        for figure in self._verdicts.figures():
            found[figure.monitor] = {
                "counted": figure.counted,
                "alone": figure.alone,
                "evidence_log10": figure.log_evidence / math.log(10),
                "limit_log10": figure.limit / math.log(10),
            }
        for name, rows in (("all", self._rows), ("newest", self._rows[-NEWEST:])):
            success = true_success(rows, self._labels, window)
            found[f"true_success_{name}"] = [success.value, success.low, success.high]
        return found

    def _read(self) -> None:
        self._stamp = self._records.stamp()
        self._standing = self._records.standing()
        self._labels = self._records.labels()
        self._verdicts = judged(self._rules, self._rows, self._labels, self._standing.since)

    def _judge(self) -> None:
        """A pause, durable before anything else is done, where a monitor has tripped."""
        if self._standing.pause is not None or not self._rows:
            return
        for figure in self._verdicts.figures():
            if not figure.tripped:
                continue
            arrival = self._rows[-1].arrival
            pause = Pause(figure.monitor, figure.words, arrival, time.time())
            self._records.pause(pause)
            self._standing = self._records.standing()  # labels may have come: the stamp stays
            self._metrics.add("paused", **self.figures(), monitor=pause.monitor, why=pause.why)
            return

    def _row(self, scored: ScoredEpisode) -> Row:
        episode = scored.episode
        verdict, score = said(scored)
        second, second_score = self._second.of(episode) if self._second else (None, None)
        operator = episode.end.operator_success
        chance, drawn = 1.0, 1.0
        if operator is None:
            chance = self._chance(score, second_score)
            drawn = _drawn(self._config.seed, episode.key)
        return Row(
            key=str(episode.key),
            arrival=episode.arrival,
            model_id=self._model_id,
            verdict=verdict,
            score=score,
            second=second,
            second_score=second_score,
            operator=operator,
            base=episode.start.policy_version == 0,
            chance=chance,
            chosen=drawn < chance,
            random=drawn < self._rules.audit.share,
            unix_s=time.time(),
        )

    def _chance(self, score: float | None, second: float | None) -> float:
        """Of a person being asked: the same share of all, and the more the more the two differ."""
        audit = self._rules.audit
        if score is None or second is None:
            return audit.share
        if len(waiting(self._rows, self._labels)) >= audit.most_open:
            return audit.share
        return audit.share + (1.0 - audit.share) * min(abs(score - second), 1.0)


def _drawn(seed: int, key: EpisodeKey) -> float:
    """Uniform in [0, 1), the same at every restart."""
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
