"""A refiner and two reward models small enough for tests, in a package of their own.

`TinyRefiner` moves the head's bias by what it saw; `BrightnessReward` looks at pictures, live ones too;
`MoodyReward` raises, returns NaN or sleeps, by episode number; `MortalReward` is killed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.files.packages import load_package
from contracts.reward import RewardSignal
from trainer.interfaces import ScoredEpisode, StoredEpisode, Update


class TinyRefiner:
    """bias += 0.01 * (1 + successes), in every iteration; `sleep_s` makes an update last. The release of
    iteration `wild_at` is refused by any robot: its weights are far from the package's own. That of
    `spoil_at` holds NaN, in the refiner as well, or other tensors than the package's, as `spoil` says. After
    iteration `unsaved_at` (0: as it was opened) its state can't be saved whole."""

    def __init__(
        self,
        *,
        package: Path,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
    ) -> None:
        loaded = load_package(package)
        self.package_id = loaded.package_id
        self._tensors = loaded.refinable_weights()
        self._seen: list[int] = []
        self.ahead: list[tuple[int, int]] = []
        self._options, self._iteration = options, 0
        self._moved = options.get("tensor", "head/bias")

    def read(self, scored: ScoredEpisode, iteration: int) -> None:
        if iteration == self._options.get("unreadable_at"):
            raise RuntimeError("this refiner was told not to read ahead")
        self.ahead.append((scored.episode.key.episode_seq, iteration))

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        self._iteration = iteration
        if marker := self._options.get("marker"):
            Path(marker).write_text(str(iteration))
        if iteration == self._options.get("fail_at"):
            raise RuntimeError("this refiner was told to fail")
        time.sleep(float(self._options.get("sleep_s", 0)))
        successes = sum(scored.success is True for scored in episodes)
        self._tensors[self._moved] = self._tensors[self._moved] + np.float32(0.01 * (1 + successes))
        self._seen += [scored.episode.key.episode_seq for scored in episodes]
        figures = {"seen": float(len(self._seen)), "distinct": float(len(set(self._seen)))}
        tensors = dict(self._tensors)
        if iteration == self._options.get("spoil_at"):
            if self._options["spoil"] == "names":
                tensors["head/other"] = tensors.pop(self._moved)
            else:
                self._tensors[self._moved] = tensors[self._moved] = tensors[self._moved] * math.nan
        if iteration == self._options.get("wild_at"):
            tensors[self._moved] = tensors[self._moved] * np.float32(1e6)
        return Update(tensors, 3, figures)

    def save(self, path: Path) -> None:
        np.save(path / "bias.npy", self._tensors[self._moved], allow_pickle=False)
        if self._iteration == self._options.get("unsaved_at"):
            raise RuntimeError("this refiner was told not to save")
        np.save(path / "seen.npy", np.array(self._seen, np.int64), allow_pickle=False)

    def load(self, path: Path) -> None:
        self._tensors[self._moved] = np.load(path / "bias.npy", allow_pickle=False)
        self._seen = np.load(path / "seen.npy", allow_pickle=False).tolist()


class _Plugin:
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(
        self,
        *,
        package: Path | None,
        demonstrations: Sequence[Path],
        options: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.options = options


class BrightnessReward(_Plugin):
    """Progress is the mean brightness; means are cached by the picture's hash, which `watch` fills."""

    model_id = "brightness"

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._means: dict[bytes, float] = {}
        self.watched = self.hits = 0

    def watch(self, instruction: str, step: int, images: Mapping[str, np.ndarray]) -> None:
        self.watched += 1
        mean = self._mean(images["front"])
        if seen := self.options.get("seen"):
            with Path(seen).open("a") as file:
                file.write(json.dumps({"step": step, "mean": mean}, separators=(",", ":")) + "\n")

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        frames = episode.frames("front")
        means = []
        for frame in frames:
            self.hits += hashlib.sha256(frame.tobytes()).digest() in self._means
            means.append(self._mean(frame))
        return [
            RewardSignal(i, process=m, completion=m, model_id=self.model_id)
            for i, m in enumerate(means)
        ]

    def _mean(self, frame: np.ndarray) -> float:
        key = hashlib.sha256(frame.tobytes()).digest()
        if key not in self._means:
            self._means[key] = float(frame.mean() / 255)
        return self._means[key]


class MoodyReward(_Plugin):
    """Episode 0 raises, 1 gives NaN, 2 takes too long, 3 returns nonsense; the others are fine."""

    model_id = "moody"

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        last, seq = episode.steps - 1, episode.key.episode_seq
        if seq == 0:
            raise ValueError("bad mood")
        if seq == 1:
            return [RewardSignal(last, process=math.nan)]
        if seq == 2:
            time.sleep(0.6)
        if seq == 3:
            return [RewardSignal(10**6, completion=1.0)]
        return [RewardSignal(last, completion=1.0, model_id=self.model_id)]


class MortalReward(_Plugin):
    """Its process is killed, as where no memory is left, at the episodes `always`, and at those of `once`
    where there is no file `marker` yet."""

    model_id = "mortal"

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        seq, marker = episode.key.episode_seq, Path(self.options.get("marker", ""))
        first = seq in self.options.get("once", ()) and not marker.exists()
        if first:
            marker.touch()
        if first or seq in self.options.get("always", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        return [RewardSignal(episode.steps - 1, completion=1.0, model_id=self.model_id)]
