"""A real, small flow policy, its episodes and demonstrations: what refiners are tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.files.packages import Package
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from contracts.reward import RewardSignal
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from export.policy import package_policy
from trainer.interfaces import EpisodeKey, ScoredEpisode, StoredEpisode
from trainer.policies.flow import FlowConfig, FlowPolicy

HEIGHT, WIDTH, LENGTH = 24, 32, 4
UNITS = ("deg",) * 5 + ("percent",)
OBSERVATION = ObservationSpec((CameraSpec("front", WIDTH, HEIGHT, 10.0),), SO101_JOINTS, UNITS)
ACTION = ActionSpec(
    SO101_JOINTS, UNITS, (-100.0,) * 5 + (0.0,), (100.0,) * 6, (90.0,) * 6, (600.0,) * 6, 10.0
)


class Frames:
    """Pictures in memory."""

    def __init__(self, pictures: np.ndarray) -> None:
        self.pictures = pictures

    def frames(self, camera, indices=None):
        return self.pictures if indices is None else self.pictures[list(indices)]


def episode(seq: int, steps: int = 9, rate_hz: float = 10.0) -> StoredEpisode:
    rng = np.random.default_rng(seq)
    session = SessionStart("r", "s", OBSERVATION, ACTION, "jpeg", "", "", "", "asap")
    start = EpisodeStart("r", "s", seq, "open the drawer", "t", "refine", 0, "", 0, "", seq, 0.0)
    columns = {
        "observation.state": rng.normal(size=(steps, 6)).astype(np.float32) * 20,
        "action": rng.normal(size=(steps, 6)).astype(np.float32) * 20 + 30,
        "time.tick": 5.0 + np.arange(steps) / rate_hz,
        "intervention": np.zeros(steps, bool),
        "gate.verdict": np.zeros(steps, np.int64),
        # Two actions of each chunk are executed, the first of it has passed when it arrives.
        "chunk": np.arange(steps) // 2,
        "chunk_index": 1 + np.arange(steps) % 2,
    }
    columns["requested"] = columns["action"]
    pictures = Frames(rng.integers(0, 255, (steps, HEIGHT, WIDTH, 3), dtype=np.uint8))
    end = EpisodeEnd(seq, steps, "time_limit")
    return StoredEpisode(EpisodeKey("r", "s", seq), seq, session, start, end, columns, pictures)


def scored(seq: int, success: bool | None) -> ScoredEpisode:
    signals = (RewardSignal(0, 0.1), RewardSignal(8, 0.3 + 0.4 * bool(success)))
    return ScoredEpisode(episode(seq), signals, success, "test")


def iteration(number: int, success: bool | None = None) -> list[ScoredEpisode]:
    """Four episodes: half of them successes, or all as told."""
    first = 10 * number
    return [scored(first + k, k % 2 == 0 if success is None else success) for k in range(4)]


def policy() -> FlowPolicy:
    """Random weights, normalisers that are not those of a fresh network."""
    sizes = {"features": 36, "hidden": 16, "blocks": 1, "flow_steps": 2, "critics": 2}
    # Else they would follow from what the tests before this one drew.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = FlowPolicy(
            FlowConfig(
                OBSERVATION,
                ACTION,
                ("front",),
                HEIGHT,
                WIDTH,
                ("drawer", "open", "the"),
                (True,) * 5 + (False,),
                instruction_length=4,
                chunk_length=LENGTH,
                critic_hidden=8,
                **sizes,
            )
        )
    rng = np.random.default_rng(0)
    chunks = rng.normal(size=(50, LENGTH, 6)).astype(np.float32) * 20 + 30
    made.set_statistics(rng.normal(size=(50, 6)).astype(np.float32) * 20, chunks)
    return made


def packaged(made: FlowPolicy, folder: Path) -> Package:
    rng = np.random.default_rng(1)
    examples = {
        "images.front": rng.integers(0, 255, (2, HEIGHT, WIDTH, 3), dtype=np.uint8),
        "state": rng.normal(size=(2, 6)).astype(np.float32),
        "tokens": np.array([[3, 4, 2, 0]] * 2, dtype=np.int64),
    }
    return package_policy(made, examples, folder)


def record(root: Path, fps: int = 10, failed: tuple[int, ...] = ()) -> Path:
    """A data set of two demonstrations, those of `failed` marked as such by a person."""
    features = {
        "observation.state": Feature("float32", (6,), SO101_JOINTS),
        "action": Feature("float32", (6,), SO101_JOINTS),
        "observation.images.front": Feature("video", (HEIGHT, WIDTH, 3)),
    }
    with DatasetWriter.create(root, fps, features, "so101") as writer:
        for seed in range(2):
            made = episode(100 + seed, 8)
            writer.add_episode(
                columns={k: made.columns[k] for k in ("observation.state", "action")},
                frames={"observation.images.front": list(made.frames("front"))},
                depth={},
                task="open the drawer",
                extra={"end": {"operator_success": seed not in failed}},
            )
    return root


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
