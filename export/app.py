"""`robot-export`: trained models to model packages, and the check of a package."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.errors import EntracteError, MissingDependency

if TYPE_CHECKING:
    from contracts.files.packages import Package
    from export.package import Parity

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Source = Annotated[Path, typer.Argument(help="Folder of the trained model.")]
Target = Annotated[Path, typer.Argument(help="Folder of the package to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _root() -> None:
    """Export policies and reward models to ONNX packages, and check them."""


@app.command()
def policy(source: Source, package: Target, json: Json = False) -> None:
    """Package a policy that `robot-trainer imitate` trained."""
    from export.package import replay
    from export.policy import export_policy

    made = export_policy(source, package)
    _show(made, replay(made), json)


@app.command()
def reward(source: Source, package: Target, json: Json = False) -> None:
    """Package a reward model that `robot-reward train` trained."""
    if find_spec("export.reward") is None:
        raise MissingDependency("this build can't export reward models", remedy="update entracte")
    from export.package import replay

    made = import_module("export.reward").export_reward(source, package)
    _show(made, replay(made), json)


@app.command()
def check(
    package: Annotated[Path, typer.Argument(help="Folder of the package.")],
    engine: Annotated[str, typer.Option(help="Engine that must agree with torch.")] = "onnxruntime",
    json: Json = False,
) -> None:
    """Verify a package: every hash and shape, and the engine against torch on the golden vectors."""
    from export.check import check_package

    made, found = check_package(package, engine)
    _show(made, found, json)


def _show(package: Package, found: list[Parity], as_json: bool) -> None:
    manifest = package.manifest
    sizes = {path.name: path.stat().st_size for path in sorted(package.folder.iterdir())}
    pushed = sum(package.weights[spec.name].nbytes for spec in manifest.refinable)
    if as_json:
        import msgspec

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


def main() -> None:
    """Entry point: one clear sentence and exit code 1 on an error that a user can mend."""
    try:
        app()
    except EntracteError as error:
        print(f"robot-export: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
