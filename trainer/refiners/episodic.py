"""What every refiner that learns from its own episodes shares: what it stands on, reading the episodes, and
going on after a restart.

Owns the episodes kept and the folder on disk. The method is a `Learner`.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import numpy as np
import torch

from contracts.config import check_ranges
from contracts.errors import ConfigError, PackageError, SpecMismatch, WireError
from contracts.files import atomic
from contracts.files.dataset_format import DatasetError
from contracts.files.packages import Package, load_package, read_safetensors, safetensors_bytes
from contracts.images import ImageCodecError
from trainer.answers import answers_of
from trainer.interfaces import ScoredEpisode, Update
from trainer.policies.flow import FlowPolicy
from trainer.policies.noise import FeatureNoise
from trainer.refiners.experience import FrozenTrunk, Trajectory
from trainer.refiners.placement import ALONE, Placement

STATE_FILE = "refiner.json"
TENSORS_FILE = "refiner.safetensors"
OPTIONS = "refiner.options."
"""Where a configuration says what a refiner's options are."""
MOST = 1e6
"""Of an option that only must not be infinite."""
UNFIT = (SpecMismatch, DatasetError, WireError, ImageCodecError, atomic.FileError)
"""What an episode itself is at fault for: of another robot, or damaged. A wrong option is not, nor is what is
not installed: no episode would teach anything, and the update says why."""
Read = TypeVar("Read")
"""An episode as a method wants it."""


class EpisodicOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What refiners by thinned episodes share. `discount` per action. `thin`: every n-th step is kept, in
    `views` views of its pictures (`demonstration_views` of a demonstration's); `noise` on all features.
    `threads` of torch."""

    discount: float = 0.98
    thin: int = 2
    views: int = 2
    demonstration_views: int = 8
    noise: FeatureNoise = FeatureNoise()
    threads: int = 1


def check_options(options: msgspec.Struct, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises `ConfigError` for the first of them that is outside of its range, and for an average that stays
    where it is: nothing that is learned would be published."""
    check_ranges(OPTIONS, [(name, getattr(options, name), *r) for name, r in ranges.items()])
    if getattr(options, "average_decay", 0.0) == 1.0:
        raise ConfigError(f"{OPTIONS}average_decay", expected="below 1", found=1.0)


def require_scored(shaping: float, demonstrations: Sequence[Path]) -> None:
    """Raises `ConfigError` for a potential where demonstrations are judged beside the robot's own episodes:
    theirs is not known, and taken for 0 it would make all that they do look better by as much."""
    if shaping and demonstrations:
        raise ConfigError(
            f"{OPTIONS}shaping",
            expected="0 beside demonstrations: nobody scored them",
            found=shaping,
            remedy="leave shaping out, or the trainer's demonstrations",
        )


class Ground:
    """What a refiner stands on: a package, its policy in torch, the frozen trunk, and the demonstrations
    read through it."""

    def __init__(
        self,
        package: Path,
        demonstrations: Sequence[Path] | Sequence[Trajectory],
        options: EpisodicOptions,
        seed: int,
        policy_of: Callable[[Package], FlowPolicy] = FlowPolicy.from_package,
        execute: int = 0,
        late: int = 0,
        place: Placement = ALONE,
    ) -> None:
        """`execute`: actions of a chunk that the robot executes, where a method counts by them (0: all),
        after so many that have passed when it arrives (`late`). `demonstrations`: data sets, or what another
        process has read of them.
        Raises `EntracteError`: options out of range, another kind of package, a damaged data set."""
        o = self._options = options
        self.place = place
        self._execute, self._late, self._told = execute, late, False
        rows = [(n, getattr(o, n), 1, math.inf) for n in ("thin", "views", "demonstration_views")]
        rows += [("threads", o.threads, 1, math.inf), ("discount", o.discount, 0, 1)]
        check_ranges(OPTIONS, rows)
        # Fixed, as sums differ in the last bit with the number of threads.
        torch.set_num_threads(o.threads)
        self.thin = o.thin
        self.package = load_package(package)
        self.policy = policy_of(self.package)
        self.trunk = FrozenTrunk(self.package, self.policy)
        length = self.trunk.chunk.length
        if execute and (execute % o.thin or execute > length):
            raise ConfigError(
                f"{OPTIONS}execute",
                expected=f"a multiple of thin ({o.thin}), at most the chunk's length ({length})",
                found=execute,
                remedy="set it to the robot's policy.execute_steps, and thin to what divides it",
            )
        if late + execute > length:
            raise ConfigError(
                f"{OPTIONS}late",
                expected=f"at most {length - execute}: {execute} of a chunk's {length} actions are executed",
                found=late,
            )
        rng = np.random.default_rng(seed)
        folders = [one for one in demonstrations if not isinstance(one, Trajectory)]
        self.demonstrations = [one for one in demonstrations if isinstance(one, Trajectory)]
        self.demonstrations += self.trunk.demonstrations(
            folders, o.thin, o.demonstration_views, rng
        )

    def trajectory(self, scored: ScoredEpisode, rng: np.random.Generator) -> Trajectory:
        """A labelled episode of the robot's, thinned, in as many views as the options say."""
        o = self._options
        if self._execute:
            self._check_late(scored)
        return self.trunk.trajectory(
            scored.episode,
            scored.success is True,
            o.thin,
            o.views,
            rng,
            signals=scored.signals,
            discount=o.discount,
            execute=self._execute,
        )

    def _check_late(self, scored: ScoredEpisode) -> None:
        """Says once where chunks arrive earlier or later than what is judged of them supposes."""
        found = self.trunk.lateness(scored.episode)
        if found is None or found == self._late or self._told:
            return
        self._told = True
        told = (
            f"robot-trainer: in episode {scored.episode.key} {found} actions of a chunk have passed when it "
            f"arrives, and {OPTIONS}late is {self._late}: critics judge others than were executed. Set it to "
            f"{found}"
        )
        print(told, file=sys.stderr, flush=True)


class Learner(Protocol[Read]):
    """A method, on arrays. `own`: the episodes that later updates need, in the order in which they came."""

    options: Any
    own: list[Trajectory]

    @property
    def released(self) -> torch.nn.Module:
        """The head whose weights `learn` gave last."""
        ...

    def learn(self, fresh: list[Read], seed: int, iteration: int) -> Update:
        """Take in fresh episodes and make the gradient steps of one iteration."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything but the episodes that `restore` needs, by name."""
        ...

    def restore(self, tensors: dict[str, np.ndarray], what: str) -> None:
        """Take back what `state` gave. Raises `PackageError` if it is another learner's."""
        ...


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`thin` of the episodes kept; 0 in states of before it was."""

    package_id: str
    seed: int
    iteration: int
    successes: tuple[bool, ...]
    thin: int = 0


class Episodic(Generic[Read]):
    """A refiner around a learner, which gets every labelled episode as `read` gives it. Deterministic: every
    random number comes from (seed, iteration)."""

    def __init__(
        self,
        ground: Ground,
        read: Callable[[ScoredEpisode, np.random.Generator], Read],
        learner: Learner[Read],
        seed: int,
    ) -> None:
        self._package, self._read = ground.package, read
        self.learner = ground.place.learner(
            learner, type(self), ground.package.folder, ground.demonstrations, seed
        )
        self._package_id = ground.package.package_id
        self._trunk, self._thin, self._seed, self._iteration = ground.trunk, ground.thin, seed, 0
        self._begin(0)

    @property
    def package_id(self) -> str:
        return self._package_id

    def read(self, scored: ScoredEpisode, iteration: int) -> None:
        """See `trainer.interfaces.ReadingRefiner`."""
        if iteration != self._ahead_of:
            self._begin(iteration)
        labelled = scored.success is not None and scored.episode.steps > 0
        try:
            kept = self._kept(scored, self._chance) if labelled else None
        except BaseException:
            self._begin(0)  # half of its chance is drawn
            raise
        self._ahead.append((scored, kept))

    def update(self, episodes: list[ScoredEpisode], iteration: int) -> Update:
        known, given = [id(one) for one, _ in self._ahead], [id(one) for one in episodes]
        if iteration != self._ahead_of or known != given[: len(known)]:
            self._begin(iteration)
        for scored in episodes[len(self._ahead) :]:
            Episodic.read(self, scored, iteration)
        fresh = [kept for _, kept in self._ahead if kept is not None]
        labelled = sum(one.success is not None and one.episode.steps > 0 for one in episodes)
        self._begin(0)
        update = self.learner.learn(fresh, self._seed, iteration)
        answers = answers_of(self._package, self.learner.released)
        update = dataclasses.replace(update, answers=answers)
        update.metrics["skipped"] = float(len(episodes) - labelled)
        update.metrics["unfit"] = float(labelled - len(fresh))
        self._iteration = iteration
        return update

    def _begin(self, iteration: int) -> None:
        """Nothing is read yet of that iteration."""
        self._ahead_of, self._chance = iteration, np.random.default_rng([self._seed, iteration, 1])
        self._ahead: list[tuple[ScoredEpisode, Read | None]] = []
        """In their order, None for what teaches nothing."""

    def _kept(self, scored: ScoredEpisode, rng: np.random.Generator) -> Read | None:
        """None for one that can't be read through this package, which the trainer's log tells: it costs
        itself, and not the update."""
        try:
            self._trunk.require_fitting(scored.episode)
            return self._read(scored, rng)
        except UNFIT as error:
            told = f"robot-trainer: episode {scored.episode.key} teaches nothing: {error}"
            print(told, file=sys.stderr, flush=True)
            return None

    def save(self, path: Path) -> None:
        own = self.learner.own
        tensors = self.learner.state()
        for index, kept in enumerate(own):
            tensors |= kept.tensors(f"own/{index}/")
        successes = tuple(kept.success for kept in own)
        state = _State(self._package_id, self._seed, self._iteration, successes, self._thin)
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
        if state.successes and state.thin not in (0, self._thin):
            raise ConfigError(
                f"{OPTIONS}thin: {path} keeps every {state.thin}. step of its episodes",
                expected=state.thin,
                found=self._thin,
                remedy="set it back, or begin with another --run-dir",
            )
        data = atomic.read_bytes(path / TENSORS_FILE, 1 << 32)
        tensors = read_safetensors(data, str(path))
        self.learner.restore(tensors, str(path))
        self.learner.own[:] = [
            Trajectory.of(tensors, f"own/{index}/", success)
            for index, success in enumerate(state.successes)
        ]
        self._iteration = state.iteration
        self._begin(0)
