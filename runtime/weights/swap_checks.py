"""What refined weights must satisfy before they may act: pure checks over tensors and engine outputs.

Each returns sentences that say what is wrong; empty means fit. Bounds catch broken or foreign weights,
not bad policies: those are the probation's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from contracts.errors import ReleaseRejected
from contracts.package import ChunkSpec, PackageManifest, TensorSpec

Arrays = Mapping[str, np.ndarray]
MOST_CANDIDATES = 1024
"""Of a release, whatever its engine takes: noise for them is drawn before the engine can refuse it."""


class SwapLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`norm_change`: ‖new - package's own‖ over ‖package's own‖, all refinable tensors together.
    `action_margin`: how far outside the action limits a chunk may ask (the gate clamps), in ranges.
    `output_change`: mean change of the outputs against the active weights, in ranges.
    `latency_s` and `latency_ratio`: the slower of the two bounds is the budget of one run (p90), the
    ratio being against the active engine in the same minute: other load then counts for both.
    `recorded`: how many recorded observations are kept for the replay."""

    norm_change: float = 3.0
    action_margin: float = 0.5
    output_change: float = 0.6
    latency_s: float = 0.03
    latency_ratio: float = 3.0
    recorded: int = 48


def norm_change(base: Arrays, new: Arrays) -> float:
    """‖new - base‖ / ‖base‖ over the tensors of `base` together, in float64."""
    change = sum(float(np.sum((new[name].astype(np.float64) - base[name]) ** 2)) for name in base)
    size = sum(float(np.sum(base[name].astype(np.float64) ** 2)) for name in base)
    return float(np.sqrt(change / max(size, 1e-12)))


def with_candidates(
    chunk: ChunkSpec | None, inputs: Sequence[TensorSpec], seen: Arrays, samples: int
) -> Arrays | None:
    """The head inputs `seen` with fresh noise for `samples` candidates; None where the release leaves their
    number open (0) or the head draws always as many. Raises `ReleaseRejected` for a number that it never
    draws."""
    shape = next((spec.shape for spec in inputs if spec.name == "noise"), None)
    if chunk is None:
        return None
    drawn = shape[0] if shape else 1
    if not 0 <= samples <= MOST_CANDIDATES or (drawn > 0 and samples not in (0, 1, drawn)):
        raise ReleaseRejected(
            "samples",
            "the release asks for candidates that this policy does not draw",
            expected=f"{drawn} or 0" if drawn > 0 else f"0 to {MOST_CANDIDATES}",
            found=samples,
        )
    if shape is None or drawn > 0 or samples == 0:
        return None
    noise = np.random.default_rng(0).standard_normal((samples, *shape[1:])) * chunk.noise_scale
    return {**seen, "noise": noise.astype(np.float32)}


def check_outputs(
    manifest: PackageManifest,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    limits: SwapLimits,
) -> list[str]:
    """Outputs of the active engine and of the standby on the same inputs."""
    problems: list[str] = []
    for index, outputs in enumerate(after):
        bad = [n for n, a in outputs.items() if a.dtype.kind == "f" and not np.isfinite(a).all()]
        if bad:
            return [f"{', '.join(bad)} not finite on replayed observation {index}"]
    if manifest.model == "policy":
        problems += _check_chunks(manifest, before, after, limits)
    else:
        problems += _check_rewards(before, after, limits)
    return problems


def _check_chunks(
    manifest: PackageManifest,
    before: Sequence[Arrays],
    after: Sequence[Arrays],
    limits: SwapLimits,
) -> list[str]:
    if manifest.action is None:
        return ["package has no action spec"]
    low, high = np.array(manifest.action.low), np.array(manifest.action.high)
    span = np.array(manifest.action.spans)
    problems: list[str] = []
    changes = []
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        chunks = new["chunks"]
        beyond = np.maximum(low - chunks, chunks - high) / span
        if beyond.max() > limits.action_margin:
            joint = manifest.action.names[int(np.argmax(beyond.max(axis=(0, 1))))]
            problems.append(
                f"{joint} asked {beyond.max():.2f} ranges outside its limits on observation {index}"
            )
            break
        choice = int(np.asarray(new["choice"]).reshape(-1)[0]) if "choice" in new else 0
        if not 0 <= choice < len(chunks):
            problems.append(f"choice {choice} of {len(chunks)} chunks on observation {index}")
            break
        changes.append(float(np.mean(np.abs(chunks - old["chunks"]) / span)))
    if changes and np.mean(changes) > limits.output_change:
        problems.append(
            f"chunks change by {np.mean(changes):.2f} ranges on average (<= {limits.output_change:g})"
        )
    return problems


def _check_rewards(
    before: Sequence[Arrays], after: Sequence[Arrays], limits: SwapLimits
) -> list[str]:
    bounds = {"process": (0, 1), "completion": (0, 1), "contrastive": (-1, 1), "ground": (0, 1)}
    changes: list[float] = []
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        for name, (low, high) in bounds.items():
            if name not in new:
                continue
            if new[name].min() < low - 1e-4 or new[name].max() > high + 1e-4:
                return [f"{name} outside [{low}, {high}] on observation {index}"]
            if name in ("process", "completion"):
                changes.append(float(np.mean(np.abs(new[name] - old[name]))))
    if changes and np.mean(changes) > limits.output_change:
        return [
            f"signals change by {np.mean(changes):.2f} on average (<= {limits.output_change:g})"
        ]
    return []


def check_latency(before_s: Sequence[float], after_s: Sequence[float], limits: SwapLimits) -> str:
    """ "" if the standby's runs are within budget."""
    found = float(np.quantile(after_s, 0.9))
    budget = max(limits.latency_s, limits.latency_ratio * float(np.quantile(before_s, 0.9)))
    if found > budget:
        return f"a run takes {found * 1e3:.1f} ms (p90), budget {budget * 1e3:.1f} ms"
    return ""
