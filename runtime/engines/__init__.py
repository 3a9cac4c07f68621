"""Engines: a graph of a model package made ready to run. Owns the protocol and how one is opened.

An engine is chosen by name (`contracts.registry`, group "engines") and made as
`make(package, graph, options)`. Whoever holds an engine calls `run` from one thread at a time;
`standby` may be called from another thread meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import msgspec
import numpy as np

from contracts import registry
from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import TensorSpec, check_tensors


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`threads` run one inference (FIELD_NOTES 3: one, unless the machine is ours alone); `spinning`
    lets idle threads burn a core for lower latency. `cache` is the folder for compiled plans."""

    kind: str = "onnxruntime"
    threads: int = 1
    spinning: bool = False
    cache: str = ""


class Engine(Protocol):
    """One compiled graph with its weights."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; the arrays belong to the caller. All inputs must be given, in the dtypes
        and shapes of `inputs` (`PackageError` otherwise)."""
        ...

    def standby(self, weights: Mapping[str, np.ndarray]) -> Engine:
        """A second engine of the same graph whose refinable tensors are `weights` ("<graph>/<tensor>",
        exactly those of this graph); this one is untouched. Raises `PackageError`."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it can't run any more."""
        ...


def open_engine(package: Package, graph: str, options: EngineOptions) -> Engine:
    """An engine of `options.kind` for one graph, with the package's own weights."""
    make = registry.load("engines", options.kind)
    return cast(Engine, make(package, graph, options))


def refined(
    package: Package, graph: str, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """All initializers of `graph` by its own names, the refinable ones taken from `weights`.

    Raises `PackageError` unless `weights` are finite values of exactly the graph's refinable tensors.
    """
    prefix = f"{graph}/"
    wanted = tuple(spec for spec in package.manifest.refinable if spec.name.startswith(prefix))
    problems = check_tensors(wanted, weights)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise PackageError(f"weights do not fit graph '{graph}': {'; '.join(problems[:5])}{more}")
    tensors = package.graph_weights(graph)
    tensors.update({spec.name[len(prefix) :]: weights[spec.name] for spec in wanted})
    return tensors


def check_inputs(
    graph: str, specs: tuple[TensorSpec, ...], inputs: Mapping[str, np.ndarray]
) -> None:
    """Raise `PackageError` naming the first input that is absent or of another dtype or shape."""
    for spec in specs:
        array = inputs.get(spec.name)
        if array is None:
            raise PackageError(f"graph '{graph}' got no input '{spec.name}'", found=sorted(inputs))
        fits = array.ndim == len(spec.shape) and all(
            wanted in (-1, size) for size, wanted in zip(array.shape, spec.shape, strict=True)
        )
        if not fits or str(array.dtype) != spec.dtype:
            raise PackageError(
                f"input '{spec.name}' of graph '{graph}'",
                expected=f"{spec.dtype}{list(spec.shape)}",
                found=f"{array.dtype}{list(array.shape)}",
            )
