"""`make gpu`: everything that needs an NVIDIA device, with one command, and a page of what came out.

`python -m benchmarks.gpu --name orin` runs every step of `steps` as a program of its own (one that fails or
crashes costs itself alone) and writes docs/results/gpu-orin.md; `--list` writes docs/results/gpu.md, what
there is to run and where it has been run. Owns no measurement: the steps do.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from contracts.files import atomic, outputs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
TITLE = "# What needs a GPU"
BIN = Path(sys.executable).parent
POLICY, REWARD = "pretrained/policy-open_drawer", "pretrained/reward-zero-shot"
STEP_LIMIT_S = 1800
KEPT_LINES = 60


@dataclass(frozen=True)
class Step:
    """One command; `shows` says which claim it bears."""

    name: str
    shows: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Done:
    """What a step came to: its exit code, seconds of wall time and the end of what it said."""

    step: Step
    code: int
    wall_s: float
    output: str

    @property
    def verdict(self) -> str:
        return "ok" if self.code == 0 else f"FAILED (exit code {self.code})"


def steps() -> list[Step]:
    """In the order in which a failure says most: what is there, then builds, then answers, then speed."""
    build = [
        Step(
            f"build {Path(package).name}",
            "strongly typed plan, REFIT_INDIVIDUAL, timing and plan cache",
            ("robot-export", "build", package),
        )
        for package in (POLICY, REWARD)
    ]
    check = [
        Step(
            f"parity of {Path(package).name}",
            "torch, ONNX and TensorRT agree on golden inputs and from pictures to actions",
            ("robot-export", "check", package, "--engine", "tensorrt"),
        )
        for package in (POLICY, REWARD)
    ]
    return [
        Step(
            "doctor",
            "what the machine has",
            ("robot-run", "doctor", "--set", "policy.engine=tensorrt"),
        ),
        *build,
        *check,
        Step(
            "tests marked gpu",
            "refit, failed refit, 1,000 swaps under load, CUDA graph, ONNX Runtime's CUDA, gradient steps",
            ("python", "-m", "pytest", "-m", "gpu", "-q", "-rs", "tests"),
        ),
        Step(
            "inference",
            "latency beside the bare TensorRT call, with and without copies, with a busy neighbour",
            ("robot-bench", "engine", POLICY, "--engine", "tensorrt"),
        ),
        Step(
            "inference, CUDA provider",
            "ONNX Runtime on the GPU beside its bare call",
            ("robot-bench", "engine", POLICY, "--engine", "onnxruntime", "--provider", "cuda"),
        ),
        Step("swap", "ways to a standby with new weights", ("robot-bench", "swap", POLICY)),
        Step("push", "publish, armed, swapped, for each engine", ("robot-bench", "push", POLICY)),
        Step(
            "closed loop",
            "the policy on TensorRT opens the drawer as often as on ONNX Runtime",
            (
                *("robot-export", "check", POLICY, "--engine", "tensorrt"),
                *("--bench", "open_drawer", "--episodes", "100"),
            ),
        ),
        Step(
            "reward backends",
            "latency and throughput of edge, vlm and the batching server on the GPU",
            ("robot-bench", "reward", "--device", "cuda"),
        ),
    ]


def run(step: Step) -> Done:
    """Run one step from the repository's root; never raises for what the step does."""
    program, *arguments = step.command
    began = time.monotonic()
    try:
        ended = subprocess.run(
            [str(BIN / program), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=STEP_LIMIT_S,
            check=False,
        )
        code, output = ended.returncode, ended.stdout
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        code, output = 124, said.decode(errors="replace") if isinstance(said, bytes) else said
    except OSError as error:
        code, output = 127, str(error)
    return Done(step, code, time.monotonic() - began, output.replace(str(ROOT), "."))


def device() -> str:
    """The NVIDIA device and its driver in words, or why there is none."""
    query = "--query-gpu=name,driver_version,memory.total,compute_cap"
    try:
        found = subprocess.run(
            ["nvidia-smi", query, "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except OSError:
        release = Path("/etc/nv_tegra_release")
        if release.exists():
            return f"Jetson, {release.read_text().splitlines()[0].lstrip('# ')}"
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def page(name: str, machine: str, done: list[Done]) -> str:
    """gpu-<name>.md: a table of verdicts, then what every step said last."""
    lines = [
        f"# The GPU suite on {name}",
        "",
        f"{machine}; {platform.machine()}, Python {platform.python_version()}; "
        f"commit {_commit()}; {time.strftime('%Y-%m-%d')}.",
        f"`python -m benchmarks.gpu --name {name}`",
        "",
        "| step | shows | command | verdict | s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.step.name} | {one.step.shows} | `{' '.join(one.step.command)}` | {one.verdict} "
        f"| {one.wall_s:.0f} |"
        for one in done
    ]
    for one in done:
        kept = one.output.rstrip().splitlines()[-KEPT_LINES:]
        lines += ["", f"## {one.step.name}", "", "```", *kept, "```"]
    return "\n".join(lines) + "\n"


def listing() -> str:
    """gpu.md: every step and every test that needs a GPU, and on which machines each has passed."""
    runs = {path.stem.removeprefix("gpu-"): path.read_text() for path in RESULTS.glob("gpu-*.md")}
    lines = [
        TITLE,
        "",
        "Every path that an NVIDIA device must show. `make gpu NAME=<machine>` runs them all and writes",
        "a page beside this one; `python -m benchmarks.gpu --list` writes this list. **NOT RUN** is meant",
        "literally: the code is there, tested as far as a machine without a GPU can, and nobody has seen it",
        "run on one.",
        "",
        "| step | shows | command | run on |",
        "|---|---|---|---|",
    ]
    for step in steps():
        command = " ".join(step.command)
        where = [
            f"[{name}](gpu-{name}.md)"
            for name, text in sorted(runs.items())
            if f"`{command}` | ok" in text
        ]
        lines.append(
            f"| {step.name} | {step.shows} | `{command}` | {', '.join(where) or '**NOT RUN**'} |"
        )
    lines += ["", "The tests marked `gpu`:", ""]
    lines += [f"- `{test}`" for test in gpu_tests()]
    return "\n".join(lines) + "\n"


def gpu_tests() -> list[str]:
    """Names of the tests that only run on a GPU."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return [line for line in found.stdout.splitlines() if "::" in line]


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def main() -> int:
    """Exit status: 0 when every step passed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--name", default="", help="of the machine, for the page: orin, rtx4090")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the pages")
    parser.add_argument("--list", action="store_true", help="only write what there is to run")
    given = parser.parse_args()
    outputs.require_file(given.output / "gpu.md", "the list", outputs.beginning(TITLE.encode()))
    if given.list:
        atomic.write_bytes(given.output / "gpu.md", listing().encode())
        return 0
    machine = device()
    if not machine:
        print(
            "no NVIDIA device was found (nvidia-smi says none): run this on a machine that has one; "
            "`make test` is what runs without",
            file=sys.stderr,
        )
        return 2
    name = given.name or machine.split(",")[0].lower().replace(" ", "-")
    done = []
    for number, step in enumerate(todo := steps(), 1):
        print(f"[{number}/{len(todo)}] {step.name}", flush=True)
        done.append(run(step))
        print(f"    {done[-1].verdict}, {done[-1].wall_s:.0f} s", flush=True)
    path = given.output / f"gpu-{name}.md"
    atomic.write_bytes(path, page(name, machine, done).encode())
    atomic.write_bytes(given.output / "gpu.md", listing().encode())
    print(path)
    return 0 if all(one.code == 0 for one in done) else 1


if __name__ == "__main__":
    sys.exit(main())
