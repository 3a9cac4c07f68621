"""What a verb prints of a package."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import typer

from contracts.files.packages import Package
from export.parity.measure import Parity


def show(package: Package, found: list[Parity], as_json: bool, remarks: Sequence[str] = ()) -> None:
    """Print what a package is and how near its engine is to torch, and `remarks`; as JSON on request."""
    manifest = package.manifest
    sizes = {path.name: path.stat().st_size for path in sorted(package.folder.iterdir())}
    pushed = sum(package.weights[spec.name].nbytes for spec in manifest.refinable)
    if as_json:
        report = {
            "package": str(package.folder),
            "package_id": package.package_id,
            "model": manifest.model,
            "architecture": manifest.architecture,
            "exporter": manifest.exporter,
            "opset": manifest.opset,
            "bytes": sizes,
            "refinable_bytes": pushed,
            "parity": [
                {
                    "graph": one.graph,
                    "output": one.output,
                    "cases": one.cases,
                    "largest_error": one.largest_error,
                    "largest_value": one.scale,
                }
                for one in found
            ],
            "remarks": list(remarks),
        }
        typer.echo(msgspec.json.encode(report).decode())
        return
    typer.echo(
        f"{package.folder}  {manifest.model}/{manifest.architecture}  id {package.package_id}  "
        f"exporter {manifest.exporter}, opset {manifest.opset}"
    )
    typer.echo(
        f"  {sum(sizes.values()) / 1e6:.2f} MB, of which a release carries {pushed / 1e6:.2f} MB "
        f"({len(manifest.refinable)} tensors)"
    )
    for one in found:
        typer.echo(
            f"  {one.graph}.{one.output}: largest difference from torch {one.largest_error:.1e} "
            f"over {one.cases} cases (largest value {one.scale:.3g})"
        )
    for remark in remarks:
        typer.echo(f"  {remark}")
