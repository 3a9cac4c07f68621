"""The Jetson's engine: TensorRT built from the package on the device, refitted for every release.

Written to the API that TensorRT 10.3 to 11 share: strongly typed networks (precision is what the ONNX
says), individually refittable weights. A build takes minutes on a Jetson, so plans are cached by package,
TensorRT version and device; they never travel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import MissingDependency, PackageError
from contracts.files import atomic
from contracts.files.packages import Package
from contracts.package import GraphSpec, TensorSpec
from runtime.engines import EngineOptions, check_inputs, cuda, refined

MAX_BATCH = 64
"""Upper end of every dynamic axis (a batch or a number of candidate chunks) in the built profile."""
MAX_PLAN_BYTES = 1 << 32
_REMEDY = (
    "on a Jetson install JetPack's TensorRT and make the venv with --system-site-packages; "
    "elsewhere choose engine onnxruntime"
)


def require_tensorrt() -> Any:
    """The `tensorrt` module, if it is a whole one. Raises `MissingDependency`.

    PyPI's `tensorrt` installs a stub where its libraries can't be fetched: importable, without a Builder.
    """
    try:
        import tensorrt
    except ImportError as error:
        raise MissingDependency("the engine 'tensorrt' needs TensorRT", remedy=_REMEDY) from error
    if not hasattr(tensorrt, "Builder"):
        raise MissingDependency(
            "the installed package tensorrt is a stub without its libraries", remedy=_REMEDY
        )
    return tensorrt


def require_cuda() -> cuda.Cuda:
    """The CUDA device. Raises `MissingDependency`: a TensorRT runtime without a driver would crash."""
    device = cuda.find()
    if device is None:
        raise MissingDependency(
            "the engine 'tensorrt' needs an NVIDIA driver with a device (libcuda.so.1)",
            remedy=_REMEDY,
        )
    return device


@dataclass
class _Binding:
    """Device memory of one input or output; grows when a larger batch comes."""

    spec: TensorSpec
    pointer: int = 0
    nbytes: int = 0


class TensorRTEngine:
    """`Engine` on TensorRT."""

    def __init__(
        self,
        package: Package,
        graph: str,
        options: EngineOptions,
        plan: bytes | None = None,
    ) -> None:
        self._trt = require_tensorrt()
        self._cuda = require_cuda()
        self._cuda.use_here()
        self._package, self._graph, self._options = package, graph, options
        self._spec = package.manifest.graph(graph)
        self._logger = self._trt.Logger(self._trt.Logger.WARNING)
        self._plan = plan or self._cached_plan()
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(self._plan)
        if self._engine is None:
            raise PackageError(
                f"TensorRT can't load the plan of graph '{graph}'",
                remedy=f"delete the cache {options.cache} and start again",
            )
        self._context = self._engine.create_execution_context()
        self._stream = self._cuda.stream()
        self._bindings = {s.name: _Binding(s) for s in (*self._spec.inputs, *self._spec.outputs)}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._spec.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._spec.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        check_inputs(self._graph, self._spec.inputs, inputs)
        self._cuda.use_here()
        held = []
        for spec in self._spec.inputs:
            array = np.ascontiguousarray(inputs[spec.name])
            pointer = self._room(spec.name, array.nbytes)
            self._cuda.to_device(pointer, array, self._stream)
            held.append(array)
            if not self._context.set_input_shape(spec.name, array.shape):
                raise PackageError(
                    f"input '{spec.name}' of graph '{self._graph}' is outside the built profile",
                    expected=f"dynamic axes of 1 to {MAX_BATCH}",
                    found=array.shape,
                )
        outputs: dict[str, np.ndarray] = {}
        for spec in self._spec.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            outputs[spec.name] = np.empty(shape, spec.dtype)
            self._room(spec.name, outputs[spec.name].nbytes)
        for name, binding in self._bindings.items():
            self._context.set_tensor_address(name, binding.pointer)
        if not self._context.execute_async_v3(self._stream):
            raise PackageError(f"TensorRT failed to run graph '{self._graph}'")
        for name, array in outputs.items():
            self._cuda.to_host(array, self._bindings[name].pointer, self._stream)
        self._cuda.wait(self._stream)
        return outputs

    def standby(self, weights: Mapping[str, np.ndarray]) -> TensorRTEngine:
        tensors = refined(self._package, self._graph, weights)
        prefix = f"{self._graph}/"
        # A failed refit may leave weights half changed: always from the plan, never from a running engine.
        engine = TensorRTEngine(self._package, self._graph, self._options, self._plan)
        try:
            engine._refit({name: tensors[name.removeprefix(prefix)] for name in weights}, prefix)
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        if self._stream:
            self._cuda.use_here()
            for binding in self._bindings.values():
                if binding.pointer:
                    self._cuda.free(binding.pointer)
            self._cuda.destroy_stream(self._stream)
        self._stream = 0
        self._bindings = {}
        self._context = self._engine = None

    def _room(self, name: str, nbytes: int) -> int:
        binding = self._bindings[name]
        if binding.nbytes < nbytes or not binding.pointer:
            if binding.pointer:
                self._cuda.free(binding.pointer)
            binding.pointer, binding.nbytes = self._cuda.allocate(nbytes), nbytes
        return binding.pointer

    def _refit(self, tensors: Mapping[str, np.ndarray], prefix: str) -> None:
        refitter = self._trt.Refitter(self._engine, self._logger)
        refittable = set(refitter.get_all_weights())
        held = {
            name.removeprefix(prefix): np.ascontiguousarray(tensor)
            for name, tensor in tensors.items()
        }
        for name, tensor in held.items():
            taken = name in refittable and refitter.set_named_weights(
                name, self._trt.Weights(tensor)
            )
            if not taken:
                raise PackageError(f"TensorRT can't refit tensor '{prefix}{name}'")
        if not refitter.refit_cuda_engine():
            raise PackageError(
                f"TensorRT refused the refit of graph '{self._graph}'",
                found=f"missing {list(refitter.get_missing_weights())[:5]}",
            )

    def _cached_plan(self) -> bytes:
        cache = Path(self._options.cache) if self._options.cache else None
        path = cache / f"{self._graph}-{self._plan_key()}.plan" if cache else None
        if path is not None and path.exists():
            return atomic.read_bytes(path, MAX_PLAN_BYTES)
        plan = build_plan(self._trt, self._logger, self._package, self._graph)
        if path is not None:
            atomic.write_bytes(path, plan)
        return plan

    def _plan_key(self) -> str:
        parts = (
            self._package.package_id,
            self._spec.sha256,
            self._trt.__version__,
            self._cuda.device_name,
        )
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def build_plan(trt: Any, logger: Any, package: Package, graph: str) -> bytes:
    """A serialised engine of one graph, its refinable weights individually refittable. Takes minutes on
    a Jetson. Raises `PackageError` with the parser's own words."""
    spec = package.manifest.graph(graph)
    builder = trt.Builder(logger)
    network, parser = parse(trt, logger, builder, package.folder / spec.file)
    mark_refittable(network, package, graph)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    profile = builder.create_optimization_profile()
    for tensor in spec.inputs:
        if -1 in tensor.shape:
            profile.set_shape(tensor.name, *profile_shapes(tensor, _usual(package, spec)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    # The weights live in the parser until the build is over.
    del parser
    if plan is None:
        raise PackageError(
            f"TensorRT {trt.__version__} can't build graph '{graph}' of {package.folder}",
            remedy="see TensorRT's messages above",
        )
    return bytes(plan)


def parse(trt: Any, logger: Any, builder: Any, path: Path) -> tuple[Any, Any]:
    """(network, parser) of an .onnx file beside its weights file. Raises `PackageError`."""
    flags = 0
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly_typed is not None:  # 11 knows no other kind
        flags = 1 << int(strongly_typed)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise PackageError(f"TensorRT {trt.__version__} can't parse {path}", found=errors)
    return network, parser


def mark_refittable(network: Any, package: Package, graph: str) -> None:
    """Mark the graph's refinable tensors; raises `PackageError` naming those TensorRT won't take."""
    prefix = f"{graph}/"
    names = [
        spec.name.removeprefix(prefix)
        for spec in package.manifest.refinable
        if spec.name.startswith(prefix)
    ]
    refused = [name for name in names if not network.mark_weights_refittable(name)]
    if refused:
        raise PackageError(
            f"TensorRT can't refit {len(refused)} of {len(names)} tensors of graph '{graph}'",
            found=refused[:5],
        )


def profile_shapes(
    tensor: TensorSpec, usual: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(smallest, usual, largest) shape of a dynamic input."""

    def shape(size: int) -> tuple[int, ...]:
        return tuple(size if side == -1 else side for side in tensor.shape)

    return shape(1), shape(usual), shape(MAX_BATCH)


def _usual(package: Package, spec: GraphSpec) -> int:
    """The batch to optimise for: one picture for a trunk, the candidates for a policy's head."""
    chunk = package.manifest.chunk
    is_head = any(output.name == "choice" for output in spec.outputs)
    return min(MAX_BATCH, max(1, math.floor(chunk.samples))) if chunk and is_head else 1
