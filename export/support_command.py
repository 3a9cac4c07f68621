"""`robot-export support`: what a TensorRT makes of packages' graphs, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    packages: Annotated[list[Path], typer.Argument(help="Folders of packages.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Also write the report to this file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which layers TensorRT takes, which weights it can refit, and whether it builds."""
    import msgspec

    from contracts.files import atomic, outputs
    from contracts.files.packages import read_manifest
    from export import support

    title = "# What TensorRT makes of the graphs\n\nWritten by `robot-export support`.\n\n"
    if markdown is not None:
        outputs.require_file(markdown, "the report", outputs.beginning(title.encode()))
    for folder in packages:
        read_manifest(folder)
    found = [
        support.support(folder, lambda at: typer.echo(f"trying {at}", err=True))
        for folder in packages
    ]
    text = support.markdown(found)
    if markdown is not None:
        atomic.write_bytes(markdown, (title + text).encode())
    typer.echo(msgspec.json.encode(found).decode() if json else text.rstrip())
    if not all(one.holds for one in found):
        raise typer.Exit(1)
