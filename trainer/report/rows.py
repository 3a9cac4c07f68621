"""What the report knows of a run: typed rows, whatever files they came from. Data only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

STOPPED = "stopped"


@dataclass(frozen=True)
class Truth:
    """The simulator's verdict on one episode, from the file that only reports read."""

    success: bool
    progress: float = math.nan


@dataclass(frozen=True)
class Judgement:
    """The reward's verdict. `success` None: it abstained, or it was not asked. `silence`: why there is none
    where it was asked: "abstained" (by itself), `STOPPED` (the episode was, by a person or a fault), or how
    it failed ("timeout", "exception", "nan", ...)."""

    success: bool | None = None
    completion: float = math.nan
    process: float = math.nan
    silence: str = ""


class Recording(Protocol):
    """Columns and pictures of one recorded episode, read when asked for."""

    @property
    def cameras(self) -> list[str]: ...

    def columns(self) -> dict[str, np.ndarray]:
        """Named as in the data set, [T] or [T, n]."""
        ...

    def frames(self, camera: str, indices: list[int]) -> np.ndarray:
        """uint8[N, H, W, 3] RGB; negative indices count from the end."""
        ...


@dataclass(frozen=True)
class Episode:
    """One episode of any purpose. `phase`: "base", "refine" or "final"; `iteration` from 1 for "refine".
    `label`: what came with it, a person's word or, where the robot's config says `label: truth`, the
    simulator's; `labels`: whose word says what it teaches (the trainer's `reward.labels`).

    `recording` is None where neither the data set nor a log of it was found.
    """

    session_id: str
    seq: int
    phase: str
    task: str = ""
    instruction: str = ""
    seed: int = -1
    iteration: int = 0
    policy_version: int = 0
    steps: int = 0
    rate_hz: float = math.nan
    max_s: float = math.nan
    reason: str = ""
    started_unix_s: float = math.nan
    timings: dict[str, float] = field(default_factory=dict)
    judgement: Judgement = Judgement()
    label: bool | None = None
    labels: tuple[str, ...] = ("model",)
    truth: Truth | None = None
    recording: Recording | None = None

    @property
    def duration_s(self) -> float:
        return self.steps / self.rate_hz

    @property
    def learned(self) -> bool | None:
        """What refinement took it for, None: for neither a success nor a failure."""
        if self.label is not None and "operator" in self.labels:
            return self.label
        return self.judgement.success if "model" in self.labels else None


@dataclass(frozen=True)
class Iteration:
    """What the trainer says of one finished iteration. `last_arrival`: of its last episode, -1 where an older
    trainer did not tell it. `successes`, `failures`: what refinement took its episodes for, by the word of
    `labels`. `figures`: the refiner's own."""

    number: int
    last_arrival: int = -1
    episodes: int = 0
    successes: int = 0
    failures: int = 0
    abstained: int = 0
    stopped: int = 0
    update_s: float = math.nan
    finished_unix_s: float = math.nan
    labels: tuple[str, ...] = ("model",)
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """One push of the policy's weights to one robot ("": none answered), seen from both ends. Seconds are
    from publishing on, NaN: not reached or not known."""

    publish_seq: int
    robot_id: str = ""
    iteration: int = 0
    nbytes: int = 0
    bytes_on_wire: int = 0
    tensors: tuple[str, ...] = ()
    published_unix_s: float = math.nan
    outcome: str = ""
    reason: str = ""
    episode_seq: int = -1
    verified_s: float = math.nan
    staged_s: float = math.nan
    swapped_s: float = math.nan

    @property
    def pushed_bytes(self) -> int:
        """As the robot counted them, else as published; one that refused it may have fetched nothing."""
        return self.bytes_on_wire or (0 if self.outcome == "rejected" else self.nbytes)


@dataclass(frozen=True)
class Monitor:
    """How one monitor of the reward stood last. Evidence and the limit where it trips in powers of ten."""

    name: str
    counted: int = 0
    alone: int = 0
    evidence_log10: float = math.nan
    limit_log10: float = math.nan


@dataclass(frozen=True)
class Pause:
    """Refinement stood because of a monitor. `resumed`: a person let it go on, saying `note`."""

    monitor: str
    why: str
    unix_s: float = math.nan
    resumed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Monitoring:
    """What became of the watch on the reward. `true_success`: (estimate, low, high), NaN without labels."""

    monitors: tuple[Monitor, ...] = ()
    pauses: tuple[Pause, ...] = ()
    true_success: tuple[float, float, float] = (math.nan, math.nan, math.nan)
    waiting: int = 0


@dataclass(frozen=True)
class Process:
    """One process that the demo ran: its command and how it ended (None: running or unknown)."""

    name: str
    command: str
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunData:
    """Everything found in a run folder, and in `missing` a sentence for each thing that was not."""

    folder: Path
    task: str = ""
    instruction: str = ""
    reward: str = ""
    seed: int | None = None
    planned_iterations: int = 0
    ended: str = ""
    started_unix_s: float = math.nan
    ended_unix_s: float = math.nan
    completion_threshold: float = math.nan
    episodes: tuple[Episode, ...] = ()
    iterations: tuple[Iteration, ...] = ()
    releases: tuple[Release, ...] = ()
    monitoring: Monitoring = Monitoring()
    package_bytes: int = 0
    processes: tuple[Process, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def of(self, phase: str) -> list[Episode]:
        return [episode for episode in self.episodes if episode.phase == phase]
