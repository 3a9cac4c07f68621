"""The Jetson's engine: TensorRT built from the package on the device, refitted for every release.

Owns which TensorRT is used, opening and refitting; plans lie with `plans`, are made by `building` and run by
`device`. The API is what TensorRT 10.3 to 11.4 share, which TensorRT-RTX has as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import MissingDependency, PackageError
from contracts.files.packages import Package
from contracts.package import TensorSpec
from runtime.engines import EngineOptions, cuda, plans, refined, run_bound
from runtime.engines.building import BuildOptions, Report, build_plan
from runtime.engines.device import DeviceBound

LIBRARIES = ("tensorrt", "tensorrt_rtx")
"""In order of preference: JetPack's own, then TensorRT for RTX of the package index (no Jetson)."""
WITHOUT = "choose engine onnxruntime, which runs every package without it"
INSTALL = "on a Jetson install JetPack's TensorRT and make the venv with --system-site-packages"


def look() -> Any:
    """A whole TensorRT module, or in a few words why there is none.

    PyPI's `tensorrt` installs a stub where its libraries can't be fetched, and lean and dispatch runtimes
    look like it too: importable, without a Builder.
    """
    why = ""
    for name in LIBRARIES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        except Exception as error:  # a library that does not load: OSError, RuntimeError, its own
            why = why or f"the installed package {name} does not load ({error})"
            continue
        if hasattr(module, "Builder") and hasattr(module, "Runtime"):
            return module
        why = why or f"the installed package {name} is a stub without its libraries"
    return why or "TensorRT is not installed"


def require_tensorrt() -> Any:
    """The TensorRT module, if there is a whole one. Raises `MissingDependency`."""
    found = look()
    if isinstance(found, str):
        raise MissingDependency(
            "the engine 'tensorrt' needs TensorRT",
            found=found,
            remedy=f"{INSTALL}; elsewhere {WITHOUT}",
        )
    return found


def require_cuda() -> cuda.Cuda:
    """The CUDA device. Raises `MissingDependency`: a TensorRT runtime without a driver would crash."""
    found = cuda.look()
    if isinstance(found, str):
        raise MissingDependency(
            "the engine 'tensorrt' needs an NVIDIA GPU",
            found=found,
            remedy=f"install its driver (on a Jetson JetPack), or {WITHOUT}",
        )
    return found


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
        self._plan = plan or cached_plan(package, graph, options).plan
        self._bound: DeviceBound | None = None
        self._runtime = self._trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(self._plan)
        if self._engine is None:
            raise PackageError(
                f"TensorRT can't load the plan of graph '{graph}'",
                remedy="build it again with robot-export build --anew",
            )
        self._bound = self._bind(self._engine)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._spec.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._spec.outputs

    @property
    def bound(self) -> DeviceBound | None:
        """What runs it: for a benchmark, which times kernels without copies."""
        return self._bound

    def plain_twin(self) -> DeviceBound:
        """The same engine without a CUDA graph: what a benchmark compares with."""
        return DeviceBound(
            self._engine,
            self._cuda,
            self._graph,
            self._spec.inputs,
            self._spec.outputs,
            capture=False,
        )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return run_bound(self._bound, self._graph, self._spec.inputs, inputs)

    def standby(self, weights: Mapping[str, np.ndarray]) -> TensorRTEngine:
        refined(self._package, self._graph, weights)  # refuses what does not fit
        # From the plan, never from a running engine: nothing may be in flight during a refit, and a failed
        # one may leave weights half changed. That engine is closed, the next begins with the plan again.
        engine = TensorRTEngine(self._package, self._graph, self._options, self._plan)
        try:
            engine._refit(weights)
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        if self._bound is not None:
            self._bound.close()
        self._bound = None
        self._engine = None

    def _bind(self, engine: Any) -> DeviceBound:
        names = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
        wanted = {spec.name for spec in (*self._spec.inputs, *self._spec.outputs)}
        if names != wanted:
            raise PackageError(
                f"tensors of the built graph '{self._graph}' are not the manifest's",
                expected=sorted(wanted),
                found=sorted(names),
                remedy="build it again with robot-export build --anew",
            )
        return DeviceBound(engine, self._cuda, self._graph, self._spec.inputs, self._spec.outputs)

    def _refit(self, weights: Mapping[str, np.ndarray]) -> None:
        refitter = self._trt.Refitter(self._engine, self._logger)
        refittable = set(refitter.get_all_weights())
        prefix = f"{self._graph}/"
        # TensorRT reads these while it refits: they must outlive the call.
        held = {
            name.removeprefix(prefix): np.ascontiguousarray(tensor)
            for name, tensor in weights.items()
        }
        for name, tensor in held.items():
            if name not in refittable:
                raise PackageError(
                    f"the built plan can't refit tensor '{prefix}{name}'",
                    remedy="build it again with robot-export build --anew",
                )
            if not refitter.set_named_weights(name, self._trt.Weights(tensor)):
                raise PackageError(f"TensorRT refused new values of tensor '{prefix}{name}'")
        if not refitter.refit_cuda_engine():
            raise PackageError(
                f"TensorRT refused the refit of graph '{self._graph}'",
                found=f"missing {list(refitter.get_missing_weights())[:5]}",
            )


def cached_plan(
    package: Package,
    graph: str,
    options: EngineOptions,
    *,
    report: Report | None = None,
    anew: bool = False,
) -> plans.Obtained:
    """The plan of a graph for this device, from the cache or built now (minutes on a Jetson). Raises
    `MissingDependency` and `PackageError`."""
    trt, device = require_tensorrt(), require_cuda()
    device.use_here()
    identity = identity_here(trt, device, package, graph)
    cache = Path(options.cache) if options.cache else plans.default_cache()
    build = BuildOptions(plans.timing_path(cache, identity), options.workspace_mib, report)
    logger = trt.Logger(trt.Logger.WARNING)
    return plans.obtain(
        cache,
        identity,
        lambda: build_plan(trt, logger, package, graph, build),
        workspace_mib=options.workspace_mib,
        anew=anew,
    )


def identity_here(trt: Any, device: cuda.Cuda, package: Package, graph: str) -> plans.PlanIdentity:
    """What a plan of this graph must be with this TensorRT on this device."""
    return plans.identity_of(
        package,
        graph,
        library=trt.__name__,
        version=trt.__version__,
        gpu=f"{device.device_name}, {device.multiprocessors} multiprocessors",
        capability=device.capability,
    )
