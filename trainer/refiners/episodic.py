"""What every refiner that learns from its own episodes shares: reading them, and going on after a restart.

Owns the episodes kept and the folder on disk. The method is a `Learner`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from contracts.errors import PackageError
from contracts.files import atomic
from contracts.files.packages import Package, read_safetensors, safetensors_bytes
from trainer.interfaces import ScoredEpisode, Update
from trainer.refiners.experience import FrozenTrunk, Trajectory

STATE_FILE = "refiner.json"
TENSORS_FILE = "refiner.safetensors"


class Learner(Protocol):
    """A method, on arrays. `own`: all labelled episodes so far, in the order in which they came."""

    own: list[Trajectory]

    def learn(self, fresh: list[Trajectory], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything but the episodes that `restore` needs, by name."""
        ...

    def restore(self, tensors: dict[str, np.ndarray], what: str) -> None:
        """Take back what `state` gave. Raises `PackageError` if it is another learner's."""
        ...


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    package_id: str
    seed: int
    iteration: int
    successes: tuple[bool, ...]


class Episodic:
    """A refiner around a learner. Deterministic: every random number comes from (seed, iteration).

    Steps of episodes are kept `thin`ned, in `views` views of their pictures; `discount` is `potential`'s.
    """

    def __init__(
        self,
        package: Package,
        trunk: FrozenTrunk,
        learner: Learner,
        seed: int,
        *,
        thin: int,
        views: int,
        discount: float,
    ) -> None:
        self._package_id, self._trunk, self._learner = package.package_id, trunk, learner
        self._seed, self._iteration = seed, 0
        self._thin, self._views, self._discount = thin, views, discount

    @property
    def package_id(self) -> str:
        return self._package_id

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        rng = np.random.default_rng([self._seed, iteration, 1])
        fresh = [
            self._trunk.trajectory(
                scored.episode,
                scored.success,
                self._thin,
                self._views,
                rng,
                signals=scored.signals,
                discount=self._discount,
            )
            for scored in episodes
            if scored.success is not None and scored.episode.steps > 0
        ]
        update = self._learner.learn(fresh, self._seed, iteration)
        update.metrics["skipped"] = float(len(episodes) - len(fresh))
        self._iteration = iteration
        return update

    def save(self, path: Path) -> None:
        own = self._learner.own
        tensors = self._learner.state()
        for index, kept in enumerate(own):
            tensors |= kept.tensors(f"own/{index}/")
        successes = tuple(kept.success for kept in own)
        state = _State(self._package_id, self._seed, self._iteration, successes)
        atomic.make_directory(path)
        atomic.write_bytes(path / TENSORS_FILE, safetensors_bytes(tensors))
        atomic.write_bytes(path / STATE_FILE, msgspec.json.encode(state))

    def load(self, path: Path) -> None:
        state = msgspec.json.decode(atomic.read_bytes(path / STATE_FILE, 1 << 24), type=_State)
        if (state.package_id, state.seed) != (self._package_id, self._seed):
            raise PackageError(
                f"{path} was refined from another package or seed",
                expected=f"{self._package_id}, seed {self._seed}",
                found=f"{state.package_id}, seed {state.seed}",
            )
        data = atomic.read_bytes(path / TENSORS_FILE, 1 << 32)
        tensors = read_safetensors(data, str(path))
        self._learner.restore(tensors, str(path))
        self._learner.own[:] = [
            Trajectory.of(tensors, f"own/{index}/", success)
            for index, success in enumerate(state.successes)
        ]
        self._iteration = state.iteration
