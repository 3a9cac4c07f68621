"""Inference of a package's graphs in every engine that is present, beside the bare library in the same run.

Owns which rows there are and the table; `benchmarks.engine_job` measures one graph in one engine, in a
process of its own, so that its memory is its own and a library that crashes costs one row.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import in_words, machine
from contracts.errors import ConfigError, EntracteError
from contracts.files.packages import read_manifest
from contracts.package import package_id
from runtime.engines import EngineOptions, survey

ENGINES = ("onnxruntime", "tensorrt")
LONGEST_S = 1800.0


class Job(msgspec.Struct, frozen=True):
    """`rounds`: inferences timed, half of them beside `neighbours` processes that do nothing but compute.
    `swapped`: the standby that a release would run in, beside the same bare call. `bare_defaults`: the
    bare library as it comes (all cores, spinning) instead of our engine."""

    engine: str
    package: str
    graph: str
    provider: str = "cpu"
    threads: int = 1
    rounds: int = 400
    warm_up: int = 20
    neighbours: int = 1
    swapped: bool = False
    bare_defaults: bool = False


class Times(msgspec.Struct, frozen=True):
    """Milliseconds of one call."""

    median: float
    p90: float
    p99: float
    longest: float


class Row(msgspec.Struct, frozen=True):
    """One graph in one engine. `ours` and `bare` alone on the machine, `ours_busy` and `bare_busy` beside the
    neighbours; `overhead` is the median of ours / bare, pair by pair, `overhead_busy` likewise, and
    `overhead_processor` that of this thread's processor time (where one thread does all of it).
    `copies`: whether copies between host and device are in the times ("in", or "none" on a CPU); `kernels`:
    without them. `memory_mb`: resident memory that opening and running took. `python_bytes`: most that
    Python allocated during a call, all outputs together being `output_bytes`. `absent`: why it is empty."""

    engine: str
    graph: str
    what: str = ""
    absent: str = ""
    precision: str = ""
    threads: int = 0
    copies: str = ""
    ours: Times | None = None
    bare: Times | None = None
    ours_busy: Times | None = None
    bare_busy: Times | None = None
    kernels: Times | None = None
    overhead: float = 0.0
    overhead_busy: float = 0.0
    overhead_processor: float = 0.0
    memory_mb: float = 0.0
    python_bytes: int = 0
    output_bytes: int = 0


class Found(msgspec.Struct, frozen=True):
    """Of one run."""

    package_id: str
    rounds: int
    warm_up: int
    neighbours: int
    machine: dict[str, Any]
    rows: tuple[Row, ...]


def measure(
    package: Path,
    *,
    engines: Sequence[str] = (),
    provider: str = "cpu",
    threads: int = 1,
    rounds: int = 400,
    warm_up: int = 20,
    neighbours: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> Found:
    """All graphs in all engines that are present, or in `engines`. Raises `ConfigError` for one that there
    isn't, `MissingDependency` if one that was named can't run here."""
    odd = sorted(set(engines) - set(ENGINES))
    if odd:
        raise ConfigError("--engine", expected=f"of {', '.join(ENGINES)}", found=", ".join(odd))
    for name in engines:
        survey.require(_options(name, provider, threads))
    manifest = read_manifest(package)
    rows = []
    for name in engines or ENGINES:
        try:
            survey.require(_options(name, provider, threads))
        except EntracteError as error:
            rows.append(Row(name, "all graphs", absent=str(error)))
            continue
        for graph in manifest.graphs:
            refinable = any(t.name.startswith(f"{graph.name}/") for t in manifest.refinable)
            ways = [{}, {"swapped": True}][: 1 + refinable]
            if name == "onnxruntime":
                ways.append({"bare_defaults": True})
            for way in ways:
                report(f"measuring {graph.name} in {name} {' '.join(way)}")
                job = Job(
                    engine=name,
                    package=str(package),
                    graph=graph.name,
                    provider=provider,
                    threads=threads,
                    rounds=rounds,
                    warm_up=warm_up,
                    neighbours=neighbours,
                )
                rows.append(_in_its_process(msgspec.structs.replace(job, **way)))
    return Found(package_id(manifest), rounds, warm_up, neighbours, machine(), tuple(rows))


def _options(engine: str, provider: str, threads: int) -> EngineOptions:
    return EngineOptions(kind=engine, provider=provider, threads=threads)  # type: ignore[arg-type]


def _in_its_process(job: Job) -> Row:
    """The row, or why there is none: an engine that fails costs only its own figures."""
    command = [sys.executable, "-m", "benchmarks.engine_job", msgspec.json.encode(job).decode()]
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Row(job.engine, job.graph, absent=f"not done after {LONGEST_S:.0f} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Row(job.engine, job.graph, absent=said[-1])
    return msgspec.json.decode(lines[-1], type=Row)


def table(found: Found) -> str:
    """For a terminal and for docs/results, Markdown."""
    head = (
        *("graph, engine", "median (ms)", "p90", "p99", "longest", "bare: median", "p99"),
        *("over bare", "processor time over bare", "beside a neighbour: median", "p99"),
        *("bare: median", "p99", "over bare", "MB", "Python allocates a call"),
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in found.rows:
        if row.absent or row.ours is None:
            lines.append(f"| {row.graph}, {row.engine} | absent: {row.absent} |")
            continue
        cells = [
            f"{row.graph}, {row.what}",
            *(f"{value:.3f}" for value in msgspec.structs.astuple(row.ours)),
            *_pair(row.bare),
            *(_ratio(value) for value in (row.overhead, row.overhead_processor)),
            *_pair(row.ours_busy),
            *_pair(row.bare_busy),
            _ratio(row.overhead_busy),
            f"{row.memory_mb:.0f}" if row.memory_mb else "–",
            f"{row.python_bytes} B" if row.python_bytes else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    for row in found.rows:
        if row.kernels:
            lines.append(
                f"{row.graph}, {row.engine}: copies between host and device are in; kernels alone "
                f"{row.kernels.median:.3f} ms (median), {row.kernels.p99:.3f} (p99)."
            )
    lines.append(
        f"{found.rounds} calls each after {found.warm_up} to warm up, ours and the bare library's in turn; "
        f"half of them beside {found.neighbours} busy process(es), in slices that alternate. Over bare: the "
        "median of ours / bare over pairs of calls that follow each other, not the ratio of the two medians. "
        "Precision: "
        + ", ".join(sorted({f"{row.graph} {row.precision}" for row in found.rows if row.precision}))
        + f". Machine: {in_words(found.machine)}."
    )
    return "\n".join(lines)


def _pair(times: Times | None) -> tuple[str, str]:
    return (f"{times.median:.3f}", f"{times.p99:.3f}") if times else ("–", "–")


def _ratio(value: float) -> str:
    return f"{value:.3f} ×" if value else "–"
