"""Trunk and head over recorded observations: what a robot would do, and how far another trunk is from it.

The head sees the same noise for every trunk, so that a difference is the trunk's alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.quantization.card import Part
from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import OBSERVATION_STEPS, no_prefix
from export.parity.measure import measure
from export.quantize.graphs import TRUNK, Transformed, open_trunk, with_trunk
from runtime.engines import Engine, EngineOptions, open_engine

HEAD = "head"
CHUNKS = "chunks"
DRAWS = 4
"""Noises per observation: as many chunks of each are compared."""
COMPARED = ("first", "earlier", "current")
"""What a reward's head asks for: embeddings of the episode's first, an earlier and this picture."""
SIGNAL_SPAN = {"process": 1.0, "completion": 1.0, "ground": 1.0, "contrastive": 2.0}

Answers = dict[str, np.ndarray]


@dataclass(frozen=True)
class RangeError:
    """|difference| of one joint (or reward signal) over observations, draws and the whole chunk, in percent
    of its range `span` (arm units; 1 or 2 for signals)."""

    name: str
    span: float
    mean: float
    p99: float
    largest: float


class Chain:
    """A package's head, ready to follow any trunk. Use as a context manager."""

    def __init__(self, package: Package, seed: int = 0) -> None:
        self.package, self._seed = package, seed
        self._head = open_engine(package, HEAD, EngineOptions())
        manifest = package.manifest
        self._features = [spec.name for spec in manifest.graph(TRUNK).outputs]
        self._observations = int(manifest.settings.get(OBSERVATION_STEPS, 1))
        self._compares = any(spec.name in COMPARED for spec in self._head.inputs)

    def __enter__(self) -> Chain:
        return self

    def __exit__(self, *_: object) -> None:
        self._head.close()

    def answers(self, part: Part, trunk: Transformed | None = None, draw: int = 0) -> Answers:
        """The head's outputs over all samples, stacked, behind `trunk` (by default the package's own).
        Another `draw` is other noise."""
        package = self.package if trunk is None else with_trunk(self.package, trunk)
        engine = open_trunk(package)
        names = [spec.name for spec in engine.inputs]
        try:
            features = []
            for index in range(len(part)):
                features.append(self._seen(engine, names, part, index))
        finally:
            engine.close()
        rows = [
            {name: array.copy() for name, array in self._head.run(inputs).items()}
            for inputs in (self._inputs(part, features, index, draw) for index in range(len(part)))
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def _seen(self, engine: Engine, names: Sequence[str], part: Part, index: int) -> Answers:
        """The trunk's features of every observation that the policy looks at, oldest first."""
        sample, made = part.sample(index), []
        for back in reversed(range(self._observations)):
            observed = {**sample, **part.sample(index, back)}
            out = engine.run({name: observed[name] for name in names})
            made.append({name: out[name].copy() for name in self._features})
        return {name: np.concatenate([one[name] for one in made]) for name in self._features}

    def _inputs(
        self, part: Part, features: Sequence[Answers], index: int, draw: int
    ) -> dict[str, np.ndarray]:
        sample = part.sample(index)
        given: dict[str, np.ndarray] = {**sample, **features[index], **no_prefix(self._head.inputs)}
        if self._compares:
            embedding = self._features[0]
            first, earlier = _before(part, index)
            given |= {
                "first": features[first][embedding],
                "earlier": features[earlier][embedding],
                "current": features[index][embedding],
            }
        for spec in self._head.inputs:
            if spec.name not in given and spec.name == "noise":
                shape = [DRAWS if size == -1 else size for size in spec.shape]
                rng = np.random.default_rng([self._seed, draw, index])
                chunk = self.package.manifest.chunk
                scale = chunk.noise_scale if chunk is not None else 1.0
                given["noise"] = (rng.standard_normal(shape) * scale).astype(np.float32)
        missing = [spec.name for spec in self._head.inputs if spec.name not in given]
        if missing:
            raise PackageError(
                "the head asks for what no recording holds", found=missing, expected=sorted(given)
            )
        return {spec.name: given[spec.name] for spec in self._head.inputs}

    def errors(self, expected: Answers, found: Answers) -> list[RangeError]:
        """`RangeError` of every joint (policies) or signal (rewards)."""
        manifest = self.package.manifest
        parities = measure(HEAD, _cases(expected), _cases(found), manifest)
        if manifest.action is not None:
            chunks = next(parity for parity in parities if parity.output == CHUNKS)
            return [
                _share(one.name, span, one.mean, one.p99, one.largest)
                for one, span in zip(chunks.joints, manifest.action.spans, strict=True)
            ]
        return [
            _share(p.output, SIGNAL_SPAN[p.output], p.mean_error, p.p99_error, p.largest_error)
            for p in parities
            if p.output in SIGNAL_SPAN
        ]


def worst(errors: Sequence[RangeError]) -> RangeError:
    """The one with the largest p99; no figure at all is worse than any."""
    return max(errors, key=lambda one: math.inf if math.isnan(one.p99) else one.p99)


def _cases(answers: Answers) -> list[Answers]:
    count = len(next(iter(answers.values())))
    return [{name: array[index] for name, array in answers.items()} for index in range(count)]


def _share(name: str, span: float, mean: float, p99: float, largest: float) -> RangeError:
    return RangeError(name, span, *(100.0 * error / span for error in (mean, p99, largest)))


def _before(part: Part, index: int) -> tuple[int, int]:
    """(first, previous) sample of the same episode, in the order of its steps."""
    step = part.rows[index].step
    same = [
        i
        for i, row in enumerate(part.rows)
        if (row.step.source, row.step.episode) == (step.source, step.episode)
    ]
    at = same.index(index)
    return same[0], same[max(at - 1, 0)]
