"""Ways to an engine with new weights: how soon it is ready, from arrays in memory, and what each costs later.

The losing ways are here and nowhere else: they are what the choice in `runtime.engines.onnxruntime` rests on.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.machine import in_words, machine
from contracts.errors import PackageError
from contracts.files.packages import Package, load_package
from runtime.engines import Engine, EngineOptions, open_engine, refinable_names, refined, survey
from runtime.engines.binding import ort_value, require_onnxruntime
from runtime.engines.onnxruntime import session_options

Run = Callable[[Mapping[str, np.ndarray]], Any]
Make = Callable[[Mapping[str, np.ndarray]], AbstractContextManager[Run]]
"""New weights -> what runs with them, for as long as it is open."""
GRAPH = "head"


class Way(msgspec.Struct, frozen=True):
    """Milliseconds. `ready`: from arrays in memory to a standby, median and most, and of the processor's time
    (what a busy machine does not add to); `replay`: all golden cases through it once; `run`: one
    inference, median. `keeps`: whether other weights gave other outputs that are
    right (a way that does not is no way). `chosen`: what the engine does by itself."""

    name: str
    ready: float
    longest: float
    processor: float
    replay: float
    run: float
    keeps: bool
    chosen: bool = False


class Found(msgspec.Struct, frozen=True):
    package_id: str
    refinable_bytes: int
    tensors: int
    golden_cases: int
    swaps: int
    machine: dict[str, Any]
    ways: tuple[Way, ...]


def measure(folder: Path, swaps: int = 30) -> Found:
    """Every way in turn, `swaps` times over, so that all see the same machine."""
    package = load_package(folder)
    if not refinable_names(package, GRAPH):
        raise PackageError(f"{folder} has no refinable graph '{GRAPH}'")
    with ExitStack() as opened:
        return _measure(package, _ways(package, opened), swaps)


def _measure(package: Package, ways: dict[str, Make], swaps: int) -> Found:
    cases = [case.inputs for case in package.golden[GRAPH]]
    weights = [_moved(package, 1.0 + 0.001 * k) for k in range(swaps)]
    reference = _outputs(
        EngineOptions(kind="onnxruntime", swap="session"), package, _moved(package, 1.05), cases[0]
    )
    ready: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    replay: dict[str, list[float]] = {name: [] for name in ways}
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for each in weights:
        for name, make in ways.items():
            begin_s, used_s = time.perf_counter(), time.thread_time()
            with make(each) as run:
                ready[name].append(time.perf_counter() - begin_s)
                processor[name].append(time.thread_time() - used_s)
                begin_s = time.perf_counter()
                for inputs in cases:
                    run(inputs)
                replay[name].append(time.perf_counter() - begin_s)
                for inputs in cases:
                    begin_s = time.perf_counter()
                    run(inputs)
                    runs[name].append(time.perf_counter() - begin_s)
                del run  # or its session would end on the next way's time
    found = []
    for name, make in ways.items():
        with make(_moved(package, 1.05)) as run:
            answer = run(cases[0])
            answered = answer[next(iter(reference))] if isinstance(answer, dict) else answer[0]
            first = np.array(answered)
        wanted = next(iter(reference.values()))
        found.append(
            Way(
                name=name,
                ready=1e3 * statistics.median(ready[name]),
                longest=1e3 * max(ready[name]),
                processor=1e3 * statistics.median(processor[name]),
                replay=1e3 * statistics.median(replay[name]),
                run=1e3 * statistics.median(runs[name]),
                keeps=bool(np.allclose(first, wanted, atol=1e-3 * max(1.0, np.abs(wanted).max()))),
                chosen=name.startswith("Engine.standby"),
            )
        )
    return Found(
        package_id=package.package_id,
        refinable_bytes=sum(t.nbytes for t in weights[0].values()),
        tensors=len(weights[0]),
        golden_cases=len(cases),
        swaps=swaps,
        machine=machine(),
        ways=tuple(found),
    )


def _ways(package: Package, opened: ExitStack) -> dict[str, Make]:
    """Every way here; the engines that it starts from go into `opened`."""
    ort = require_onnxruntime()
    level = ort.GraphOptimizationLevel

    def engine_of(options: EngineOptions) -> Engine:
        return opened.enter_context(closing(open_engine(package, GRAPH, options)))

    feed = engine_of(EngineOptions(swap="auto"))
    new = engine_of(EngineOptions(swap="session"))
    ways: dict[str, Make] = {
        "Engine.standby (swap auto)": lambda w: _standby(feed, w),
        "Engine.standby, swap session": lambda w: _standby(new, w),
        "new session, basic optimisations": _session(package, level.ORT_ENABLE_BASIC),
        "new session, no optimisations": _session(package, level.ORT_DISABLE_ALL),
        "new session, weights not packed": _session(package, level.ORT_ENABLE_ALL, packed=False),
        "new session, neither": _session(package, level.ORT_DISABLE_ALL, packed=False),
    }
    ways["load of a graph optimised before (its weights are baked in)"] = _optimised(package)
    options = EngineOptions(kind="tensorrt")
    try:
        survey.require(options)
    except Exception:  # absent: the table says nothing about it
        return ways
    refitted = engine_of(options)
    ways["Engine.standby of tensorrt (refit)"] = lambda w: _standby(refitted, w)
    return ways


@contextmanager
def _standby(engine: Engine, weights: Mapping[str, np.ndarray]) -> Iterator[Run]:
    with closing(engine.standby(weights)) as standby:
        yield standby.run


def _session(package: Package, level: Any, *, packed: bool = True) -> Make:
    """A new session of the package's own graph at another optimisation level."""
    ort = require_onnxruntime()

    @contextmanager
    def make(weights: Mapping[str, np.ndarray]) -> Iterator[Run]:
        tensors = refined(package, GRAPH, weights)
        options = session_options(EngineOptions())
        options.graph_optimization_level = level
        if not packed:
            options.add_session_config_entry("session.disable_prepacking", "1")
        values = [ort_value(np.array(t, order="C"), "cpu") for t in tensors.values()]
        options.add_external_initializers([*tensors], values)
        session = ort.InferenceSession(
            package.graphs[GRAPH], options, providers=["CPUExecutionProvider"]
        )
        yield lambda inputs: session.run(None, dict(inputs))
        del values  # the session reads them until here

    return make


def _optimised(package: Package) -> Make:
    """ORT writes the optimised graph once; loading it leaves only parsing and packing. Weights that went into
    folded constants can't be replaced in it: shown for what even the fastest load costs."""
    ort = require_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = session_options(EngineOptions())
        options.optimized_model_filepath = str(path)
        tensors = package.graph_weights(GRAPH)
        values = [ort_value(tensor, "cpu") for tensor in tensors.values()]
        options.add_external_initializers([*tensors], values)
        ort.InferenceSession(package.graphs[GRAPH], options, providers=["CPUExecutionProvider"])
        model = path.read_bytes()

    @contextmanager
    def make(_weights: Mapping[str, np.ndarray]) -> Iterator[Run]:
        options = session_options(EngineOptions())
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        yield lambda inputs: session.run(None, dict(inputs))

    return make


def _moved(package: Package, by: float) -> dict[str, np.ndarray]:
    prefix = f"{GRAPH}/"
    return {
        name: tensor * np.asarray(by, tensor.dtype)
        for name, tensor in package.refinable_weights().items()
        if name.startswith(prefix)
    }


def _outputs(
    options: EngineOptions,
    package: Package,
    weights: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    with (
        closing(open_engine(package, GRAPH, options)) as engine,
        closing(engine.standby(weights)) as standby,
    ):
        return {name: array.copy() for name, array in standby.run(inputs).items()}


def table(found: Found) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = [
        "| way | ready (ms, median) | longest | processor time | golden replay (ms) | one inference (ms) | "
        "new weights count |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in found.ways:
        name = f"**{way.name}**" if way.chosen and "auto" in way.name else way.name
        numbers = (way.ready, way.longest, way.processor, way.replay)
        cells = " | ".join(f"{number:.2f}" for number in numbers)
        lines.append(f"| {name} | {cells} | {way.run:.3f} | {'yes' if way.keeps else 'NO'} |")
    lines += [
        "",
        f"{found.tensors} tensors, {found.refinable_bytes / 1e6:.2f} MB; {found.swaps} swaps of each way, in "
        f"turn; the replay is of {found.golden_cases} golden cases. Machine: {in_words(found.machine)}.",
    ]
    return "\n".join(lines)
