"""Episodes and demonstrations as a refiner trains on them: frozen features, action chunks, outcomes.

Owns the reading of pictures through the frozen trunk (once per episode) and the padding of chunks.
Knows no refinement method.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from contracts import language
from contracts.errors import PackageError
from contracts.files.dataset_format import NO_VERDICT, DatasetError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.packages import Package
from contracts.messages import GateBit
from contracts.package import ChunkSpec
from contracts.reward import RewardSignal
from contracts.specs import require_compatible
from trainer.demonstrations import nothing_in, steps_per_action
from trainer.imitate import ImitateOptions, augment
from trainer.interfaces import StoredEpisode
from trainer.outcomes import successful
from trainer.policies.flow import FlowConfig, FlowPolicy
from trainer.policies.noise import FeatureNoise

_TRUNK_BATCH = 32
_ARRAYS = ("features", "chunks", "gains", "along", "helped", "stood", "score")
SHIFT_PX, COLOUR = ImitateOptions().shift_px, ImitateOptions().colour


@dataclass(frozen=True)
class Trajectory:
    """One episode at the chunk rate, thinned: `features` float32[V, M, F] of the frozen trunk on V views of
    the same pictures, `chunks` float32[M, T, A] in arm units (what was executed from there on; after the
    end the last action again), `gains` float32[M] how much further the task is after the chunk than before,
    in [-1, 1], `along` float32[M] how far it is before it (`potential`), `helped` bool[M] whether a person
    showed that chunk: in all of a demonstration, and where somebody took over. `stood` bool[M]: whether the
    arm was kept from moving for most of it, by the gate or by who had taken over (None: never).
    `success`: the label; `score` float32[1]: how well the episode went, in [0, 1] (`scored`; None: as the
    label says)."""

    features: np.ndarray
    chunks: np.ndarray
    gains: np.ndarray
    along: np.ndarray
    success: bool
    helped: np.ndarray
    stood: np.ndarray | None = None
    score: np.ndarray | None = None

    @property
    def moving(self) -> Sequence[int] | np.ndarray:
        """The chunks to imitate: of one in which the arm only waited a policy would learn to wait."""
        every = range(len(self.chunks))
        return every if self.stood is None else np.flatnonzero(~self.stood)

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """All arrays, by name behind `prefix`; `of` takes them back."""
        found = {name: getattr(self, name) for name in _ARRAYS}
        return {f"{prefix}{name}": array for name, array in found.items() if array is not None}

    @staticmethod
    def of(tensors: Mapping[str, np.ndarray], prefix: str, success: bool) -> Trajectory:
        arrays = {n: tensors[f"{prefix}{n}"] for n in _ARRAYS if f"{prefix}{n}" in tensors}
        # States of before it was kept: nobody asked then.
        arrays.setdefault("helped", np.zeros(len(arrays["along"]), bool))
        return Trajectory(**arrays, success=success)


def scored(signals: Sequence[RewardSignal]) -> np.ndarray | None:
    """float32[1]: RoboReward's score n of 1 to 5 at the episode's end, as (n - 1) / 4. The most probable one
    where the reward model gives a distribution, else its last process on that scale; None without either."""
    said = [s for s in signals if not math.isnan(s.process) or s.score_distribution]
    if not said:
        return None
    last = said[-1]
    found = last.score_distribution
    level = int(np.argmax(found)) if found else round(4.0 * last.process)
    return np.array([level / 4.0], np.float32)


def potential(
    signals: Sequence[RewardSignal], steps: int, success: bool, step_discount: float
) -> np.ndarray:
    """float32[steps + 1]: how far along the task is before every step and after the last, in [0, 1].

    The reward model's process between the steps it scored; 1 after a success. Where it gives no process (a
    person's label, say), a success counts for less the longer it takes, and all else for nothing.
    """
    scored = [(s.step, s.process) for s in signals if not math.isnan(s.process)]
    if len(scored) > 1:
        at, process = zip(*scored, strict=True)
        along = np.interp(np.arange(steps + 1), at, process)
    else:
        along = step_discount ** np.arange(steps, -1.0, -1.0) * success
    if success:
        along[-1] = 1.0
    return np.asarray(along, np.float32)


def chunks_at(actions: np.ndarray, starts: np.ndarray, length: int, every: int) -> np.ndarray:
    """float32[M, length, A]: from each start, every `every`-th of actions float32[T, A]; the last repeats."""
    index = starts[:, None] + every * np.arange(length)[None, :]
    return np.ascontiguousarray(actions[np.minimum(index, len(actions) - 1)], dtype=np.float32)


class Hands(NamedTuple):
    """Of M chunks: bool[M] `shown` by a person, who had the arm for most of it and moved what it is asked
    for; `stood`, in most of which the arm was held, or a person had it and moved nothing."""

    shown: np.ndarray
    stood: np.ndarray


def hands_on(columns: Mapping[str, np.ndarray], starts: np.ndarray, ticks: int) -> Hands:
    """Of the chunks executed for `ticks` from each of int[M] `starts`. Where the arm was held until a hand
    was there, and where somebody took over and did nothing, it just stands where the policy left it."""
    verdict, asked = columns["gate.verdict"], columns["requested"]
    held = (verdict != NO_VERDICT) & (verdict & GateBit.HELD != 0)
    hand = columns["intervention"] & ~held
    moved = np.zeros(len(hand), bool)
    # From one tick of theirs to the next: to their first one it is from what the policy asked for.
    moved[1:] = hand[1:] & hand[:-1] & (asked[1:] != asked[:-1]).any(1)
    ends = np.minimum(starts + ticks, len(hand))

    def within(found: np.ndarray) -> np.ndarray:
        before = np.concatenate([[0], np.cumsum(found)])
        many: np.ndarray = before[ends] - before[starts]
        return many

    shown = (2 * within(hand) > ends - starts) & (within(moved) > 0)
    stood = (2 * within(hand | held) > ends - starts) & (within(moved) == 0)
    return Hands(shown, stood)


def outcomes(own: Sequence[Trajectory], fresh: Sequence[Trajectory]) -> dict[str, float]:
    """Figures of all episodes so far and of the fresh ones."""
    successes = sum(kept.success for kept in own)
    return {
        "successes": float(successes),
        "failures": float(len(own) - successes),
        "fresh_success": float(np.mean([float(kept.success) for kept in fresh] or [0.0])),
    }


def noise_scales(
    noise: FeatureNoise, demonstrations: Sequence[Trajectory], config: FlowConfig
) -> torch.Tensor:
    """float32[F]: how much noise a head's features get. From the demonstrations, not from all episodes: the
    same from the first update to the last."""
    seen = [kept.features.reshape(-1, config.features) for kept in demonstrations]
    known = np.concatenate(seen or [np.zeros((1, config.features))]).astype(np.float32)
    return noise.scales(torch.from_numpy(known), config)


class FrozenTrunk:
    """Observations to features, as the robot's trunk engine computes them."""

    def __init__(self, package: Package, policy: FlowPolicy) -> None:
        manifest = package.manifest
        if manifest.chunk is None:
            raise PackageError(f"package {package.folder} says nothing of its chunks")
        self.chunk: ChunkSpec = manifest.chunk
        self.manifest = manifest
        self._trunk = policy.trunk.eval().requires_grad_(False)

    def trajectory(
        self,
        episode: StoredEpisode,
        success: bool,
        thin: int,
        views: int = 1,
        rng: np.random.Generator | None = None,
        signals: Sequence[RewardSignal] = (),
        discount: float = 1.0,
        execute: int = 0,
    ) -> Trajectory:
        """An episode of the robot's, every `thin`-th step of the chunk rate. `signals` are the reward
        model's, `discount` is that of `potential` per action, `execute` how many actions of a chunk are
        executed (0: all)."""
        every = self.ticks_per_action(episode)
        starts = np.arange(0, episode.steps, every * thin)
        pictures = [episode.frames(name, starts.tolist()) for name in self.manifest.cameras]
        states, text = episode.states[starts], episode.instruction
        features = self.views(pictures, states, text, views, rng)
        along = potential(signals, episode.steps, success, discount ** (1.0 / every))
        columns, whole = episode.columns, every * self.chunk.length
        helped = hands_on(columns, starts, every * execute or whole).shown
        stood = hands_on(columns, starts, whole).stood
        kept = self._cut(features, episode.actions, starts, every, along, helped, success=success)
        return dataclasses.replace(
            kept, stood=stood if stood.any() else None, score=scored(signals)
        )

    def require_fitting(self, episode: StoredEpisode) -> None:
        """Raises `SpecMismatch` for an episode of a robot that the package is not for, and `DatasetError` for
        a state or action that is not finite: one of them would ruin every weight."""
        session, wanted = episode.session, self.manifest
        action = wanted.action or session.action
        what = "the package that is refined"
        require_compatible(wanted.observation, action, session.observation, session.action, what)
        for name in ("observation.state", "action"):
            if not np.isfinite(episode.columns[name]).all():
                raise DatasetError(f"'{name}'", expected="finite values", found="others")

    def ticks_per_action(self, episode: StoredEpisode) -> int:
        """Ticks of that robot's loop to a period of the chunk rate."""
        times = episode.columns["time.tick"]
        tick_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0 / self.chunk.rate_hz
        return _ticks_per_action(tick_s, self.chunk.rate_hz)

    def lateness(self, episode: StoredEpisode) -> int | None:
        """How many actions of its chunks have passed when they arrive, most often. None: it has no two."""
        chunk, place = episode.columns["chunk"], episode.columns["chunk_index"]
        first = np.flatnonzero((np.diff(chunk) != 0) & (place[1:] >= 0)) + 1
        return int(np.median(place[first])) if len(first) else None

    def demonstrations(
        self,
        folders: Iterable[Path],
        thin: int,
        views: int = 1,
        rng: np.random.Generator | None = None,
    ) -> list[Trajectory]:
        """The episodes of these data sets that imitation takes, too (`trainer.outcomes`), as
        successes. Raises `ConfigError` for a data set of another rate or without any."""
        found = []
        for folder in folders:
            reader = DatasetReader(folder)
            every = steps_per_action(reader, self.chunk.rate_hz)
            taken = [n for n in range(reader.num_episodes) if successful(reader.meta(n))]
            if not taken:
                raise nothing_in(reader)
            for index in taken:
                columns = reader.episode(index, ["observation.state", "action"])
                actions = columns["action"]
                starts = np.arange(0, len(actions), every * thin)
                pictures = [
                    reader.frames(index, f"observation.images.{camera}", starts.tolist())
                    for camera in self.manifest.cameras
                ]
                states, text = columns["observation.state"][starts], str(reader.meta(index)["task"])
                features = self.views(pictures, states, text, views, rng)
                # Nobody scored a demonstration: how far along it is is not known.
                unknown = np.zeros(len(actions) + 1, np.float32)
                helped = np.ones(len(starts), bool)
                kept = self._cut(features, actions, starts, every, unknown, helped, success=True)
                found.append(kept)
        return found

    def views(
        self,
        pictures: Sequence[np.ndarray],
        states: np.ndarray,
        text: str,
        count: int,
        rng: np.random.Generator | None,
    ) -> np.ndarray:
        """float32[count, M, F]: of the pictures as they are, then of augmented ones (as in imitation)."""
        found = [self.features(pictures, states, text)]
        for _ in range(count - 1):
            assert rng is not None, "augmentation needs a source of chance"
            moved = [
                augment(batch, SHIFT_PX, COLOUR, rng).round().numpy().astype(np.uint8)
                for batch in self._sized(pictures)
            ]
            found.append(self.features(moved, states, text))
        return np.stack(found)

    def _sized(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        height, width = self.manifest.image_height, self.manifest.image_width
        return [_resized(batch, height, width) for batch in pictures]

    def features(self, pictures: Sequence[np.ndarray], states: np.ndarray, text: str) -> np.ndarray:
        """float32[M, F] from uint8[M, H, W, 3] per camera, in the manifest's order, and [M, S]."""
        tokens = language.encode(text, self.manifest.vocabulary, self.manifest.instruction_length)
        sized = self._sized(pictures)
        out = []
        with torch.inference_mode():
            for start in range(0, len(states), _TRUNK_BATCH):
                part = slice(start, start + _TRUNK_BATCH)
                images = [torch.from_numpy(batch[part]) for batch in sized]
                state = torch.from_numpy(np.asarray(states[part], dtype=np.float32))
                token = torch.from_numpy(tokens)[None].expand(len(state), -1)
                out.append(self._trunk(*images, state, token).numpy())
        return np.concatenate(out)

    def _cut(
        self,
        features: np.ndarray,
        actions: np.ndarray,
        starts: np.ndarray,
        every: int,
        along: np.ndarray,
        helped: np.ndarray,
        *,
        success: bool,
    ) -> Trajectory:
        ends = np.minimum(starts + every * self.chunk.length, len(actions))
        chunks = chunks_at(actions, starts, self.chunk.length, every)
        gains = along[ends] - along[starts]
        return Trajectory(features, chunks, gains, along[starts], success, helped)


def _ticks_per_action(tick_s: float, rate_hz: float) -> int:
    return max(1, round(1.0 / (tick_s * rate_hz)))


def _resized(pictures: np.ndarray, height: int, width: int) -> np.ndarray:
    if pictures.shape[1:3] == (height, width):
        return np.ascontiguousarray(pictures)
    sized = [cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures]
    return np.stack(sized)
