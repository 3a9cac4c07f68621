"""Episodes that the robot's own policy runner and scheduler drove: what on-policy refiners learn from."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from contracts.files.packages import Package
from runtime.config import PolicySection
from runtime.control.scheduler import Chunk, Scheduler
from runtime.engines import open_engine, options_of
from runtime.models.policy import PolicyRunner
from trainer.interfaces import ScoredEpisode


class Driver:
    """Acts by a package, or other `weights` of it. Where the arm is is the episode's, whatever was asked."""

    def __init__(
        self,
        package: Package,
        weights: dict[str, np.ndarray] | None = None,
        explore_deg: float = 3.0,
        samples: int = 0,
    ) -> None:
        self.section = PolicySection(seed=3, explore_deg=explore_deg, samples=samples)
        options = options_of(self.section)
        trunk, head = (open_engine(package, graph, options) for graph in ("trunk", "head"))
        head = head if weights is None else head.standby(weights)
        swapper: Any = SimpleNamespace(
            engine=head,
            run=head.run,
            version=0,
            active=SimpleNamespace(samples=1),
            remember=lambda _inputs: None,
        )
        self._runner = PolicyRunner(package, trunk, swapper, self.section)

    def drive(
        self, scored: ScoredEpisode, version: int = 0, latency: int = 1, lag: float = 0.0
    ) -> ScoredEpisode:
        """The same episode with what this policy asked of the gate in its columns."""
        episode, runner = scored.episode, self._runner
        tick = episode.columns["time.tick"]
        scheduler = Scheduler(round(1.0 / float(tick[1] - tick[0]) / runner.chunk.rate_hz), 2)
        runner.begin_episode(episode.instruction, abs(episode.start.scene_seed), explore=True)
        asked = np.zeros((episode.steps, len(runner.manifest.action.names)), np.float32)
        whole, begun, under_way = (
            np.full((2, episode.steps), -1),
            np.full(episode.steps, math.nan),
            None,
        )
        for step in range(episode.steps):
            if under_way is None and scheduler.is_due(step):
                seen = {name: episode.frames(name, [step])[0] for name in runner.manifest.cameras}
                number = scheduler.asked(step)
                made = runner.infer(seen, episode.states[step], number)
                under_way = Chunk(number, step, made.actions, float(tick[step]), lag)
            if under_way is not None and step >= under_way.step + latency:
                scheduler.accept(under_way, step)
                taken, under_way = under_way, None
            choice = scheduler.choose(step)
            if choice.action is not None:
                asked[step], begun[step] = choice.action, taken.started_s
                whole[:, step] = choice.chunk, choice.index
        columns = {
            **episode.columns,
            "requested": asked,
            "chunk": whole[0],
            "chunk_index": whole[1],
            "time.inference": begun,
        }
        start = msgspec.structs.replace(
            episode.start,
            policy_version=version,
            policy_seed=self.section.seed,
            explore_deg=self.section.explore_deg,
        )
        return dataclasses.replace(
            scored, episode=dataclasses.replace(episode, columns=columns, start=start)
        )
