"""Which graphs of packages a TensorRT takes: the report. Each is tried in a process of its own, whose death
is a finding like any other (`export.support_probe`). Needs neither torch nor a GPU.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from contracts.errors import MissingDependency
from contracts.files.packages import load_package
from export.support_probe import GraphSupport

LONGEST_S = 3600.0
"""A build that takes longer than this on a workstation is stuck."""
_ROOT = Path(__file__).resolve().parent.parent


class PackageSupport(msgspec.Struct, frozen=True):
    """Findings on a package, named by its folder."""

    package: str
    architecture: str
    graphs: tuple[GraphSupport, ...]

    @property
    def holds(self) -> bool:
        return all(graph.holds for graph in self.graphs)


def support(folder: Path, report: Callable[[str], None] = lambda _: None) -> PackageSupport:
    """Try every graph of the package. `report` hears which is at it. Raises `PackageError` for a broken
    package, `MissingDependency` where there is no whole TensorRT."""
    package = load_package(folder)
    found = []
    for spec in package.manifest.graphs:
        report(f"{folder.name}/{spec.name}")
        one = _in_child(folder, spec.name)
        if not one.library:
            raise MissingDependency(
                "the support report needs TensorRT",
                found=one.failed,
                remedy="pip install tensorrt-rtx (parses and builds without a GPU); on a Jetson JetPack "
                "has TensorRT. Every package runs without it on engine onnxruntime",
            )
        found.append(one)
    return PackageSupport(folder.resolve().name, package.manifest.architecture, tuple(found))


def _in_child(folder: Path, graph: str) -> GraphSupport:
    with tempfile.TemporaryDirectory() as kept:
        result = Path(kept) / "found.json"
        command = [sys.executable, "-m", "export.support_probe", str(folder.resolve()), graph]
        try:
            done = subprocess.run(
                [*command, str(result)],
                cwd=_ROOT,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LONGEST_S,
                check=False,
            )
            ended, said = done.returncode, done.stderr
        except subprocess.TimeoutExpired:
            ended, said = 0, ""
        found = (
            msgspec.json.decode(result.read_bytes(), type=GraphSupport)
            if result.exists()
            else GraphSupport(graph)
        )
    if found.at:
        found.failed = _ending(found.at, ended, said)
    return found


def _ending(at: str, code: int, said: str) -> str:
    if code < 0:
        return f"the library died of {signal.Signals(-code).name} at {at}"
    if code > 0:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        return f"the probe failed at {at}: {last}"
    return f"{at} took more than {LONGEST_S:.0f} s"


def markdown(found: Iterable[PackageSupport]) -> str:
    """A page of tables: what is taken, then layers by type, then every refusal in the parser's words."""
    found = list(found)
    libraries = sorted({graph.library for one in found for graph in one.graphs})
    lines = [
        f"TensorRT: {', '.join(libraries)}.",
        "",
        "| package | architecture | graph | parses | layers | refittable | plain build | plan |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        for graph in one.graphs:
            lines.append(
                f"| {one.package} | {one.architecture} | {graph.graph} | {_yes(graph.parsed)} "
                f"| {sum(graph.layers.values())} | {graph.refittable} of {graph.refinable} "
                f"| {_built(graph)} | {graph.plan_bytes / 1e6:.2f} MB |"
            )
    lines += ["", "Layers by type:", ""]
    for one in found:
        for graph in one.graphs:
            kinds = ", ".join(f"{name} {count}" for name, count in graph.layers.items())
            lines.append(f"- {one.package}/{graph.graph}: {kinds}")
    lines += ["", *_remarks(found)]
    return "\n".join(lines).rstrip() + "\n"


def _remarks(found: list[PackageSupport]) -> list[str]:
    lines = []
    for one in found:
        for graph in one.graphs:
            name = f"{one.package}/{graph.graph}"
            lines += [
                f"- {name}: {refused.operator} '{refused.node}': {refused.why}"
                for refused in graph.unsupported
            ]
            if graph.not_refittable:
                lines.append(f"- {name} can't refit: {', '.join(graph.not_refittable)}")
            if graph.failed:
                lines.append(f"- {name}: {graph.failed}")
    left_out = sorted({graph.not_run for one in found for graph in one.graphs if graph.not_run})
    return [
        *(["Refused:", "", *lines, ""] if lines else ["Nothing was refused.", ""]),
        *(f"NOT RUN: {what}." for what in left_out),
    ]


def _built(graph: GraphSupport) -> str:
    if not graph.built:
        return "no"
    refit = f", refit {graph.refit_build_s:.1f} s" if graph.refit_built else ""
    return f"{graph.build_s:.1f} s{refit}"


def _yes(good: bool) -> str:
    return "yes" if good else "no"
