"""Recorded episodes -> a calibration set: inputs of a package's trunk, and of other episodes to judge by.

Reads LeRobotDataset v3.0 through `contracts.files.dataset_reader`. Pictures are shrunk by area and
instructions encoded as the robot does it (`runtime.models.policy`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.quantization import strata
from calibration.quantization.card import (
    CalibrationSet,
    Part,
    Row,
    Source,
    before,
    describe,
)
from calibration.quantization.strata import Step, Stratum
from contracts.errors import ConfigError, SpecMismatch
from contracts.files.dataset_reader import DatasetReader
from contracts.files.packages import Package
from contracts.images import shrink_to
from contracts.language import encode
from contracts.package import OBSERVATION_STEPS, PackageManifest
from contracts.specs import is_gripper

STATE = "observation.state"
PICTURE = "observation.images."
MAX_CANDIDATES = 64
"""Steps of one episode that are looked at: their pictures must be decoded to know the light."""


@dataclass(frozen=True)
class _Recorded:
    """One data set, its states in the package's order of joints."""

    reader: DatasetReader
    columns: list[int]
    gripper: int | None

    def states(self, episode: int) -> np.ndarray:
        states = self.reader.episode(episode, [STATE])[STATE].astype(np.float32)
        return np.ascontiguousarray(states[:, self.columns])


def draw(
    package: Package,
    roots: Sequence[Path],
    *,
    samples: int = 256,
    held_out: int = 128,
    held_out_share: float = 0.33,
    seed: int = 0,
    command: str = "",
) -> CalibrationSet:
    """`samples` steps to calibrate with and `held_out` steps, of other episodes, to judge by.

    `held_out_share` of every task's episodes are set apart for the latter. The same seed, data and package
    give the same bytes. Raises `DatasetError`, `SpecMismatch` (other joints) or `ConfigError`.
    """
    if not roots:
        raise ConfigError("no data set to draw from", remedy="name at least one recording")
    manifest = package.manifest
    recorded = [_open(Path(root), manifest) for root in roots]
    rng = np.random.default_rng(seed)
    apart, used = _split(recorded, held_out_share, rng)
    parts = {}
    for name, episodes, count in (("calibration", used, samples), ("held_out", apart, held_out)):
        candidates = [
            pair
            for source, episode in episodes
            for pair in _candidates(manifest, recorded[source], source, episode, rng)
        ]
        chosen = strata.choose(candidates, count, rng)
        parts[name] = _take(manifest, recorded, chosen)
    sources = tuple(_source(Path(root), one) for root, one in zip(roots, recorded, strict=True))
    return describe(
        parts["calibration"],
        parts["held_out"],
        package_id=package.package_id,
        wanted=(samples, held_out),
        sources=sources,
        seed=seed,
        command=command,
    )


def _open(root: Path, manifest: PackageManifest) -> _Recorded:
    reader = DatasetReader(root)
    names = list(reader.features[STATE].names or ()) if STATE in reader.features else []
    wanted = manifest.observation.state_names
    missing = sorted(set(wanted) - set(names))
    if missing:
        raise SpecMismatch(
            f"data set {root.name} lacks joints of the package",
            expected=list(wanted),
            found=names,
            remedy="record on the robot that the package is for",
        )
    grippers = [i for i, name in enumerate(wanted) if is_gripper(name)]
    return _Recorded(
        reader, [names.index(name) for name in wanted], grippers[0] if grippers else None
    )


Episodes = list[tuple[int, int]]


def _split(
    recorded: Sequence[_Recorded], share: float, rng: np.random.Generator
) -> tuple[Episodes, Episodes]:
    """(held out, used) as (source, episode); a task with a single episode holds none out."""
    of_task: dict[str, Episodes] = {}
    for source, one in enumerate(recorded):
        for episode in range(one.reader.num_episodes):
            task = str(one.reader.meta(episode)["task"])
            of_task.setdefault(task, []).append((source, episode))
    apart: Episodes = []
    used: Episodes = []
    for task in sorted(of_task):
        episodes = of_task[task]
        order = [episodes[index] for index in rng.permutation(len(episodes))]
        count = 0 if len(order) < 2 or share <= 0 else max(1, round(share * len(order)))
        apart += order[:count]
        used += order[count:]
    return sorted(apart), sorted(used)


def _candidates(
    manifest: PackageManifest,
    one: _Recorded,
    source: int,
    episode: int,
    rng: np.random.Generator,
) -> list[tuple[Step, Stratum]]:
    """Up to `MAX_CANDIDATES` steps of an episode, evenly over phase and gripper, with their strata."""
    states = one.states(episode)
    length = len(states)
    travel = None if one.gripper is None else states[:, one.gripper]
    moods = strata.grippers_of(travel, one.reader.fps) or [strata.NO_GRIPPER] * length
    task = str(one.reader.meta(episode)["task"])
    blind = [
        (Step(source, episode, row), Stratum(task, strata.phase_of(row, length), "", moods[row]))
        for row in range(length)
    ]
    picked = strata.choose(blind, MAX_CANDIDATES, rng)
    if not manifest.cameras:
        return picked
    rows = [step.row for step, _ in picked]
    pictures = one.reader.frames(episode, f"{PICTURE}{manifest.cameras[0]}", rows)
    return [
        (step, Stratum(task, stratum.phase, strata.light_of(picture), stratum.gripper))
        for (step, stratum), picture in zip(picked, pictures, strict=True)
    ]


def rows_seen(manifest: PackageManifest, fps: float, row: int) -> list[int]:
    """Rows of the recorded observations that a policy looks at when the newest is `row`, oldest first: one
    period of its chunk apart, the episode's first where it looks back beyond that."""
    count = int(manifest.settings.get(OBSERVATION_STEPS, 1))
    rate_hz = manifest.action.rate_hz if manifest.action is not None else fps
    stride = max(1, round(fps / rate_hz))
    return [max(0, row - stride * back) for back in reversed(range(count))]


def _take(
    manifest: PackageManifest, recorded: Sequence[_Recorded], chosen: list[tuple[Step, Stratum]]
) -> Part:
    """The inputs of the chosen steps, stacked, under the trunk's names; "tokens" always (heads ask too).
    Of a policy that looks at several observations, those before each step too."""
    seen = [rows_seen(manifest, recorded[s.source].reader.fps, s.row)[::-1] for s, _ in chosen]
    inputs: dict[str, np.ndarray] = {}
    for back in range(int(manifest.settings.get(OBSERVATION_STEPS, 1))):
        steps = [
            Step(step.source, step.episode, rows[back])
            for (step, _), rows in zip(chosen, seen, strict=True)
        ]
        observed = _observed(manifest, recorded, steps)
        inputs |= {before(name, back): array for name, array in observed.items()}
    length = manifest.instruction_length
    tokens = [encode(stratum.task, manifest.vocabulary, length) for _, stratum in chosen]
    inputs["tokens"] = np.array(tokens, np.int64).reshape(len(chosen), length)
    _check_names(manifest, inputs)
    return Part(inputs, tuple(Row(step, stratum) for step, stratum in chosen))


def _observed(
    manifest: PackageManifest, recorded: Sequence[_Recorded], steps: Sequence[Step]
) -> dict[str, np.ndarray]:
    """Pictures and joints at `steps`, which are in order of their episodes."""
    size = (manifest.image_width, manifest.image_height)
    shape = {name: (0, size[1], size[0], 3) for name in manifest.cameras}
    pictures: dict[str, list[np.ndarray]] = {name: [] for name in manifest.cameras}
    states: list[np.ndarray] = []
    for source, episode in sorted({(step.source, step.episode) for step in steps}):
        rows = [step.row for step in steps if (step.source, step.episode) == (source, episode)]
        states += list(recorded[source].states(episode)[rows])
        for name in manifest.cameras:
            frames = recorded[source].reader.frames(episode, f"{PICTURE}{name}", rows)
            pictures[name] += [shrink_to(frame, *size) for frame in frames]
    inputs = {
        f"images.{name}": np.stack(shots) if shots else np.zeros(shape[name], np.uint8)
        for name, shots in pictures.items()
    }
    joints = len(manifest.observation.state_names)
    inputs["state"] = np.array(states, np.float32).reshape(len(steps), joints)
    return inputs


def _check_names(manifest: PackageManifest, inputs: dict[str, np.ndarray]) -> None:
    for spec in manifest.graph("trunk").inputs:
        array = inputs.get(spec.name)
        if (
            array is None
            or str(array.dtype) != spec.dtype
            or array.shape[1:] != tuple(spec.shape[1:])
        ):
            raise SpecMismatch(
                f"recorded steps give no input '{spec.name}' of the package's trunk",
                expected=f"{spec.dtype}{list(spec.shape)}",
                found=sorted(inputs) if array is None else f"{array.dtype}{list(array.shape)}",
            )


def _source(root: Path, one: _Recorded) -> Source:
    """Tables by content, videos by name and size: hashing those would read many gigabytes."""
    digest = hashlib.sha256()
    tables = [root / "meta/info.json", *sorted((root / "data").rglob("*.parquet"))]
    for path in tables:
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    for path in sorted((root / "videos").rglob("*.mp4")):
        digest.update(f"{path.relative_to(root).as_posix()}|{path.stat().st_size}".encode())
    return Source(
        root.resolve().name, digest.hexdigest(), one.reader.num_episodes, one.reader.num_frames
    )
