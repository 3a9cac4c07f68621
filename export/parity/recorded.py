"""Recorded observations as a package takes them, and a whole answer from them: trunk, then head.

The pictures are shrunk as the robot shrinks them; noise is drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.quantization.draw import rows_seen
from contracts import language
from contracts.errors import ConfigError
from contracts.files.dataset_format import CAMERA_PREFIX
from contracts.files.dataset_reader import DatasetReader
from contracts.images import shrink_to
from contracts.package import PackageManifest, no_prefix
from export.parity.sides import Side

RECORDED_MODELS = ("policy", "reward")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Moment:
    """One recorded moment. `seen`: the trunk's inputs of each observation behind an input of the head: of a
    policy "features" (its last observations, oldest first), of a reward model "first", "earlier", "current".
    `head`: inputs of the head beside those."""

    seen: Mapping[str, Sequence[Arrays]]
    head: Arrays


@dataclass(frozen=True)
class Answer:
    """What a side made of a moment: the head's inputs as it had them, and its outputs; of a policy the
    chunk that it chose is output "chunks" [T, A]."""

    asked: Arrays
    outputs: Arrays


def moments(dataset: Path, manifest: PackageManifest, count: int) -> list[Moment]:
    """`count` moments spread over all episodes. Raises `ConfigError` when the data set can't feed the
    package."""
    if manifest.model not in RECORDED_MODELS:
        raise ConfigError(
            "--recorded is for packages of policies and reward models",
            found=f"a package of a model '{manifest.model}'",
            remedy="check it without --recorded: its golden vectors are of recorded pictures",
        )
    reader = DatasetReader(dataset)
    steps = [(e, s) for e in range(reader.num_episodes) for s in range(reader.length(e))]
    if not steps:
        raise ConfigError(
            f"data set {dataset} holds no episode", remedy="robot-run record makes some"
        )
    rows = np.unique(np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int))
    reading = _Reading(reader, manifest)
    chosen = [steps[row] for row in rows]
    return [reading.moment(episode, step, i) for i, (episode, step) in enumerate(chosen)]


def answer(manifest: PackageManifest, side: Side, moment: Moment) -> Answer:
    """From pictures to actions, or to the reward's signals, by this side alone."""
    asked = dict(moment.head)
    (feature,) = (spec.name for spec in manifest.graph("trunk").outputs)
    for name, observations in moment.seen.items():
        made = [side.run("trunk", inputs)[feature] for inputs in observations]
        asked[name] = np.concatenate(made)
    wanted = [spec.name for spec in manifest.graph("head").inputs]
    asked = {name: asked[name] for name in wanted}
    outputs = side.run("head", asked)
    if "chunks" in outputs:
        choice = int(outputs["choice"].flat[0]) if "choice" in outputs else 0
        outputs = {**outputs, "chunks": outputs["chunks"][choice]}
    return Answer(asked, outputs)


class _Reading:
    def __init__(self, reader: DatasetReader, manifest: PackageManifest) -> None:
        self._reader, self._manifest = reader, manifest
        self._columns: dict[int, np.ndarray] = {}
        names = {CAMERA_PREFIX + camera for camera in manifest.cameras}
        missing = sorted(names - set(reader.features))
        if missing:
            raise ConfigError(
                f"data set {reader.root} lacks what the package looks at",
                expected=missing,
                found=sorted(reader.features),
            )

    def moment(self, episode: int, step: int, number: int) -> Moment:
        manifest = self._manifest
        if manifest.model == "reward":
            seconds = manifest.settings.get("earlier_s", 2.0)
            earlier = max(0, step - round(seconds * self._reader.fps))
            at = {"first": 0, "earlier": earlier, "current": step}
            seen = {name: [self._trunk_inputs(episode, when)] for name, when in at.items()}
            return Moment(seen, {"tokens": self._tokens(episode)})
        when = rows_seen(manifest, self._reader.fps, step)
        seen = {"features": [self._trunk_inputs(episode, one) for one in when]}
        settled = no_prefix(manifest.graph("head").inputs)
        return Moment(seen, {**self._noise(number), **settled})

    def _trunk_inputs(self, episode: int, step: int) -> Arrays:
        found: Arrays = {}
        for spec in self._manifest.graph("trunk").inputs:
            if spec.name.startswith("images."):
                size = (spec.shape[2], spec.shape[1])
                camera = spec.name.removeprefix("images.")
                found[spec.name] = self._picture(episode, step, camera, size)
            elif spec.name == "state":
                if episode not in self._columns:
                    columns = self._reader.episode(episode, ["observation.state"])
                    self._columns[episode] = columns["observation.state"].astype(np.float32)
                found["state"] = self._columns[episode][step][None]
            elif spec.name == "tokens":
                found["tokens"] = self._tokens(episode)
            else:
                raise ConfigError(
                    "recorded observations can't feed this package",
                    expected="pictures, state and instruction",
                    found=f"trunk input '{spec.name}'",
                )
        return found

    def _picture(self, episode: int, step: int, camera: str, size: tuple[int, int]) -> np.ndarray:
        picture = self._reader.frames(episode, CAMERA_PREFIX + camera, [step])[0]
        return np.ascontiguousarray(shrink_to(picture, *size))[None]

    def _tokens(self, episode: int) -> np.ndarray:
        manifest = self._manifest
        text = str(self._reader.meta(episode)["task"])
        return language.encode(text, manifest.vocabulary, manifest.instruction_length)[None]

    def _noise(self, number: int) -> Arrays:
        chunk = self._manifest.chunk
        specs = {spec.name: spec for spec in self._manifest.graph("head").inputs}
        if chunk is None or "noise" not in specs:
            return {}
        samples, *rest = specs["noise"].shape
        shape = (samples if samples > 0 else chunk.samples, *rest)
        draw = np.random.default_rng([0, number]).standard_normal(shape)
        return {"noise": (draw * chunk.noise_scale).astype(np.float32)}
