"""Parity of a finished package: golden vectors, torch made again, the plain ONNX graph, every engine here.

Runs where there is no torch (on a Jetson): the golden vectors are what torch answered at export.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from contracts.answers import tolerance_of
from contracts.errors import (
    CheckFailed,
    ConfigError,
    DeviceError,
    EntracteError,
    MissingDependency,
)
from contracts.files.packages import Package, load_package
from export.parity import recorded, torch_side
from export.parity.bench import ClosedLoop, Contender, closed_loop
from export.parity.measure import Parity, measure
from export.parity.nodes import Divergence, first_in_engine, first_node, with_weights
from export.parity.report import GOLDEN, RECORDED, WHOLE, Comparison, Report
from export.parity.sides import ENGINES, EngineSide, OnnxSide, Side, TorchSide, options_of

Arrays = Mapping[str, np.ndarray]


def check_package(
    folder: Path,
    engines: Sequence[str] = (),
    dataset: Path | None = None,
    samples: int = 32,
) -> Report:
    """Load with every check, then compare all sides.

    `engines`: those that must be here ("onnxruntime", "onnxruntime:cuda", "tensorrt", or one of the user's);
    by default all of ours that are. `dataset`: a LeRobotDataset, `samples` of whose moments are compared too.
    Raises `PackageError` for a package that doesn't load, `MissingDependency` for an engine that was asked
    for and is not here.
    """
    package = load_package(folder)
    seen = recorded.moments(dataset, package.manifest, samples) if dataset is not None else []
    sources, why = torch_side.reference(package)
    notes = (f"torch itself is not compared: {why}",) if why else ()
    sides: list[Side] = [TorchSide(sources)] if sources else []
    sides.append(OnnxSide(package))
    absent: dict[str, str] = {}
    try:
        for name in engines or ENGINES:
            try:
                sides.append(EngineSide(package, options_of(name)))
            except (MissingDependency, DeviceError) as error:
                if engines:
                    raise
                absent[name] = error.what
        comparisons = [*_golden(package, sides)]
        if seen:
            comparisons += _recorded(package, sides, seen)
        divergences, more = _where(package, sources, comparisons)
    finally:
        for side in sides:
            side.close()
    return Report(package, tuple(comparisons), absent, (*notes, *more), tuple(divergences))


def require(report: Report) -> None:
    """Raise `CheckFailed` naming the first layer that diverges, unless parity holds."""
    if report.holds:
        return
    folder = report.package.folder
    broken = [
        (one, parity) for one in report.comparisons for parity in one.found if not parity.holds
    ]
    if not broken:
        loop = next(one for one in report.bench if not one.holds)
        raise CheckFailed(
            f"package {folder}: closed-loop success of {loop.right} is not that of {loop.left}",
            expected="an interval of the difference that holds 0",
            found=f"[{100 * loop.low:+.1f}, {100 * loop.high:+.1f}] points",
        )
    one, worst = max(broken, key=lambda pair: pair[1].largest_error / pair[1].allowed)
    raise CheckFailed(
        f"package {folder}: output '{worst.output}' of graph '{worst.graph}' on {one.right} differs "
        f"from {one.left}",
        expected=f"<= {worst.allowed:.1e}",
        found=f"{worst.largest_error:.1e}",
        remedy="; ".join(str(place) for place in report.divergences) or "export the package again",
    )


def _pairs(sides: Sequence[Side]) -> list[tuple[Side, Side]]:
    """torch / onnx, then onnx and torch against every engine."""
    first = [side for side in sides if side.name in ("torch", "onnx")]
    pairs = [(first[0], first[1])] if len(first) == 2 else []
    engines = [side for side in sides if side not in first]
    return pairs + [(reference, engine) for engine in engines for reference in reversed(first)]


def _golden(package: Package, sides: Sequence[Side]) -> list[Comparison]:
    manifest, found = package.manifest, []
    answers = {
        (side.name, graph): [side.run(graph, case.inputs) for case in cases]
        for side in sides
        for graph, cases in package.golden.items()
    }
    for side in sides:
        if side.name == "onnx" and len(sides) > 1:
            continue  # what torch or an engine says of them includes it
        parities: list[Parity] = []
        for graph, cases in package.golden.items():
            expected = [case.outputs for case in cases]
            tolerance = tolerance_of(manifest, graph)
            parities += measure(graph, expected, answers[side.name, graph], manifest, tolerance)
        found.append(Comparison("golden vectors", side.name, GOLDEN, tuple(parities)))
    for left, right in _pairs(sides):
        parities = []
        for graph in package.golden:
            tolerance = tolerance_of(manifest, graph)
            pair = (answers[left.name, graph], answers[right.name, graph])
            parities += measure(graph, *pair, manifest, tolerance)
        found.append(Comparison(left.name, right.name, GOLDEN, tuple(parities)))
    return found


def _recorded(
    package: Package, sides: Sequence[Side], moments: Sequence[recorded.Moment]
) -> list[Comparison]:
    manifest, found = package.manifest, []
    whole = {
        side.name: [recorded.answer(manifest, side, moment) for moment in moments] for side in sides
    }
    pictures = [one for moment in moments for seen in moment.seen.values() for one in seen]
    for left, right in _pairs(sides):
        asked = [one.asked for one in whole[left.name]]
        parities: list[Parity] = []
        for graph, inputs in (("trunk", pictures), ("head", asked)):
            tolerance = tolerance_of(manifest, graph)
            pair = (
                [left.run(graph, one) for one in inputs],
                [right.run(graph, one) for one in inputs],
            )
            parities += measure(graph, *pair, manifest, tolerance)
        found.append(Comparison(left.name, right.name, RECORDED, tuple(parities)))
        ends = [[one.outputs for one in whole[side.name]] for side in (left, right)]
        tolerance = max(tolerance_of(manifest, graph) for graph in ("trunk", "head"))
        found.append(
            Comparison(
                left.name,
                right.name,
                WHOLE,
                tuple(measure("trunk+head", ends[0], ends[1], manifest, tolerance)),
            )
        )
    return found


def _where(
    package: Package, sources: Mapping[str, object], comparisons: Sequence[Comparison]
) -> tuple[list[Divergence], list[str]]:
    """The first layer of each graph on which two sides part, on its first golden case; and why it could not
    be found."""
    found: list[Divergence] = []
    notes: list[str] = []
    for one in comparisons:
        graphs = {parity.graph for parity in one.found if not parity.holds}
        for graph in package.golden:
            known = any((d.graph, d.right) == (graph, one.right) for d in found)
            if graph not in graphs or known or one.left == "golden vectors":
                continue
            try:
                place = _place(package, sources, one, graph)
            except EntracteError as error:
                notes.append(f"the first layer of '{graph}' that differs was not found: {error}")
                continue
            if place is not None:
                found.append(place)
    return found, notes


def _place(
    package: Package, sources: Mapping[str, object], one: Comparison, graph: str
) -> Divergence | None:
    inputs = package.golden[graph][0].inputs
    tolerance = tolerance_of(package.manifest, graph)
    if one.left == "onnx":
        return first_in_engine(package, graph, options_of(one.right), inputs, tolerance)
    if one.right != "onnx":
        return None
    from export.onnx import GraphSource, export_graph
    from export.parity.modules import first_module

    source = sources[graph]
    assert isinstance(source, GraphSource)
    word = package.manifest.exporter.partition(" ")[0]
    fresh = export_graph(source, word if word in ("optimum", "legacy", "dynamo") else "auto")
    trusted = with_weights(fresh.model.SerializeToString(), fresh.tensors)
    place = first_node(package, graph, trusted, inputs, tolerance)
    return place or first_module(package, source, inputs, tolerance)


def closed_loops(
    report: Report,
    task: str,
    episodes: int,
    against: Path | None,
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[ClosedLoop, ...]:
    """Success of the package on each engine that was compared, against `against` (or the package itself) on
    ONNX Runtime. Raises `ConfigError` when there is nothing to compare with."""
    if report.package.manifest.model != "policy":
        raise ConfigError("only a policy acts on the bench", found=report.package.manifest.model)
    kinds = {one.right for one in report.comparisons} - {"torch", "onnx"}
    left = Contender(against or report.package.folder, ENGINES[0])
    rights = [Contender(report.package.folder, kind) for kind in sorted(kinds)]
    rights = [right for right in rights if right != left]
    if not rights:
        raise ConfigError(
            "one engine alone has nothing to be compared with on the bench",
            remedy="give --against another package (this one before it was quantised, say)",
        )
    return tuple(closed_loop(left, right, task, episodes, tell) for right in rights)
