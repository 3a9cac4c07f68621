"""What happens around the robot between and during episodes: setting the scene, a teleoperator, labels.

Owns the experimenter's connection to the bench. On a real robot people do this, and `ManualScene` says
so little. Never carries truth in runs that learn from a reward model.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

from contracts.errors import ConfigError
from runtime.bench.protocol import (
    Advance,
    BenchClient,
    Done,
    Expert,
    ExpertMove,
    Finish,
    Finished,
    Reset,
    SceneReady,
)
from runtime.run import Run

RESET_TIMEOUT_S = 60.0
_AROUND_S = 64.0


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """One episode to run. `seed` of the scene, -1 on a real robot. `at_s`: in lockstep, when it begins on the
    clock, unless that is past."""

    episode_seq: int
    task: str
    seed: int
    purpose: str
    style: str = ""
    at_s: float = 0.0


def lockstep_slot_s(max_s: float) -> float:
    """How far apart on the simulated clock two episodes of an evaluation begin: a power of two, which adds no
    rounding, with room for coming to rest and for what brings the arm back."""
    return float(2.0 ** math.ceil(math.log2(max_s + _AROUND_S)))


@dataclass(frozen=True, slots=True)
class Move:
    """The teleoperator's targets; `progress`/`success` only in recordings that ask for labels."""

    targets: tuple[float, ...]
    done: bool
    progress: float = math.nan
    success: bool | None = None


class Scene(Protocol):
    """Everything of an episode that isn't the robot."""

    def set_up(self, plan: EpisodePlan) -> tuple[str, float]:
        """Make the scene ready; returns (instruction, time on the robot's clock from which pictures
        show it). May take seconds. Raises `DeviceError`."""
        ...

    def advance(self, to_s: float) -> float:
        """Lockstep: let time pass; returns the new now."""
        ...

    def finished(self) -> bool:
        """Somebody says that the episode is over: evaluation, recordings, comparison runs."""
        ...

    def progress(self) -> float:
        """How far along the task is, by the bench's own verdict; NaN but in comparison runs."""
        ...

    def teleoperate(self) -> Move: ...

    def finish(
        self, plan: EpisodePlan, reason: str, steps: int, policy_version: int
    ) -> bool | None:
        """The episode ended; a label, if this scene gives one."""
        ...

    def close(self) -> None: ...


class BenchScene:
    """The experimenter's side of the bench process."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._client = BenchClient(run.bench_address, "scene", RESET_TIMEOUT_S)
        self._lockstep = run.config.pace == "asap"
        purpose, label = run.plan.purpose, run.config.episode.label
        self._told = purpose in ("evaluate", "record") or label == "truth"
        self._finished, self._progress = False, math.nan

    def set_up(self, plan: EpisodePlan) -> tuple[str, float]:
        split = self._run.config.bench.split
        known = plan.task, plan.seed, split, plan.episode_seq, plan.purpose, plan.style
        request = Reset(*known, plan.at_s)
        ready = self._client.ask(request, SceneReady)
        self._finished, self._progress = False, math.nan
        return self._run.config.episode.instruction or ready.instruction, ready.now_s

    def advance(self, to_s: float) -> float:
        done = self._client.ask(Advance(to_s), Done)
        self._finished, self._progress = done.finished, done.progress
        return done.now_s

    def finished(self) -> bool:
        if self._told and not self._lockstep:
            done = self._client.ask(Advance(0.0), Done)
            self._finished, self._progress = done.finished, done.progress
        return self._finished

    def progress(self) -> float:
        return self._progress

    def teleoperate(self) -> Move:
        move = self._client.ask(Expert(), ExpertMove)
        return Move(move.targets, move.done, move.progress, move.success)

    def finish(
        self, plan: EpisodePlan, reason: str, steps: int, policy_version: int
    ) -> bool | None:
        request = Finish(plan.episode_seq, reason, steps, policy_version)
        return self._client.ask(request, Finished).success

    def close(self) -> None:
        self._client.close()


class ManualScene:
    """A real robot: people put things back between episodes."""

    def __init__(self, run: Run) -> None:
        self._instruction = run.config.episode.instruction
        if not self._instruction:
            raise ConfigError(
                "no instruction", remedy="set episode.instruction: a robot has no scene to ask"
            )

    def set_up(self, plan: EpisodePlan) -> tuple[str, float]:
        del plan
        return self._instruction, time.monotonic()

    def advance(self, to_s: float) -> float:
        return to_s

    def finished(self) -> bool:
        return False

    def progress(self) -> float:
        return math.nan

    def teleoperate(self) -> Move:
        raise ConfigError(
            "no teleoperator is configured", remedy="record with --expert on the bench"
        )

    def finish(
        self, plan: EpisodePlan, reason: str, steps: int, policy_version: int
    ) -> bool | None:
        del plan, reason, steps, policy_version
        return None

    def close(self) -> None:
        pass


def open_scene(run: Run) -> Scene:
    return BenchScene(run) if run.config.bench.enabled else ManualScene(run)
