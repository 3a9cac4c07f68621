"""Measures one graph in one engine: `python -m benchmarks.engine_job JOB` prints one JSON line."""

from __future__ import annotations

import itertools
import signal
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.engine import Job, Row, Times
from benchmarks.machine import resident_mb
from contracts.errors import EntracteError
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import Package, load_package
from runtime.engines import Engine, EngineOptions, open_engine, survey
from runtime.engines.binding import ort_value, require_onnxruntime
from runtime.engines.onnxruntime import open_session
from runtime.engines.tensorrt import TensorRTEngine

SLICES = 8
BUSY = "while True: sum(i * i for i in range(10000))"

Call = Callable[[Mapping[str, np.ndarray]], Any]


class Spent(NamedTuple):
    """Of one call. `processor_s`: of this thread, which a busy machine adds nothing to."""

    wall_s: float
    processor_s: float


class Neighbours:
    """Processes that do nothing but compute; stopped but for `busy()`."""

    def __init__(self, count: int) -> None:
        self._processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
        self.rest()

    def busy(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGCONT)

    def rest(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Neighbours:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def main() -> None:
    job = msgspec.json.decode(sys.argv[1], type=Job)
    try:
        row = run(job)
    except EntracteError as error:
        row = Row(job.engine, job.graph, absent=str(error))
    print(msgspec.json.encode(row).decode())


def run(job: Job) -> Row:
    package = load_package(Path(job.package))
    options = EngineOptions(
        kind=job.engine,
        threads=job.threads,
        provider=job.provider,  # type: ignore[arg-type]
    )
    survey.require(options)  # loads the library, whose size is not this graph's
    before_mb, _ = resident_mb()
    engine = open_engine(package, job.graph, options)
    cases = package.golden[job.graph]
    engine.run(cases[0].inputs)
    memory_mb = resident_mb()[0] - before_mb
    ours = engine
    if job.swapped:
        prefix = f"{job.graph}/"
        weights = package.refinable_weights()
        ours = engine.standby({n: t for n, t in weights.items() if n.startswith(prefix)})
    row = Row(
        engine=job.engine,
        graph=job.graph,
        what=f"{job.engine} after a swap" if job.swapped else job.engine,
        precision=package.manifest.precision.get(job.graph, "fp32"),
        threads=job.threads,
        copies="none" if job.engine == "onnxruntime" and job.provider == "cpu" else "in",
        memory_mb=memory_mb,
        output_bytes=sum(array.nbytes for array in engine.run(cases[0].inputs).values()),
    )
    if job.bare_defaults:
        engine.close()
        row = msgspec.structs.replace(
            row, what="bare ONNX Runtime as it comes", threads=0, memory_mb=0.0
        )
        return _timed(job, cases, row, _bare_as_it_comes(package, job.graph), None)
    row = msgspec.structs.replace(row, python_bytes=_python_bytes(ours.run, cases))
    return _timed(job, cases, row, ours.run, _bare(package, job.graph, options, engine), ours)


def _timed(
    job: Job,
    cases: tuple[GoldenCase, ...],
    row: Row,
    ours: Call,
    bare: Call | None,
    engine: Engine | None = None,
) -> Row:
    """Times both in turn, in slices with and without neighbours."""
    inputs = itertools.cycle(case.inputs for case in cases)
    for _ in range(job.warm_up):
        ours(next(inputs))
        if bare:
            bare(next(inputs))
    spent: dict[bool, list[tuple[Spent, Spent]]] = {False: [], True: []}
    with Neighbours(job.neighbours) as neighbours:
        for number in range(SLICES if job.neighbours else SLICES // 2):
            busy = bool(number % 2) and job.neighbours > 0
            (neighbours.busy if busy else neighbours.rest)()
            time.sleep(0.05)
            spent[busy] += _pairs(max(1, job.rounds // SLICES), inputs, ours, bare)
        neighbours.rest()
        kernels = _kernels(engine, cases[0], job.rounds // 2)
    found: dict[str, Any] = {"kernels": kernels}
    for busy, suffix in ((False, ""), (True, "_busy")):
        if not spent[busy]:
            continue
        found[f"ours{suffix}"] = _times([mine.wall_s for mine, _ in spent[busy]])
        if bare:
            found[f"bare{suffix}"] = _times([other.wall_s for _, other in spent[busy]])
            found[f"overhead{suffix}"] = statistics.median(
                mine.wall_s / other.wall_s for mine, other in spent[busy]
            )
    if bare and row.threads == 1:
        pairs = spent[False] + spent[True]
        found["overhead_processor"] = statistics.median(
            mine.processor_s / other.processor_s for mine, other in pairs
        )
    return msgspec.structs.replace(row, **found)


def _pairs(rounds: int, inputs: Any, ours: Call, bare: Call | None) -> list[tuple[Spent, Spent]]:
    found = []
    for number in range(rounds):
        given = next(inputs)
        # Who comes second finds caches warm: they take turns at it.
        if number % 2 or bare is None:
            mine = _spent(ours, given)
            other = _spent(bare, given) if bare else mine
        else:
            other = _spent(bare, given)
            mine = _spent(ours, given)
        found.append((mine, other))
    return found


def _spent(call: Call, given: Mapping[str, np.ndarray]) -> Spent:
    begin_s, used_s = time.perf_counter(), time.thread_time()
    call(given)
    return Spent(time.perf_counter() - begin_s, time.thread_time() - used_s)


def _times(seconds: list[float]) -> Times:
    p50, p90, p99 = (1e3 * float(q) for q in np.quantile(seconds, (0.5, 0.9, 0.99)))
    return Times(p50, p90, p99, 1e3 * max(seconds))


def _python_bytes(call: Call, cases: tuple[GoldenCase, ...]) -> int:
    """Most that Python holds more during a call than before it."""
    call(cases[0].inputs)
    tracemalloc.start()
    try:
        call(cases[0].inputs)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        call(cases[0].inputs)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def _bare(package: Package, graph: str, options: EngineOptions, engine: Engine) -> Call:
    """The library's own call on the same graph, opened alike, with nothing of ours around it."""
    if isinstance(engine, TensorRTEngine):
        return _bare_tensorrt(package, graph, engine)
    held = open_session(package, graph, options, package.graph_weights(graph))
    names = [output.name for output in held.session.get_outputs()]
    return lambda inputs, held=held: held.session.run(names, inputs)  # type: ignore[misc]


def _bare_as_it_comes(package: Package, graph: str) -> Call:
    """ONNX Runtime with none of our options: as many threads as cores, which spin between two calls."""
    ort = require_onnxruntime()
    options = ort.SessionOptions()
    tensors = package.graph_weights(graph)
    values = [ort_value(tensor, "cpu") for tensor in tensors.values()]
    options.add_external_initializers([*tensors], values)
    session = ort.InferenceSession(
        package.graphs[graph], options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda inputs, kept=values: session.run(names, inputs)  # type: ignore[misc]


def _bare_tensorrt(package: Package, graph: str, engine: TensorRTEngine) -> Call:
    """Copies, one enqueueV3, copies, a wait: the same plan in a context of its own, without a CUDA graph.
    Through our own ctypes: the library's Python has no copies."""
    twin = engine.plain_twin()
    names = [spec.name for spec in package.manifest.graph(graph).inputs]

    def call(inputs: Mapping[str, np.ndarray]) -> Any:
        given = [inputs[name] for name in names]
        return twin.run(given, tuple(array.shape for array in given))

    return call


def _kernels(engine: Engine | None, case: GoldenCase, rounds: int) -> Times | None:
    """Without the copies, where there are any."""
    if not isinstance(engine, TensorRTEngine) or engine.bound is None:
        return None
    bound = engine.bound
    engine.run(case.inputs)
    shapes = tuple(case.inputs[spec.name].shape for spec in engine.inputs)
    return _times([_spent(lambda _: bound.compute(shapes), {}).wall_s for _ in range(rounds)])


if __name__ == "__main__":
    main()
