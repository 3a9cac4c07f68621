"""Latency, throughput and memory of every reward backend that is present, each in a process of its own.

Ratios are within one process and run: every score is timed beside something bare that it rests on. Owns
which backends there are and the table; `benchmarks.reward_backends` measures one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import ConfigError

BACKENDS = (
    "robot",
    "robot-tensorrt",
    "edge",
    "edge-torch",
    "vlm",
    "remote",
    "remote-vlm",
    "endpoint",
)
TINY_WIDTH = 256
TINY = Path(__file__).resolve().parents[1] / "tests" / "tiny_vlm.py"
LONGEST_S = 1800.0


class Job(msgspec.Struct, frozen=True):
    """What one process measures. `package`: reward package; `model`: folder of a vision-language model;
    `rounds`: scores timed, each beside its bare; `threads` of ONNX Runtime and torch."""

    backend: str
    package: str
    model: str = ""
    options: dict[str, Any] = {}
    endpoint: str = ""
    endpoint_model: str = ""
    rounds: int = 60
    threads: int = 1
    device: str = "auto"


class Row(msgspec.Struct, frozen=True):
    """What was found. Seconds of one score, asked alone: `p50_s`, `p99_s`; `per_s`: moments scored a second
    as `many` says; `bare_s` is the median of `bare`, `over_bare` the median of score / bare, pair by pair
    (NaN-free: 0 where nothing was measured). `peak_mb`, `start_mb`: resident memory of the process, its most
    and before the model was loaded. `gpu_mb`: most of the GPU's that torch held. `absent`: why there is
    nothing else."""

    backend: str
    absent: str = ""
    model_id: str = ""
    what: str = ""
    p50_s: float = 0.0
    p99_s: float = 0.0
    per_s: float = 0.0
    many: str = ""
    bare: str = ""
    bare_s: float = 0.0
    over_bare: float = 0.0
    peak_mb: float = 0.0
    start_mb: float = 0.0
    gpu_mb: float = 0.0
    more: dict[str, float] = {}


class Found(msgspec.Struct, frozen=True):
    """Of one run. `random_model`: the vision-language model is a small one of random weights: its times say
    what our code costs, nothing about a model of billions."""

    rows: tuple[Row, ...]
    cores: int
    load: float
    threads: int
    random_model: bool


def measure(
    package: Path,
    *,
    model: Path | None = None,
    options: dict[str, Any] | None = None,
    endpoint: str = "",
    endpoint_model: str = "",
    only: Sequence[str] = (),
    rounds: int = 60,
    threads: int = 1,
    device: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> Found:
    """One backend after the other. Raises `ConfigError` for a backend that there isn't."""
    odd = sorted(set(only) - set(BACKENDS))
    if odd:
        raise ConfigError("--only", expected=f"of {', '.join(BACKENDS)}", found=", ".join(odd))
    wanted = [name for name in BACKENDS if not only or name in only]
    if not endpoint:
        wanted = [name for name in wanted if name != "endpoint" or name in only]
    rows = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as scratch:
        folder = str(model or "")
        if not folder and {"vlm", "remote-vlm"} & set(wanted):
            report(f"making a Qwen3-VL of random weights, {TINY_WIDTH} wide")
            folder = _random_model(Path(scratch) / "model")
        for name in wanted:
            report(f"measuring {name}")
            extra = {"least_mass": 0.0, **(options or {})} if model is None else dict(options or {})
            rows.append(
                _in_its_process(
                    Job(
                        name,
                        str(package),
                        folder,
                        extra,
                        endpoint,
                        endpoint_model,
                        rounds,
                        threads,
                        device,
                    ),
                    threads,
                )
            )
    return Found(tuple(rows), os.cpu_count() or 1, load, threads, model is None)


def _in_its_process(job: Job, threads: int) -> Row:
    """The row, or why there is none: a backend that fails costs only its own figures."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.reward_backends",
        msgspec.json.encode(job).decode(),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return Row(job.backend, f"not done after {LONGEST_S:.0f} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return Row(job.backend, said[-1])
    return msgspec.json.decode(lines[-1], type=Row)


def _random_model(folder: Path) -> str:
    """A Qwen3-VL of the tests' own, "" outside a clone of the repository (the backend then says so)."""
    if not TINY.is_file() or importlib.util.find_spec("transformers") is None:
        return ""
    # By its place, not by sys.path: the tests have packages named as ours.
    spec = importlib.util.spec_from_file_location("tiny_vlm", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.build_vlm(folder, width=TINY_WIDTH))


def table(found: Found) -> str:
    """For a terminal and for docs/results."""
    head = ("backend", "one score", "p99", "over its bare", "moments/s", "peak MB", "GPU MB")
    lines = [f"{head[0]:<15}" + "".join(f"{name:>15}" for name in head[1:])]
    for row in found.rows:
        if row.absent:
            lines.append(f"{row.backend:<15}  absent: {row.absent}")
            continue
        cells = (
            f"{row.p50_s * 1e3:.1f} ms",
            f"{row.p99_s * 1e3:.1f} ms" if row.p99_s else "-",
            f"{row.over_bare:.2f} x" if row.over_bare else "-",
            f"{row.per_s:.1f}",
            f"{row.peak_mb:.0f}",
            f"{row.gpu_mb:.0f}" if row.gpu_mb else "-",
        )
        lines.append(f"{row.backend:<15}" + "".join(f"{cell:>15}" for cell in cells))
    lines.append("")
    for row in found.rows:
        if not row.absent:
            lines += _explained(row)
    if found.random_model and any(not r.absent and "vlm" in r.backend for r in found.rows):
        lines.append(
            f"The vision-language model is a Qwen3-VL of RANDOM weights, {TINY_WIDTH} wide, three layers: "
            "its times say what our code adds, nothing about a model of billions. Name one with --vlm."
        )
    lines.append(
        f"{found.cores} cores, {found.threads} threads a model, load {found.load:.1f} at the start: compare "
        "ratios, not seconds, with other runs."
    )
    return "\n".join(lines)


def _explained(row: Row) -> list[str]:
    said = [f"{row.backend}: one score is {row.what}; moments/s: {row.many}"]
    if row.bare:
        said.append(f"  bare ({row.bare_s * 1e3:.1f} ms): {row.bare}")
    if row.more:
        said.append("  " + ", ".join(f"{name} {value:g}" for name, value in row.more.items()))
    return said
