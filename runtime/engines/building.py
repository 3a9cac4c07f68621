"""Building a TensorRT plan from a package's graph, in the API that TensorRT 10.3, 10.16, 11.4 and RTX share.

Strongly typed networks: precision is what the ONNX says. Exactly the refinable tensors are refittable.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts.errors import PackageError
from contracts.files import atomic, mapped
from contracts.files.packages import Package
from contracts.package import GraphSpec, TensorSpec
from runtime.engines import refinable_names

MAX_BATCH = 64
"""Upper end of every dynamic axis (a batch or a number of candidate chunks) in the built profile."""
RECIPE = 1
"""Counted up whenever `build_plan` asks TensorRT for something else (a flag, `MAX_BATCH`): plans of another
recipe are built again."""
MAX_TIMING_BYTES = 1 << 28

Report = Callable[[str, float], None]
"""Called with the name of what TensorRT is at and the share of the build that is done, from any thread."""


@dataclass(frozen=True)
class BuildOptions:
    """`timing`: file of kernel timings to begin with and to add to. `workspace_mib`: most that a kernel may
    use, 0 for the device's memory. `report` hears of the progress."""

    timing: Path | None = None
    workspace_mib: int = 0
    report: Report | None = None


def build_plan(
    trt: Any, logger: Any, package: Package, graph: str, options: BuildOptions | None = None
) -> bytes:
    """A serialised engine of one graph; takes minutes on a Jetson. Raises `PackageError` with the parser's
    own words, and where the weights on disk are no longer the package's."""
    options = options or BuildOptions()
    spec = package.manifest.graph(graph)
    builder = trt.Builder(logger)
    network, parser = parse(trt, logger, builder, package, graph)
    config = builder.create_builder_config()
    if refinable_names(package, graph):
        mark_refittable(network, package, graph)
        # Full REFIT makes every weight replaceable and was up to twice as slow to run (FIELD_NOTES 2).
        config.set_flag(trt.BuilderFlag.REFIT_INDIVIDUAL)
    if hasattr(trt.BuilderFlag, "TF32"):
        # On by default: 10 bits of mantissa in every float32 product, which no parity check would pass.
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib:
        limit = options.workspace_mib << 20
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    dynamic = [tensor for tensor in spec.inputs if -1 in tensor.shape]
    if dynamic:
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            profile.set_shape(tensor.name, *profile_shapes(tensor, _usual(package, spec)))
        config.add_optimization_profile(profile)
    _begin_timing(trt, config, options.timing)
    monitor = _monitor(trt, options.report) if options.report else None
    if monitor is not None:
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    # The weights live in the parser until the build is over.
    del parser
    # It read them from the disk itself, long after they were checked: a plan of others must not be kept.
    manifest = package.manifest
    mapped.require_unchanged(package.folder / manifest.weights_file, manifest.weights_sha256)
    if plan is None:
        raise PackageError(
            f"TensorRT {trt.__version__} can't build graph '{graph}' of {package.folder}",
            remedy="see TensorRT's messages above",
        )
    _keep_timing(trt, config, options.timing)
    return bytes(plan)


def parse(trt: Any, logger: Any, builder: Any, package: Package, graph: str) -> tuple[Any, Any]:
    """(network, parser) of a graph as the package holds it in memory; the weights are read from the file
    beside it. Raises `PackageError`."""
    network, parser, taken = try_parse(trt, logger, builder, package, graph)
    if not taken:
        path = package.folder / package.manifest.graph(graph).file
        errors = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise PackageError(f"TensorRT {trt.__version__} can't parse {path}", found=errors)
    return network, parser


def try_parse(
    trt: Any, logger: Any, builder: Any, package: Package, graph: str
) -> tuple[Any, Any, bool]:
    """`parse` that says whether the parser took the graph; its errors are for the caller to ask for."""
    path = package.folder / package.manifest.graph(graph).file
    flags = 0
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if strongly_typed is not None:  # 11 knows no other kind
        flags = 1 << int(strongly_typed)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    return network, parser, bool(parser.parse(package.graphs[graph], str(path)))


def mark_refittable(network: Any, package: Package, graph: str) -> None:
    """Mark the graph's refinable tensors; raises `PackageError` naming those TensorRT won't take."""
    names = refinable_names(package, graph)
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


def _has_timing(trt: Any, config: Any) -> bool:
    # RTX chooses kernels when it loads a plan: its timing calls do nothing but warn.
    return "rtx" not in trt.__name__ and hasattr(config, "create_timing_cache")


def _begin_timing(trt: Any, config: Any, path: Path | None) -> None:
    if path is None or not _has_timing(trt, config):
        return
    data = atomic.read_bytes(path, MAX_TIMING_BYTES) if path.exists() else b""
    # TensorRT itself checks that timings are of its version and this device, and begins anew otherwise.
    cache = config.create_timing_cache(data) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)


def _keep_timing(trt: Any, config: Any, path: Path | None) -> None:
    if path is None or not _has_timing(trt, config):
        return
    cache = config.get_timing_cache()
    if cache is not None:
        atomic.write_bytes(path, bytes(cache.serialize()))


class Progress:
    """Nested phases of a build to one share that never goes back. Thread-safe; knows nothing of TensorRT."""

    def __init__(self, report: Report) -> None:
        self._report, self._lock = report, threading.Lock()
        self._open: list[tuple[str, int, int]] = []  # (phase, its steps, of them done)
        self._told = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            # What lies deeper than the parent is over, whether its end was told or not.
            names = [name for name, _, _ in self._open]
            depth = names.index(parent) + 1 if parent in names else 0
            self._open[depth:] = [(phase, max(steps, 1), 0)]
            self._tell(phase)

    def step(self, phase: str, step: int) -> None:
        with self._lock:
            names = [name for name, _, _ in self._open]
            if phase in names:
                index = names.index(phase)
                _, steps, done = self._open[index]
                # A step that is done holds all of the phases below it.
                self._open[index:] = [(phase, steps, max(done, min(step + 1, steps)))]
            self._tell(phase)

    def finish(self, phase: str) -> None:
        with self._lock:
            names = [name for name, _, _ in self._open]
            if phase in names:
                depth = names.index(phase)
                self._open[depth:] = []
                if not depth:
                    self._told = 1.0
                self._tell(phase)

    def _tell(self, phase: str) -> None:
        share, part = 0.0, 1.0
        for _, steps, done in self._open:
            share += part * done / steps
            part /= steps
        self._told = max(self._told, min(share, 1.0))
        self._report(phase, self._told)


def _monitor(trt: Any, report: Report) -> Any:
    """TensorRT's own interface for `Progress`, None in versions without (before 8.6)."""
    if not hasattr(trt, "IProgressMonitor"):
        return None
    progress = Progress(report)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()
