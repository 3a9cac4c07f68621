"""Engines: a graph of a model package made ready to run. Owns the protocol and how one is opened.

An engine is chosen by name (`contracts.registry`, group "engines") and made as
`make(package, graph, options)`. Whoever holds an engine calls `run` from one thread at a time;
`standby` may be called from another thread meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, cast

import msgspec
import numpy as np

from contracts import registry
from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import TensorSpec, check_tensors


class EngineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`threads` run one inference (FIELD_NOTES 3: one, unless the machine is ours alone); `spinning`
    lets idle threads burn a core for lower latency. `provider`: where ONNX Runtime computes; "auto" is
    CUDA where both it and a device are there. `swap`: how its standbys get their weights, "session" (a
    new one each time), "feed" (given with every run) or "auto" (fed where they are few). `cache`: folder
    of compiled plans, by default the user's (`runtime.engines.plans`). `workspace_mib` caps what
    TensorRT may use while it builds and runs, 0 as it likes."""

    kind: str = "onnxruntime"
    threads: int = 1
    spinning: bool = False
    provider: Literal["cpu", "cuda", "auto"] = "cpu"
    swap: Literal["auto", "session", "feed"] = "auto"
    cache: str = ""
    workspace_mib: int = 0


class EngineChoice(Protocol):
    """A section of the robot's configuration that chooses an engine."""

    @property
    def engine(self) -> str: ...

    @property
    def threads(self) -> int: ...

    @property
    def provider(self) -> Literal["cpu", "cuda", "auto"]: ...

    @property
    def cache(self) -> str: ...


def options_of(chosen: EngineChoice) -> EngineOptions:
    """How a configured engine is opened."""
    return EngineOptions(
        kind=chosen.engine, threads=chosen.threads, provider=chosen.provider, cache=chosen.cache
    )


class Engine(Protocol):
    """One compiled graph with its weights."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, in the engine's own arrays, which its next `run` writes over: copy what is
        kept. The inputs are the caller's again on return. All must be given, in the dtypes and shapes of
        `inputs` (`PackageError` otherwise)."""
        ...

    def standby(self, weights: Mapping[str, np.ndarray]) -> Engine:
        """A second engine of the same graph whose refinable tensors are `weights` ("<graph>/<tensor>",
        exactly those of this graph); this one is untouched. Raises `PackageError`."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it can't run any more."""
        ...


class BoundGraph(Protocol):
    """A graph with memory of its own for its inputs and outputs."""

    def knows(self, shapes: tuple[tuple[int, ...], ...]) -> bool:
        """Whether inputs of these shapes were run before and their buffers are still there."""
        ...

    def run(
        self, given: Sequence[np.ndarray], shapes: tuple[tuple[int, ...], ...]
    ) -> dict[str, np.ndarray]:
        """Outputs by name in arrays that the next run writes over. Raises TypeError for another dtype."""
        ...


def run_bound(
    bound: BoundGraph | None,
    graph: str,
    specs: tuple[TensorSpec, ...],
    inputs: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """`Engine.run` for any engine with bound memory (None: it is closed). Inputs are checked in full
    where their shapes are new, and to say what is wrong; a call that repeats them costs microseconds."""
    if bound is None:
        raise PackageError(f"engine of graph '{graph}' is closed")
    try:
        given = [inputs[spec.name] for spec in specs]
        shapes = tuple([array.shape for array in given])
        if not bound.knows(shapes):
            check_inputs(graph, specs, inputs)
        return dict(bound.run(given, shapes))
    except (KeyError, TypeError):
        check_inputs(graph, specs, inputs)
        raise


def open_engine(package: Package, graph: str, options: EngineOptions) -> Engine:
    """An engine of `options.kind` for one graph, with the package's own weights."""
    make = registry.load("engines", options.kind)
    return cast(Engine, make(package, graph, options))


def measure_floats() -> None:
    """Let numpy look at its float types. Call it before what makes a thread flush denormals, as our ONNX
    Runtime sessions do: numpy looks once, and would warn then, and remember that there are none."""
    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)


def refinable_names(package: Package, graph: str) -> tuple[str, ...]:
    """The graph's refinable tensors by its own names."""
    prefix = f"{graph}/"
    return tuple(
        spec.name.removeprefix(prefix)
        for spec in package.manifest.refinable
        if spec.name.startswith(prefix)
    )


def check_weights(package: Package, graph: str, weights: Mapping[str, np.ndarray]) -> None:
    """Raise `PackageError` unless `weights` are finite values of exactly the graph's refinable tensors."""
    prefix = f"{graph}/"
    wanted = tuple(spec for spec in package.manifest.refinable if spec.name.startswith(prefix))
    problems = check_tensors(wanted, weights)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise PackageError(f"weights do not fit graph '{graph}': {'; '.join(problems[:5])}{more}")


def refined(
    package: Package, graph: str, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """All initializers of `graph` by its own names, the refinable ones taken from `weights`.

    Raises `PackageError` as `check_weights` does.
    """
    check_weights(package, graph, weights)
    tensors = package.graph_weights(graph)
    tensors.update({name.removeprefix(f"{graph}/"): tensor for name, tensor in weights.items()})
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
        if not fits or array.dtype != spec.dtype:
            raise PackageError(
                f"input '{spec.name}' of graph '{graph}'",
                expected=f"{spec.dtype}{list(spec.shape)}",
                found=f"{array.dtype}{list(array.shape)}",
            )
