"""What a parity check found, as data, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import msgspec

from contracts.files.packages import Package
from export.parity.bench import ClosedLoop
from export.parity.measure import Parity
from export.parity.nodes import Divergence

GOLDEN, RECORDED, WHOLE = "golden inputs", "recorded moments", "pictures to answer"


@dataclass(frozen=True)
class Comparison:
    """`right` against `left` on the inputs `on`: `GOLDEN`, `RECORDED` (each graph alone, from the same
    inputs) or `WHOLE` (trunk then head, from pictures to actions, each side by itself)."""

    left: str
    right: str
    on: str
    found: tuple[Parity, ...]

    @property
    def holds(self) -> bool:
        return all(parity.holds for parity in self.found)


@dataclass(frozen=True)
class Report:
    """`absent`: engines that are not here, and why; `notes`: what could not be compared."""

    package: Package
    comparisons: tuple[Comparison, ...]
    absent: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    bench: tuple[ClosedLoop, ...] = ()

    @property
    def holds(self) -> bool:
        return all(c.holds for c in self.comparisons) and all(b.holds for b in self.bench)


def as_json(report: Report) -> str:
    """One JSON object; every figure of the table and the bytes of the package."""
    package = report.package
    manifest = package.manifest
    tree = {
        "package": str(package.folder),
        "package_id": package.package_id,
        "model": manifest.model,
        "architecture": manifest.architecture,
        "exporter": manifest.exporter,
        "opset": manifest.opset,
        "holds": report.holds,
        "bytes": {path.name: path.stat().st_size for path in sorted(package.folder.iterdir())},
        "refinable_bytes": sum(package.weights[spec.name].nbytes for spec in manifest.refinable),
        "parity": [
            {
                "left": one.left,
                "right": one.right,
                "on": one.on,
                "holds": parity.holds,
                "allowed": parity.allowed,
                **asdict(parity),
            }
            for one in report.comparisons
            for parity in one.found
        ],
        "absent": report.absent,
        "notes": report.notes,
        "divergences": [{**asdict(one), "text": str(one)} for one in report.divergences],
        "bench": [
            {**asdict(one), "difference": one.difference, "holds": one.holds}
            for one in report.bench
        ],
    }
    return msgspec.json.encode(tree).decode()


def as_text(report: Report) -> Iterator[str]:
    """Lines of plain text."""
    package = report.package
    manifest = package.manifest
    yield (
        f"{package.folder}  {manifest.model}/{manifest.architecture}  id {package.package_id}  "
        f"exporter {manifest.exporter}, opset {manifest.opset}"
    )
    heads = "".join(f"{name:>10}" for name in ("largest", "mean", "p99", "1-cosine", "allowed"))
    yield f"  {'absolute errors':<42}{'cases':>6}{heads}"
    for one in report.comparisons:
        yield f"  {one.left} / {one.right}, {one.on}"
        for parity in one.found:
            # Joint by joint where it matters: at the end of the chain, and where it fails.
            whole = one.on == WHOLE and one.right not in ("torch", "onnx")
            yield from _rows(parity, whole or not parity.holds)
    for kind, why in report.absent.items():
        yield f"  engine {kind}: not here ({why})"
    for note in report.notes:
        yield f"  {note}"
    for loop in report.bench:
        yield (
            f"  {loop.task}, {loop.episodes} scenes: {loop.left} {loop.successes_left}, {loop.right} "
            f"{loop.successes_right}; difference {100 * loop.difference:+.1f} points "
            f"[{100 * loop.low:+.1f}, {100 * loop.high:+.1f}], lost {loop.lost}, won {loop.won}: "
            f"{'same' if loop.holds else 'NOT THE SAME'}"
        )
    for divergence in report.divergences:
        yield f"  {divergence}"
    yield f"  parity {'holds' if report.holds else 'FAILS'}"


def _rows(parity: Parity, with_joints: bool) -> Iterator[str]:
    name = f"{parity.graph}.{parity.output}"
    mark = "" if parity.holds else "  FAILS"
    yield (
        f"    {name:<40}{parity.cases:>6}{parity.largest_error:>10.1e}{parity.mean_error:>10.1e}"
        f"{parity.p99_error:>10.1e}{1 - parity.cosine:>10.1e}{parity.allowed:>10.1e}{mark}"
    )
    for joint in parity.joints if with_joints else ():
        yield (f"      {joint.name:<44}{joint.largest:>10.1e}{joint.mean:>10.1e}{joint.p99:>10.1e}")
