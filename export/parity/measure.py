"""How far two answers to the same inputs are apart. Pure figures; no torch, no ONNX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from contracts.answers import TOLERANCE, same_choice, tolerance_of
from contracts.errors import CheckFailed, PackageError
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import Package
from contracts.package import PackageManifest
from runtime.engines import Engine, EngineOptions, open_engine

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class JointError:
    """Absolute errors of one joint of a chunk, in its unit."""

    name: str
    largest: float
    mean: float
    p99: float


@dataclass(frozen=True)
class Parity:
    """Agreement of one graph's output with its reference over all cases. Errors are absolute; `scale` is the
    largest |reference|; `cosine` of both flattened; infinite errors, which never hold, where an answer is
    not finite on either side."""

    graph: str
    output: str
    cases: int
    largest_error: float
    scale: float
    mean_error: float = 0.0
    p99_error: float = 0.0
    cosine: float = 1.0
    joints: tuple[JointError, ...] = ()
    tolerance: float = TOLERANCE

    @property
    def allowed(self) -> float:
        """Largest error with which it still holds."""
        return self.tolerance * max(1.0, self.scale)

    @property
    def holds(self) -> bool:
        return math.isfinite(self.largest_error) and self.largest_error <= self.allowed


def measure(
    graph: str,
    expected: Sequence[Arrays],
    actual: Sequence[Arrays],
    manifest: PackageManifest | None = None,
    tolerance: float = TOLERANCE,
) -> list[Parity]:
    """One `Parity` per output. With a `manifest` whose action has as many joints as the last axis of a
    "chunks" output, per joint too. Raises `PackageError` for outputs that one side alone has."""
    for right_case, given_case in zip(expected, actual, strict=True):
        if right_case.keys() != given_case.keys():
            raise PackageError(
                f"outputs of graph '{graph}'", expected=sorted(right_case), found=sorted(given_case)
            )
    names = manifest.action.names if manifest is not None and manifest.action is not None else ()
    actual = [same_choice(e, a, tolerance) for e, a in zip(expected, actual, strict=True)]
    found = []
    for output in expected[0]:
        right = np.stack([case[output] for case in expected]).astype(np.float64)
        given = np.stack([case[output] for case in actual]).astype(np.float64)
        joints: tuple[JointError, ...] = ()
        if output == "chunks" and right.shape[-1] == len(names):
            joints = tuple(
                JointError(name, *_errors(right[..., i], given[..., i]))
                for i, name in enumerate(names)
            )
        largest, mean, p99 = _errors(right, given)
        scale = float(np.abs(right).max(initial=0.0))
        cosine = _cosine(right.ravel(), given.ravel())
        found.append(
            Parity(
                *(graph, output, len(right), largest, scale),
                *(mean, p99, cosine, joints, tolerance),
            )
        )
    return found


def compare(
    engine: Engine,
    graph: str,
    cases: Sequence[GoldenCase],
    manifest: PackageManifest | None = None,
    tolerance: float = TOLERANCE,
) -> list[Parity]:
    """How far `engine` is from the cases' outputs."""
    # Copied: an engine's outputs are its own until its next run.
    answers = [
        {name: array.copy() for name, array in engine.run(case.inputs).items()} for case in cases
    ]
    return measure(graph, [case.outputs for case in cases], answers, manifest, tolerance)


def replay(package: Package, kind: str = "onnxruntime") -> list[Parity]:
    """How well an engine of this kind reproduces the golden vectors (which torch computed)."""
    found: list[Parity] = []
    for graph in package.manifest.graphs:
        engine = open_engine(package, graph.name, EngineOptions(kind=kind))
        try:
            found += compare(
                *(engine, graph.name, package.golden[graph.name], package.manifest),
                tolerance=tolerance_of(package.manifest, graph.name),
            )
        finally:
            engine.close()
    return found


def require_parity(found: Sequence[Parity], what: str) -> None:
    """Raise `CheckFailed` naming the worst output unless every `Parity` holds."""
    broken = [parity for parity in found if not parity.holds]
    if broken:
        worst = max(broken, key=lambda parity: parity.largest_error / parity.allowed)
        raise CheckFailed(
            f"{what}: output '{worst.output}' of graph '{worst.graph}' differs from torch",
            expected=f"<= {worst.allowed:.1e}",
            found=f"{worst.largest_error:.1e}",
            remedy="export with the pinned versions of the extra 'export'",
        )


def _errors(expected: np.ndarray, actual: np.ndarray) -> tuple[float, float, float]:
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("inf"), float("inf"), float("inf")
    error = np.abs(expected - actual)
    return float(error.max(initial=0.0)), float(error.mean()), float(np.quantile(error, 0.99))


def _cosine(expected: np.ndarray, actual: np.ndarray) -> float:
    norms = float(np.linalg.norm(expected) * np.linalg.norm(actual))
    if norms == 0.0:
        return 1.0 if np.array_equal(expected, actual) else 0.0
    return float(np.dot(expected, actual) / norms)
