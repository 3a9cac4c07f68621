"""The CPU's engine, and CUDA's where ONNX Runtime has it: how a session is opened, fed and replaced.

Writing into the initializers of a live session is ignored or wrong (constants are folded and weights
repacked when the session is made). New weights mean a new session, or a session that takes its refinable
weights with every run: sooner ready and slower to run (docs/results/engines/swap.md has the figures).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from contracts.errors import MissingDependency, PackageError
from contracts.files.packages import Package
from contracts.package import TensorSpec
from runtime.engines import (
    EngineOptions,
    check_weights,
    cuda,
    measure_floats,
    refinable_names,
    refined,
    run_bound,
)
from runtime.engines.binding import Bound, Feed, Lease, Session, ort_value, require_onnxruntime
from runtime.engines.overridable import with_overridable

MAX_FED_BYTES = 8 << 20
"""Refinable weights up to this size are fed with each run (`swap: auto`). ONNX Runtime packs them anew each
time, about 0.15 ms a MB, and more than a millisecond of every inference is no price for a sooner swap."""
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_CUDA_OPTIONS = {
    "device_id": "0",
    "use_tf32": "0",  # float32 as everywhere else: its 10 bits of mantissa would not pass the parity check
    "cudnn_conv_algo_search": "HEURISTIC",  # the default tries every algorithm at the first run
}


class OnnxRuntimeEngine:
    """`Engine` on ONNX Runtime. The shapes of the outputs must follow from those of the inputs."""

    _bound: Bound | None
    _feeding: Feed | None
    """What all standbys share, each feeding it its own weights; None where each has its own session."""

    def __init__(
        self,
        package: Package,
        graph: str,
        options: EngineOptions,
        tensors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`tensors`: every initializer of the graph by its own name; by default the package's."""
        own = package.graph_weights(graph) if tensors is None else tensors
        held = open_session(package, graph, options, own)
        spec = package.manifest.graph(graph)
        _check_names(graph, "inputs", spec.inputs, held.session.get_inputs())
        _check_names(graph, "outputs", spec.outputs, held.session.get_outputs())
        self._prepare(package, graph, options, held)
        if tensors is None and _feeds(package, graph, options):
            # Made now: the first swap should not wait for it.
            names = refinable_names(package, graph)
            feeding = open_session(package, graph, options, own, names)
            self._feeding = Feed(feeding, {name: own[name] for name in names})

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run_bound(self._bound, self._graph, self._inputs, inputs)

    def standby(self, weights: Mapping[str, np.ndarray]) -> OnnxRuntimeEngine:
        package, graph, options = self._package, self._graph, self._options
        if self._feeding is None:
            return OnnxRuntimeEngine(package, graph, options, refined(package, graph, weights))
        check_weights(package, graph, weights)
        own = (weights[f"{graph}/{name}"] for name in refinable_names(package, graph))
        return _FedEngine(package, graph, options, self._feeding, self._feeding.fill(own))

    def close(self) -> None:
        # Only let go: emptying what a run in flight reads would give it the package's weights.
        self._bound = self._feeding = None

    def _prepare(
        self,
        package: Package,
        graph: str,
        options: EngineOptions,
        held: Session,
        fed: Lease | None = None,
    ) -> None:
        spec = package.manifest.graph(graph)
        self._package, self._graph, self._options = package, graph, options
        self._inputs, self._outputs = spec.inputs, spec.outputs
        taken, given = ([tensor.name for tensor in side] for side in (spec.inputs, spec.outputs))
        self._bound = Bound(held, taken, given, fed)
        self._feeding = None


class _FedEngine(OnnxRuntimeEngine):
    """A standby on the session that all standbys share: its weights are its own, and inputs."""

    def __init__(
        self,
        package: Package,
        graph: str,
        options: EngineOptions,
        feeding: Feed,
        fed: Lease,
    ) -> None:
        self._prepare(package, graph, options, feeding.held, fed)
        self._feeding = feeding


def provider_for(options: EngineOptions) -> str:
    """The execution provider that `options.provider` means on this machine. Raises `MissingDependency`."""
    if options.provider == "cpu":
        return _CPU
    ort = require_onnxruntime()
    has_provider, has_device = _CUDA in ort.get_available_providers(), cuda.find() is not None
    if has_provider and has_device:
        return _CUDA
    if options.provider == "auto":
        return _CPU
    missing = "an NVIDIA driver with a device" if has_provider else "a GPU build of ONNX Runtime"
    raise MissingDependency(
        f"provider 'cuda' of the engine 'onnxruntime' needs {missing}",
        remedy="pip install onnxruntime-gpu (on a Jetson NVIDIA's own wheel), or choose provider cpu",
    )


def session_options(options: EngineOptions) -> Any:
    """What every session of ours is opened with; a benchmark opens the bare one alike."""
    ort = require_onnxruntime()
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = options.threads
    chosen.inter_op_num_threads = 1
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    chosen.log_severity_level = 3
    spinning = "1" if options.spinning else "0"
    chosen.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    chosen.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    # Flush denormals: a CPU takes 100 times longer over them, and a control loop would notice.
    measure_floats()
    chosen.add_session_config_entry("session.set_denormal_as_zero", "1")
    return chosen


def open_session(
    package: Package,
    graph: str,
    options: EngineOptions,
    tensors: Mapping[str, np.ndarray],
    overridable: tuple[str, ...] = (),
) -> Session:
    """A session of one graph with these values of all its initializers; those named in `overridable` must
    be given with every run as well. Raises `PackageError` and `MissingDependency`."""
    ort = require_onnxruntime()
    provider = provider_for(options)
    model = package.graphs[graph]
    if overridable:
        model = with_overridable(model, {name: tensors[name] for name in overridable})
    chosen = session_options(options)
    names = sorted(tensors)
    # Copied: the caller may reuse its buffers, ORT keeps pointing at these.
    values = [ort_value(np.array(tensors[name], order="C"), "cpu") for name in names]
    if names:
        chosen.add_external_initializers(names, values)
    wanted: list[Any] = [_CPU] if provider == _CPU else [(_CUDA, _CUDA_OPTIONS), _CPU]
    try:
        session = ort.InferenceSession(model, chosen, providers=wanted)
    except Exception as error:  # ORT raises its own types, all of them plain Exceptions
        raise PackageError(
            f"ONNX Runtime {ort.__version__} can't open graph '{graph}' of {package.folder}",
            found=str(error).replace("\n", " "),
            remedy="export the package again",
        ) from error
    found = session.get_providers()[0]
    if found != provider and options.provider == "cuda":
        # ORT falls back in silence when the CUDA or cuDNN beside it is of another version.
        raise MissingDependency(
            "ONNX Runtime's CUDA provider did not load",
            found=f"{found} instead",
            remedy="install the CUDA and cuDNN that this onnxruntime-gpu names, or choose provider cpu",
        )
    if found != provider:
        _say_fallback(found)
    return Session(session, values, "cuda" if found == _CUDA else "cpu")


@cache
def _say_fallback(found: str) -> None:
    """Once, for every graph alike: "auto" may take the CPU, and nobody should have to guess that it did."""
    print(
        f"engine onnxruntime: the CUDA provider did not load and {found} runs instead (provider auto); "
        "install the CUDA and cuDNN that this onnxruntime-gpu names",
        file=sys.stderr,
    )


def _feeds(package: Package, graph: str, options: EngineOptions) -> bool:
    """Whether standbys of this graph are fed their weights."""
    sizes = [package.weights[f"{graph}/{name}"].nbytes for name in refinable_names(package, graph)]
    if not sizes or options.swap == "session":
        return False
    return options.swap == "feed" or sum(sizes) <= MAX_FED_BYTES


def _check_names(graph: str, what: str, wanted: tuple[TensorSpec, ...], found: list[Any]) -> None:
    names, others = [spec.name for spec in wanted], [node.name for node in found]
    if sorted(names) != sorted(others):
        raise PackageError(
            f"{what} of graph '{graph}' are not the manifest's", expected=names, found=others
        )
