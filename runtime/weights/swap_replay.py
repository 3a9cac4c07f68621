"""The checks that weights pass before they may act: from a slot's file to a head, engine included.

Owns their order and the replay; what each bound means is in `runtime.weights.swap_checks`, when they are made
is the swapper's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from contracts.answers import difference, tolerance_of, unpack
from contracts.errors import ReleaseRejected
from contracts.files import atomic
from contracts.files.packages import Package
from contracts.package import check_tensors
from contracts.release import MAX_WEIGHTS_BYTES, ReleaseManifest, verify_weights
from contracts.weights import read_tensors
from runtime.engines import Engine
from runtime.weights.swap_checks import (
    Arrays,
    SwapLimits,
    check_latency,
    check_outputs,
    norm_change,
    with_candidates,
)

WARM_UP_RUNS = 2
CANDIDATE_RUNS = 10
"""Timed runs with the release's own number of candidates: enough that one pause is no verdict."""


@dataclass
class ActiveHead:
    """An engine and what it is: `version` is the release's publish_seq, 0 for the package's own weights.
    `slot`: where it came from, "" for the package. `was_s`: what runs of the engine before it took in the
    same minute, p90 in seconds; 0: unknown. `weights_id`: "" for the package's own."""

    engine: Engine
    version: int
    samples: int
    settings: Mapping[str, float]
    slot: str = ""
    was_s: float = 0.0
    weights_id: str = ""


def checked_head(
    package: Package,
    active: Engine,
    manifest: ReleaseManifest,
    slot: str,
    path: Path,
    recorded: Sequence[Arrays],
    limits: SwapLimits,
    *,
    timed: bool = True,
) -> ActiveHead:
    """A standby of `active` with the weights at `path`, after every check: content, tensors, norm, replay of
    the golden vectors (which it must answer as these weights did at the trainer, where the release says) and
    of `recorded`. `timed`: its latency counts, which one pause of the machine can spoil; not of what acted
    here already. Raises `ReleaseRejected`, or what reading and the engine raise."""
    data = atomic.read_bytes(path, MAX_WEIGHTS_BYTES)
    verify_weights(manifest, data)
    tensors = read_tensors(data)
    problems = check_tensors(package.manifest.refinable, tensors)
    if problems:
        raise ReleaseRejected("tensors", f"weights do not fit: {'; '.join(problems[:3])}")
    change = norm_change(package.refinable_weights(), tensors)
    if not change <= limits.norm_change:
        raise ReleaseRejected(
            "norm",
            "weights moved too far from the package's own",
            expected=f"<= {limits.norm_change:g} of their norm",
            found=f"{change:.3g}",
        )
    standby = active.standby(tensors)
    try:
        was_s = _replay(package, active, standby, manifest, recorded, limits, timed)
    except BaseException:
        standby.close()
        raise
    settings = {**package.manifest.settings, **manifest.settings}
    return ActiveHead(
        standby, manifest.publish_seq, manifest.samples, settings, slot, was_s, manifest.weights_id
    )


def _replay(
    package: Package,
    active: Engine,
    standby: Engine,
    manifest: ReleaseManifest,
    recorded: Sequence[Arrays],
    limits: SwapLimits,
    timed: bool,
) -> float:
    """Golden and recorded observations through the active engine and the standby, and one of them with
    the number of candidates that the release draws. Returns the p90 of the active engine's runs, seconds."""
    samples = manifest.samples
    cases: list[Arrays] = [case.inputs for case in package.golden.get("head", ())]
    cases += list(recorded)
    if not cases:
        return 0.0
    for _ in range(WARM_UP_RUNS):
        standby.run(cases[0])
    before, after = [], []
    before_s, after_s = [], []
    for inputs in cases:
        start = time.perf_counter()
        old = active.run(inputs)
        middle = time.perf_counter()
        new = standby.run(inputs)
        before_s.append(middle - start)
        after_s.append(time.perf_counter() - middle)
        # The next run writes over both.
        before.append({name: array.copy() for name, array in old.items()})
        after.append({name: array.copy() for name, array in new.items()})
    _require_answers(package, manifest, after)
    late = check_latency(before_s, after_s, limits) if timed else ""
    drawn = with_candidates(package.manifest.chunk, standby.inputs, cases[-1], samples)
    if drawn is not None and not late:
        # Last, so that its buffers are the last that the standby would let go.
        new, new_s = _run_candidates(standby, drawn, samples)
        late = check_latency(before_s, new_s, limits) if timed else ""
        if (
            not late
        ):  # else refused already: the loop's own inference waits for what this engine does
            after.append(new)
            before.append({name: a.copy() for name, a in active.run(drawn).items()})
    problems = check_outputs(package.manifest, before, after, limits)
    if problems or late:
        reason = "replay" if problems else "latency"
        raise ReleaseRejected(
            reason, f"replay of {len(cases)} observations: {'; '.join([*problems, late])}"
        )
    return float(np.quantile(before_s, 0.9))


def _require_answers(package: Package, manifest: ReleaseManifest, found: Sequence[Arrays]) -> None:
    """Raises `ReleaseRejected` unless the first of `found` are what the trainer's own network answered with
    these weights: bounds let pass what is wrong and moves little."""
    if not manifest.answers:
        _say_unproven(manifest.target)
        return
    golden = [case.outputs for case in package.golden.get("head", ())]
    tolerance = tolerance_of(package.manifest, "head")
    for number, expected in enumerate(unpack(manifest.answers, golden)):
        apart = difference(expected, found[number], tolerance)
        if apart is not None:
            raise ReleaseRejected(
                "answers",
                f"the engine does not answer as these weights did at the trainer: '{apart.output}' on golden "
                f"input {number}",
                expected=apart.expected,
                found=apart.found,
                remedy="robot-export check on both machines says which of them computes otherwise",
            )


@cache
def _say_unproven(target: str) -> None:
    """Once: releases of an earlier trainer, or of a refiner that does not say, are all alike."""
    print(
        f"control: the {target}'s releases do not say what their weights answer to the golden inputs: "
        "engines are judged by bounds alone (a trainer of this version, with its own refiners, says it)",
        file=sys.stderr,
        flush=True,
    )


def _run_candidates(
    standby: Engine, inputs: Arrays, samples: int
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Outputs (the caller's) and seconds of each run, after what the first runs bind and capture. Raises
    `ReleaseRejected` for a number of candidates that the engine does not take."""
    try:
        for _ in range(WARM_UP_RUNS):
            standby.run(inputs)
    except Exception as error:  # whatever an engine raises, it would raise in the episode
        raise ReleaseRejected(
            "samples",
            f"the engine does not take the release's {samples} candidates",
            found=str(error),
        ) from error
    taken_s = []
    for _ in range(CANDIDATE_RUNS):
        start = time.perf_counter()
        answer = standby.run(inputs)
        taken_s.append(time.perf_counter() - start)
    return {name: array.copy() for name, array in answer.items()}, taken_s
