"""A collection: many episodes of one policy in simulation, run block by block wherever there is room for one,
and put together in the order of their scenes, as one `robot-run eval --record` of all of them leaves them.

Owns what is asked for, the folder, and what becomes of blocks that die. Where they run is the runner's.
`collection.json` says what was asked; `blocks/` what is done until it is all together; then there are
`dataset/` and `truth.jsonl`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from contracts import __version__
from contracts.config import apply_overrides, parse
from contracts.encodings import sha256_hex
from contracts.errors import ConfigError
from contracts.files import atomic, outputs, packages
from contracts.files.gathering import gather, truth_rows
from contracts.files.lock import FolderLock
from contracts.package import package_id
from trainer.collection_block import DATASET, MARK, TRUTH, Done, Ended, Job, done

MOST_DEATHS = 3
"""Of tries of one block: then it is named, and not tried again."""
_UNFINISHED = "dataset.new"
_DECIDED = {
    "policy.package": "--package",
    "policy.weights": "--weights",
    "reward.package": "--reward-package",
    "episode.task": "--task",
    "episode.seed_base": "--seed-base",
    "bench.truth_file": "--output",
}

# Jobs as JSON -> an `Ended` as JSON for each, as they end.
Runner = Callable[[list[bytes]], Generator[bytes, None, None]]


@dataclass(frozen=True)
class Request:
    """As given on the command line. `block`: episodes that one robot runs before it makes room."""

    package: Path
    output: Path
    episodes: int
    seed_base: int
    block: int
    task: str = ""
    weights: Path | None = None
    reward_package: Path | None = None
    config: Path | None = None
    overrides: tuple[str, ...] = ()


@dataclass
class Collected:
    """`rows`: the truth of every episode that is in the data set, in order. `failed`: blocks that are not,
    and why."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[Job, str] = field(default_factory=dict)


class Collection:
    """Made, it has been checked; `opened`, nobody else works at it."""

    def __init__(self, request: Request) -> None:
        """Raises `ConfigError` or `PackageError` for what can be known to be wrong before a robot starts."""
        for name, value in (("--episodes", request.episodes), ("--block", request.block)):
            if value < 1:
                raise ConfigError(name, expected=">= 1", found=value)
        self._robot = _robot(request)
        self.output, self._request = request.output.resolve(), request
        outputs.require_folder(self.output, "a collection", outputs.holding(MARK))
        self._asked = _asked(request, self._robot)
        words = _words(request)
        self.jobs = [
            Job(
                words=words,
                cwd=os.getcwd(),
                output=str(self.output),
                seed_base=request.seed_base,
                first=first,
                episodes=min(request.block, request.episodes - first),
            )
            for first in range(0, request.episodes, request.block)
        ]

    @property
    def processors(self) -> int:
        """That one robot keeps busy: in lockstep bench, policy and reward take turns."""
        threads = [_value(self._robot, "policy.threads", 1)]
        if self._request.reward_package is not None:
            threads.append(_value(self._robot, "reward.threads", 1))
        return max([1, *(count for count in threads if isinstance(count, int))])

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The folder, new or as it was left. Raises `EntracteError` where it holds another collection, or
        somebody works at it."""
        atomic.make_directory(self.output)
        lock = FolderLock(self.output, "robot-trainer collect")
        try:
            if (self.output / MARK).exists():
                self._require_same()
            else:
                self._mark(complete=False)
            yield
        finally:
            lock.release()

    def run(
        self,
        runner: Runner,
        say: Callable[[str], None],
        progress: Callable[[int], None] = lambda episodes: None,
    ) -> Collected:
        """Run what is not done yet, and put together what is. `progress` is told how many episodes are done.
        Raises `ConfigError` where robot-run refuses the first block that ends."""
        if atomic.read_json(self.output / MARK)["complete"]:
            shutil.rmtree(self.output / "blocks", ignore_errors=True)
            progress(self._request.episodes)
            return Collected(truth_rows(self.output / TRUTH))
        ready = {job.first: job.episodes for job in self.jobs if done(job.folder) is not None}
        progress(sum(ready.values()))
        jobs = {job.first: job for job in self.jobs}
        todo = [job for job in self.jobs if job.first not in ready]
        failed: dict[Job, str] = {}
        deaths: Counter[int] = Counter()
        while todo:
            again = []
            with contextlib.closing(runner([msgspec.json.encode(job) for job in todo])) as endings:
                for data in endings:
                    ended = msgspec.json.decode(data, type=Ended)
                    job = jobs[ended.first]
                    deaths[ended.first] += ended.how == "died"
                    if ended.how == "done":
                        ready[job.first] = job.episodes
                        progress(sum(ready.values()))
                    elif ended.how == "refused" and not ready:
                        raise ConfigError(f"robot-run can't begin: {ended.why}")
                    elif ended.how == "died" and deaths[ended.first] < MOST_DEATHS:
                        say(f"seeds {named(job)} died ({ended.why}); they are run again")
                        again.append(job)
                    else:
                        failed[job] = ended.why
            todo = again
        return self._put_together(failed)

    def _put_together(self, failed: dict[Job, str]) -> Collected:
        """Anew each time: a block that failed before has its place in the middle."""
        found = [(job, done(job.folder)) for job in self.jobs if job not in failed]
        whole: list[tuple[Path, Done]] = [(job.folder, d) for job, d in found if d is not None]
        rows = [row for _, block in whole for row in block.rows]
        new, dataset = self.output / _UNFINISHED, self.output / DATASET
        shutil.rmtree(new, ignore_errors=True)
        wanted = [(at / d.attempt / DATASET, place) for at, d in whole for place in d.places]
        for _ in gather(new, wanted):
            pass
        if wanted:
            shutil.rmtree(dataset, ignore_errors=True)
            new.rename(dataset)
            atomic.sync(self.output)
        lines = (json.dumps(row).encode() + b"\n" for row in rows)
        atomic.write_bytes(self.output / TRUTH, b"".join(lines))
        if not failed:
            self._mark(complete=True)
            shutil.rmtree(self.output / "blocks", ignore_errors=True)
        return Collected(rows, failed)

    def _mark(self, *, complete: bool) -> None:
        atomic.write_json(self.output / MARK, {"asked": self._asked, "complete": complete})

    def _require_same(self) -> None:
        stored = atomic.read_json(self.output / MARK)
        before: dict[str, Any] = stored.get("asked", {}) if isinstance(stored, dict) else {}
        other = sorted(
            key
            for key in before.keys() | self._asked.keys()
            if before.get(key) != self._asked.get(key)
        )
        if other:
            raise ConfigError(
                f"{self.output} holds another collection",
                expected={key: before.get(key) for key in other},
                found={key: self._asked.get(key) for key in other},
                remedy="choose another folder",
            )


def named(job: Job) -> str:
    """A block's seeds in words."""
    seeds = job.seeds
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])


def _robot(request: Request) -> dict[str, Any]:
    """The robot's configuration as far as it is given; what is left out is simulated. Raises `ConfigError`
    for what is not to be run many times at once."""
    for override in request.overrides:
        option = _DECIDED.get(override.partition("=")[0])
        if option is not None:
            raise ConfigError(f"--set {override}", remedy=f"give {option} instead")
    tree: dict[str, Any] = {}
    if request.config is not None:
        try:
            tree = parse(request.config.read_text(encoding="utf-8"), str(request.config))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"can't read {request.config}", found=str(error)) from error
    tree = apply_overrides(tree, request.overrides)
    for key, wanted in (
        ("bench.enabled", True),
        ("pace", "asap"),
        ("operator.web", False),
        ("operator.view", False),
    ):
        if (found := _value(tree, key, wanted)) != wanted:
            raise ConfigError(
                "only simulated robots, with nobody at them, can be collected from",
                expected=f"{key}: {json.dumps(wanted)}",
                found=json.dumps(found, default=str),
                remedy="record a robot with robot-run",
            )
    if _value(tree, "episode.label", "none") == "keys":
        raise ConfigError("episode.label: keys", remedy="nobody is there to label; leave it out")
    return tree


def _asked(request: Request, robot: dict[str, Any]) -> dict[str, Any]:
    """All that decides what is collected, by content where it is a file."""
    asked: dict[str, Any] = {
        "version": __version__,
        **{name: getattr(request, name) for name in ("episodes", "seed_base", "block", "task")},
        "package": _identity(request.package, ("policy",)),
        "weights": "",
        "reward": "",
        "robot": robot,
    }
    if request.weights is not None:
        asked["weights"] = sha256_hex(atomic.read_bytes(request.weights, packages.MAX_READ_BYTES))
    if request.reward_package is not None:
        asked["reward"] = _identity(request.reward_package, ("reward", "vlm"))
    return dict(json.loads(msgspec.json.encode(asked)))  # as it will be read


def _identity(folder: Path, kinds: Sequence[str]) -> str:
    manifest = packages.read_manifest(folder)
    if manifest.model not in kinds:
        raise ConfigError(
            f"{folder} is another kind of package",
            expected=" or ".join(kinds),
            found=manifest.model,
        )
    return package_id(manifest)


def _words(request: Request) -> tuple[str, ...]:
    """Options of robot-run eval; a path leads where it did, whatever folder that runs in."""
    given = {
        "--package": request.package,
        "--weights": request.weights,
        "--reward-package": request.reward_package,
        "--config": request.config,
    }
    words = [w for key, path in given.items() if path for w in (key, str(path.resolve()))]
    words += ["--task", request.task] if request.task else []
    return (*words, *(word for override in request.overrides for word in ("--set", override)))


def _value(tree: dict[str, Any], key: str, default: object) -> object:
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node
