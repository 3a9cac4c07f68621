"""What the trainer's parts agree on: stored and scored episodes, `RewardModel`, `Refiner`, `Update`.

Data and protocols, no behaviour. Implementations are named in YAML and loaded by entry point
(`entracte.reward_models`, `entracte.refiners`); a factory is called with keywords only, see
`RewardModelFactory` and `RefinerFactory`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from contracts.frames import FrameContract, Video
from contracts.messages import ABORTED, EpisodeEnd, EpisodeStart, SessionStart
from contracts.reward import RewardSignal


class EpisodeKey(NamedTuple):
    """Identity of an episode, unique over all robots and restarts."""

    robot_id: str
    session_id: str
    episode_seq: int

    def __str__(self) -> str:
        return f"{self.robot_id}__{self.session_id}__{self.episode_seq:08d}"


class Pictures(Protocol):
    """Colour and depth of one episode, decoded when asked for. A step whose picture was lost repeats
    the picture before it (the first picture, before the first)."""

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """uint8[N, H, W, 3] RGB of these steps (all by default; negative counts from the end)."""
        ...

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        """uint16[N, H, W], lossless."""
        ...


@dataclass(frozen=True)
class StoredEpisode:
    """One whole episode on the trainer's disk.

    `columns` are named as in the data set, [T] or [T, n]: "observation.state" and "action" float32 (the
    specs' units), "requested" float32 (what the policy asked of the gate), "chunk", "chunk_index",
    "policy_version", "reward_version", "gate.verdict" int64, "intervention" bool, "reward.*" float32
    (what the robot's own reward engine said), "time.*" float64.
    `arrival` counts episodes in the order in which the trainer stored them.
    """

    key: EpisodeKey
    arrival: int
    session: SessionStart
    start: EpisodeStart
    end: EpisodeEnd
    columns: Mapping[str, np.ndarray]
    pictures: Pictures

    @property
    def steps(self) -> int:
        return len(self.columns["observation.state"])

    @property
    def instruction(self) -> str:
        return self.start.instruction

    @property
    def states(self) -> np.ndarray:
        """float32[T, S]."""
        return self.columns["observation.state"]

    @property
    def actions(self) -> np.ndarray:
        """float32[T, A]: what the gate let through to the arm."""
        return self.columns["action"]

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self.pictures.frames(camera, indices)


@dataclass(frozen=True)
class ScoredEpisode:
    """An episode and what the reward model said of it. `success`: the label that refinement uses, None where
    the reward model abstained or the episode was stopped before it was done; `failure`: why scoring failed,
    "" if it did not."""

    episode: StoredEpisode
    signals: tuple[RewardSignal, ...]
    success: bool | None
    model_id: str
    failure: str = ""
    scoring_s: float = 0.0

    @property
    def stopped(self) -> bool:
        """Whether it has no label because somebody or something stopped it, whatever the model would say."""
        return self.success is None and not self.failure and self.episode.end.reason == ABORTED


@dataclass(frozen=True)
class Update:
    """What a refiner hands to the publisher: new values of exactly the package's refinable tensors of
    one target ("<graph>/<tensor>"), how many candidate chunks the robot should draw, and figures. `answers`:
    what its own network answers with these values to the package's golden inputs (`trainer.answers`): the
    robot's engine is held to it before it acts. Empty where a refiner does not say."""

    tensors: dict[str, np.ndarray]
    samples: int
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
    answers: bytes = b""


class RewardModel(Protocol):
    """Scores whole episodes. May raise: the daemon then abstains for it, counts it and goes on.

    `completion_threshold` and `completion_consecutive` say when the model's completion means done
    (see `trainer.judgement`).
    """

    @property
    def model_id(self) -> str: ...

    @property
    def completion_threshold(self) -> float: ...

    @property
    def completion_consecutive(self) -> int: ...

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        """Signals in the order of their steps, at the model's own rate; the last step is always scored."""
        ...


class VideoRewardModel(Protocol):
    """What any reward model that judges by pictures alone is: a video and an instruction in, a signal out.

    `trainer.rewards.episodes.OnEpisodes` makes a `RewardModel` of it; evaluation, server, distillation and
    pictures take it as it is. It abstains where it can't say (a failed parse, an output that is not
    finite); it may also raise, and whoever calls it then abstains for it.
    """

    @property
    def model_id(self) -> str:
        """Changes with weights, prompt texts, frame contract and settings, with nothing else."""
        ...

    @property
    def contract(self) -> FrameContract:
        """Which frames of a video it looks at."""
        ...

    @property
    def completion_threshold(self) -> float: ...

    @property
    def completion_consecutive(self) -> int: ...

    def score(self, video: Video, instruction: str) -> RewardSignal:
        """The moment of the video's last frame, from that frame and those before it."""
        ...


@runtime_checkable
class BatchedRewardModel(Protocol):
    """A `VideoRewardModel` that judges several videos in one forward pass, in no more than that."""

    def score_batch(self, requests: Sequence[tuple[Video, str]]) -> list[RewardSignal]:
        """One signal a (video, instruction), in their order, as `score` would give them."""
        ...


@runtime_checkable
class GrowingRewardModel(Protocol):
    """A `VideoRewardModel` that keeps what it computed of an episode while the episode goes on."""

    def grow(self, instruction: str) -> Growing: ...


class Growing(Protocol):
    """One episode that goes on. Used by one thread."""

    def see(self, video: Video) -> RewardSignal:
        """`score` of the whole episode so far; `video` holds all of it, and of earlier calls only adds."""
        ...


@runtime_checkable
class DistantRewardModel(Protocol):
    """A reward model whose weights are elsewhere. A trainer goes on without it and abstains; a person who
    waits for scores is told at once."""

    def require_reachable(self) -> None:
        """One try. Raises `EntracteError` where nothing answers."""
        ...


@runtime_checkable
class LiveRewardModel(Protocol):
    """A reward model that can use the wait: it may compute ahead what `score_episode` will need.

    What it is shown here may be incomplete (live frames are dropped under load) and must not change
    any score: key caches by content.
    """

    def watch(self, instruction: str, step: int, images: Mapping[str, np.ndarray]) -> None:
        """`images`: camera -> uint8[H, W, 3] RGB of one step of an episode that is still running."""
        ...


class Refiner(Protocol):
    """Turns scored episodes into new head weights. Deterministic: the same saved state and the same
    episodes give the same update, since a killed iteration is run again."""

    @property
    def package_id(self) -> str:
        """`contracts.package.package_id` of the package that is refined."""
        ...

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        """`iteration` counts from 1."""
        ...

    def save(self, path: Path) -> None:
        """Write everything `load` needs into the new folder `path` (no pickle)."""
        ...

    def load(self, path: Path) -> None: ...


@runtime_checkable
class ReadingRefiner(Protocol):
    """A `Refiner` that can use the wait for the rest of an iteration's episodes."""

    def read(self, scored: ScoredEpisode, iteration: int) -> None:
        """The next one, in their order, of those that `update` of that iteration will be given: what it needs
        of its pictures may be computed now. Must not change what `update` returns, nor be relied on."""
        ...


class RewardModelFactory(Protocol):
    def __call__(
        self,
        *,
        package: Path | None,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
    ) -> RewardModel: ...


class RefinerFactory(Protocol):
    """`package`: the policy's package folder; `demonstrations`: LeRobotDataset folders. One that takes a
    keyword `place` (`trainer.refiners.placement.Placement`), too, is told where to compute if that is not on
    the CPU in one process; others are refused then."""

    def __call__(
        self,
        *,
        package: Path,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
    ) -> Refiner: ...
