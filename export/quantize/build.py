"""Package and calibration set -> quantised package: choose, measure, refuse or write.

The order is the point: nothing is written before every gate has passed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx

from calibration.quantization.card import CalibrationSet, Part
from contracts.answers import TOLERANCE
from contracts.errors import PackageError
from contracts.files.packages import Package, require_place, write_package
from contracts.package import OBSERVATION_STEPS, PackageManifest, weights_id
from export.parity.bench import Contender, closed_loop, require_enough
from export.parity.measure import replay, require_parity
from export.quantize import fp16, gate, int8
from export.quantize.chain import Answers, Chain, worst
from export.quantize.graphs import TRUNK, Transformed, layers, open_trunk, whole, with_trunk
from export.quantize.layers import Kept, keep_float, sensitivity
from export.quantize.progress import Tell, silent
from export.quantize.report import Latency, Report

Precision = Literal["fp16", "int8"]
ENGINE = "onnxruntime"
LAYER_SAMPLES = 64
"""Samples that the table of layers is measured on: as many nets are run over them as there are layers."""
HEADROOM = 2.0
"""Golden vectors are float32's: engines elsewhere round otherwise than the one that measured."""
TIMED_RUNS = 200


@dataclass(frozen=True)
class Options:
    """`method`: one of `int8.METHODS` or "auto", the one with the least error on the calibration samples.
    `keep_float`: how many of the most sensitive layers stay float32, None for as few as will do. `task` and
    `episodes`: the closed loop; without them that gate is left out, and the report says so."""

    precision: Precision
    method: str = "auto"
    keep_float: int | None = None
    action_limit: float = gate.ACTION_LIMIT
    success_limit: float = gate.SUCCESS_LIMIT
    task: str = ""
    episodes: int = 0
    layer_samples: int = LAYER_SAMPLES
    command: str = ""


def quantize(
    package: Package,
    drawn: CalibrationSet,
    folder: Path,
    options: Options,
    report: Report,
    tell: Tell = silent,
) -> Package:
    """Write the quantised package to `folder` and fill in `report`, which holds whatever was measured even
    when this raises: `QuantizationRefused` (a gate), `PackageError` (what can't be quantised),
    `ConfigError` (too few episodes for that gate, a folder that holds something else).
    `tell` hears what is going on."""
    require_place(folder, package.folder)
    if options.task and options.episodes:
        require_enough(options.episodes, options.success_limit)
    _require_fit(package, drawn)
    model = whole(package, TRUNK)
    with Chain(package) as chain:
        trunk = _chosen(chain, model, drawn, options, report, tell)
        tell(f"errors on {len(drawn.held_out)} held-out samples", 0, 0)
        held = chain.answers(drawn.held_out)
        report.errors = chain.errors(held, chain.answers(drawn.held_out, trunk))
        report.own_spread = chain.errors(held, chain.answers(drawn.held_out, draw=1))
    what = f"{options.precision} of {package.folder.resolve().name}"
    gate.require_actions(report.errors, options.action_limit, what, options.precision)
    candidate = with_trunk(package, trunk)
    tell("latency of both trunks", 0, 0)
    report.latency = latency(package, candidate, drawn.held_out)
    with tempfile.TemporaryDirectory() as scratch:
        made = _write(candidate, Path(scratch) / folder.resolve().name, drawn, options)
        if options.task and options.episodes:
            report.success = closed_loop(
                Contender(package.folder, ENGINE),
                Contender(made.folder, ENGINE),
                options.task,
                options.episodes,
                lambda line: tell(line, 0, 0),
            )
            gate.require_success(report.success, options.success_limit, what, options.precision)
        manifest = _with_verdict(made, report)
        written = write_package(folder, manifest, made.graphs, made.weights, made.golden)
    report.finish(package, written)
    return written


def _require_fit(package: Package, drawn: CalibrationSet) -> None:
    if package.manifest.precision:
        raise PackageError(
            f"{package.folder} is quantised already",
            found=package.manifest.precision,
            remedy="quantise its float32 parent",
        )
    if TRUNK in {spec.name.partition("/")[0] for spec in package.manifest.refinable}:
        raise PackageError(
            f"the trunk of {package.folder} is refinable: releases carry float32 tensors for it",
            remedy="export it with a frozen trunk",
        )
    if drawn.card.package_id != package.package_id:
        raise PackageError(
            "the calibration set was drawn for another package",
            expected=package.package_id,
            found=drawn.card.package_id,
            remedy="draw it again with robot-calibrate quantization",
        )
    observations = int(package.manifest.settings.get(OBSERVATION_STEPS, 1))
    if drawn.calibration.observations < observations:
        raise PackageError(
            "observations of each sample in the calibration set",
            expected=observations,
            found=drawn.calibration.observations,
            remedy="draw it again with robot-calibrate quantization",
        )
    if not len(drawn.calibration) or not len(drawn.held_out):
        raise PackageError(
            "the calibration set is empty or holds nothing out",
            found=f"{len(drawn.calibration)} and {len(drawn.held_out)} samples",
            remedy="record at least two episodes of each task",
        )


def _chosen(
    chain: Chain,
    model: onnx.ModelProto,
    drawn: CalibrationSet,
    options: Options,
    report: Report,
    tell: Tell,
) -> Transformed:
    """The trunk with its method and its float32 layers chosen on the calibration samples alone."""
    part = drawn.calibration
    tell(f"float32's answers to {len(part)} samples", 0, 0)
    reference = chain.answers(part)
    make, names = _maker(chain, model, part, reference, options, report, tell)
    few = _few(part, options.layer_samples)
    few_reference = chain.answers(few)
    report.layers = sensitivity(chain, few, few_reference, model, names, make, tell)
    if options.keep_float is None:
        report.kept = keep_float(
            *(chain, part, reference, report.layers, make),
            options.action_limit,
            options.precision,
            tell,
        )
    else:
        kept = [one.layer for one in report.layers[: options.keep_float]]
        report.kept = Kept(kept, {})
    return make([name for name in names if name not in set(report.kept.layers)])


Make = Callable[[Sequence[str]], Transformed]


def _maker(
    chain: Chain,
    model: onnx.ModelProto,
    part: Part,
    reference: Answers,
    options: Options,
    report: Report,
    tell: Tell,
) -> tuple[Make, list[str]]:
    """A function from layers to the trunk in which those are quantised, and all layers there are."""
    if options.precision == "fp16":
        names = layers(model)
        tell("largest activation", 0, 0)
        report.largest_activation = _largest(int8.measure_ranges(model, part, "minmax"))
        if report.largest_activation >= fp16.LARGEST:
            raise gate.QuantizationRefused(
                "an activation of the trunk does not fit into fp16",
                expected=f"< {fp16.LARGEST:g}",
                found=f"{report.largest_activation:.3g}",
            )
        return lambda only: fp16.to_fp16(model, only, rest=len(only) > 1), names
    names = int8.candidates(model)
    methods = int8.METHODS if options.method == "auto" else (options.method,)
    ranges: dict[str, Any] = {}
    for method in methods:
        tell(f"ranges of activations by {method}", 0, 0)
        ranges[method] = int8.measure_ranges(model, part, method)
        answers = chain.answers(part, int8.to_int8(model, ranges[method], names))
        report.methods[method] = worst(chain.errors(reference, answers)).p99
    report.method = min(report.methods, key=lambda method: report.methods[method])
    best = ranges[report.method]
    return lambda only: int8.to_int8(model, best, only), names


def _few(part: Part, wanted: int) -> Part:
    """So many of the samples, evenly over them."""
    count = min(wanted, len(part))
    indices = np.linspace(0, len(part) - 1, count).round().astype(int)
    inputs = {name: array[indices] for name, array in part.inputs.items()}
    return Part(inputs, tuple(part.rows[index] for index in indices))


def _largest(ranges: Any) -> float:
    return max(float(np.abs(np.asarray(r.range_value)).max()) for r in ranges.values())


def _write(candidate: Package, folder: Path, drawn: CalibrationSet, options: Options) -> Package:
    """The candidate as a package with provenance and golden tolerance of its own."""
    manifest = candidate.manifest
    parent = manifest.provenance
    provenance = msgspec.structs.replace(
        parent,
        command=options.command,
        data=f"{parent.data}; calibrated with {drawn.card.calibration.samples} steps of "
        f"{', '.join(source.name for source in drawn.card.sources)} "
        f"(set {weights_id(drawn.calibration.inputs)[:16]})",
        seed=drawn.card.seed,
        created_unix_s=float(int(time.time())),
        versions={
            **parent.versions,
            "onnxruntime": version("onnxruntime"),
            "onnx": version("onnx"),
        },
        notes=f"{options.precision} of package {candidate.package_id}. {parent.notes}".strip(),
    )
    tolerance = max(
        HEADROOM * one.largest_error / max(1.0, one.scale)
        for one in replay(candidate)
        if one.graph == TRUNK
    )
    manifest = msgspec.structs.replace(
        manifest,
        provenance=provenance,
        golden_tolerance={TRUNK: float(f"{max(tolerance, TOLERANCE):.3g}")},
    )
    made = write_package(folder, manifest, candidate.graphs, candidate.weights, candidate.golden)
    require_parity(replay(made), f"quantised package {folder.name}")
    return made


def _with_verdict(made: Package, report: Report) -> PackageManifest:
    """The manifest with what the gates measured among its notes."""
    one = worst(report.errors)
    notes = [
        made.manifest.provenance.notes,
        f"Held out: worst p99 {one.p99:.2f} % of {one.name}'s range.",
        report.closed_loop(),
    ]
    provenance = msgspec.structs.replace(made.manifest.provenance, notes=" ".join(notes))
    return msgspec.structs.replace(made.manifest, provenance=provenance)


def latency(before: Package, after: Package, part: Part) -> Latency:
    """Medians and 90th percentiles of both trunks' runs (ms), in turns within one loop, one thread."""
    engines = [open_trunk(before), open_trunk(after)]
    times: list[list[float]] = [[], []]
    sample = part.sample(0)
    inputs = {spec.name: sample[spec.name] for spec in engines[0].inputs}
    try:
        for run in range(TIMED_RUNS + 20):
            for engine, taken in zip(engines, times, strict=True):
                begin = time.perf_counter()
                engine.run(inputs)
                if run >= 20:
                    taken.append(1e3 * (time.perf_counter() - begin))
    finally:
        for engine in engines:
            engine.close()
    (b50, b90), (a50, a90) = (np.quantile(taken, [0.5, 0.9]) for taken in times)
    return Latency(float(b50), float(b90), float(a50), float(a90), TIMED_RUNS)
