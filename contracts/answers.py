"""What a graph must answer to its golden inputs: how near an engine must come, and how a release brings what
its own weights answer. Pure: arrays in, a difference or bytes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from contracts.errors import PackageError, ReleaseRejected
from contracts.package import PackageManifest

TOLERANCE = 1e-4
"""Of a float32 graph: largest difference, as a fraction of max(1, largest value expected) of that output.
Additions in another order are a hundred times below; at ten times as much, a bias that a refit drops would
pass."""
MOST_TOLERANCE = 0.5
"""That a package may claim for a quantised graph: with more, other weights would pass for its own."""
MOST_BYTES, MOST_CASE_BYTES = 8192, 65536
"""Of a release's answers, and of a single one where not even that fits. They are in its manifest, and so in
the slots' record, which every step writes anew."""

Arrays = Mapping[str, np.ndarray]


class Difference(NamedTuple):
    """The first output that is not what it must be, what was expected of it, and what was found."""

    output: str
    expected: str
    found: str


def tolerance_of(manifest: PackageManifest, graph: str) -> float:
    """How near an engine of that graph must come. Raises `PackageError` for a package whose own is none."""
    said = manifest.golden_tolerance.get(graph, 0.0)
    if not 0.0 <= said <= MOST_TOLERANCE:
        raise PackageError(
            f"golden_tolerance of graph '{graph}'",
            expected=f"0 to {MOST_TOLERANCE:g}",
            found=said,
            remedy="quantise the package again with robot-export quantize",
        )
    return max(TOLERANCE, said)


def difference(expected: Arrays, found: Arrays, tolerance: float) -> Difference | None:
    """What sets `found` apart: names, dtypes, shapes, numbers that are not finite, values further off than
    `tolerance` allows (whole numbers: at all). None where nothing does."""
    unlike = _unlike(expected, found)
    if unlike is not None:
        return unlike
    found = same_choice(expected, found, tolerance)
    for name, right in expected.items():
        wide = right.astype(np.float64)
        if not np.isfinite(wide).all():
            return Difference(name, "finite numbers to compare with", "NaN or infinity")
        error = float(np.abs(wide - found[name]).max(initial=0.0))
        scale = max(1.0, float(np.abs(wide).max(initial=0.0)))
        allowed = tolerance * scale if right.dtype.kind == "f" else 0.0
        if not error <= allowed:
            return Difference(name, f"at most {allowed:.1e} off", f"{error:.1e}")
    return None


def same_choice(expected: Arrays, found: Arrays, tolerance: float) -> Arrays:
    """`found`, with the choice expected where that is a tie, which may fall either way: another choice is the
    same when the expected values hold both alike."""
    if not {"choice", "values"} <= expected.keys():
        return found
    values = expected["values"].reshape(-1)
    mine, other = int(expected["choice"].flat[0]), int(found["choice"].flat[0])
    there = 0 <= mine < len(values) and 0 <= other < len(values)
    if there and abs(float(values[mine]) - float(values[other])) <= tolerance:
        return {**found, "choice": expected["choice"]}
    return found


def carried(golden: Sequence[Arrays]) -> int:
    """To how many of these golden cases, from the first on, a release brings answers: as many as fit.
    `golden`: the package's own outputs of each, all of one shape."""
    each = _case_bytes(golden)
    if not 0 < each <= MOST_CASE_BYTES:
        return 0
    return min(len(golden), max(1, MOST_BYTES // each))


def pack(answers: Sequence[Arrays], golden: Sequence[Arrays]) -> bytes:
    """The answers of other weights to the first `carried` golden cases, as bytes in the outputs' order of
    `golden`; none where not even one fits. Raises `PackageError` for what is no such answer."""
    parts = []
    for number, like in enumerate(golden[: carried(golden)]):
        given = answers[number] if number < len(answers) else {}
        unlike = _unlike(like, given)
        if unlike is not None:
            raise PackageError(
                f"answer {number} to the golden inputs: '{unlike.output}'",
                expected=unlike.expected,
                found=unlike.found,
            )
        parts += [np.ascontiguousarray(given[name]).tobytes() for name in like]
    return b"".join(parts)


def unpack(data: bytes, golden: Sequence[Arrays]) -> list[dict[str, np.ndarray]]:
    """What `pack` was given, of the first cases. Raises `ReleaseRejected("answers")` for another size."""
    count = carried(golden)
    wanted = count * _case_bytes(golden)
    if len(data) != wanted:
        raise ReleaseRejected(
            "answers",
            "the release's answers are not to this package's golden inputs",
            expected=f"{wanted} bytes",
            found=len(data),
        )
    found, at = [], 0
    for like in golden[:count]:
        case = {}
        for name, array in like.items():
            case[name] = np.frombuffer(data, array.dtype, array.size, at).reshape(array.shape)
            at += array.nbytes
        found.append(case)
    return found


def _case_bytes(golden: Sequence[Arrays]) -> int:
    return sum(array.nbytes for array in golden[0].values()) if golden else 0


def _unlike(like: Arrays, given: Arrays) -> Difference | None:
    """The first output that is missing, of another dtype or shape, or not finite."""
    if like.keys() != given.keys():
        names = ", ".join(sorted(like.keys() ^ given.keys()))
        return Difference(names, f"outputs {sorted(like)}", str(sorted(given)))
    for name, wanted in like.items():
        array = given[name]
        if array.dtype != wanted.dtype or array.shape != wanted.shape:
            return Difference(name, _described(wanted), _described(array))
        if not np.isfinite(array).all():
            return Difference(name, "finite numbers", "NaN or infinity")
    return None


def _described(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
