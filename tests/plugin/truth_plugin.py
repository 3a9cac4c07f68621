"""For the test that truth stays out: a refiner that shows what it was given, a reward that peeks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts.files.packages import load_package
from contracts.reward import RewardSignal
from trainer.interfaces import ScoredEpisode, StoredEpisode, Update


class WitnessRefiner:
    """Moves one tensor by a number made from the hash of all it was ever given, so that equal weights
    mean equal input; but for what differs between any two runs: session ids and the wall clock's times."""

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
        self._moved = min(self._tensors, key=lambda name: self._tensors[name].size)
        self._hash = hashlib.sha256(str(seed).encode())

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        for scored in episodes:
            self._hash.update(_given(scored))
        share = int.from_bytes(self._hash.digest()[:4], "big") / 2**32
        tensors = dict(self._tensors)
        tensors[self._moved] = tensors[self._moved] + np.float32(1e-3 * (1 + share))
        labels = [scored.episode.end.operator_success for scored in episodes]
        return Update(tensors, 1, {"labelled": float(sum(label is not None for label in labels))})

    def save(self, path: Path) -> None:
        (path / "hash").write_text(self._hash.hexdigest())

    def load(self, path: Path) -> None:
        raise NotImplementedError("the test never restarts its trainer")


def _given(scored: ScoredEpisode) -> bytes:
    episode = scored.episode
    tree = {
        "instruction": episode.instruction,
        "success": scored.success,
        "failure": scored.failure,
        "signals": [msgspec.to_builtins(signal) for signal in scored.signals],
        "end": [episode.end.steps, episode.end.reason, episode.end.operator_success],
        "columns": {
            name: np.asarray(values).tolist()
            for name, values in sorted(episode.columns.items())
            if not name.startswith("time.")
        },
        "pictures": [
            hashlib.sha256(episode.frames(camera).tobytes()).hexdigest()
            for camera in ("front", "wrist")
        ],
    }
    return json.dumps(tree).encode()


class PeekingReward:
    """Judges by the truth file (option `truth`): what no reward model may do."""

    model_id = "peeking"
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
        self._path = Path(options["truth"])
        self._file: Any = None

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        self._file = self._file or self._path.open()
        self._file.seek(0)
        rows = [json.loads(line) for line in self._file]
        done = [r["success"] for r in rows if r["episode_seq"] == episode.key.episode_seq]
        return [RewardSignal(episode.steps - 1, completion=float(done[-1]), model_id="peeking")]
