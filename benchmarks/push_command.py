"""`robot-bench push`: arguments and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[Path, typer.Argument(help="policy package")],
    pushes: Annotated[int, typer.Option(help="releases to each engine", min=3)] = 20,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """From a refiner's arrays to the acting head, through publisher, link, slots and swapper."""
    import msgspec

    from benchmarks.push import measure, table

    found = measure(package, pushes, lambda line: typer.echo(line, err=True))
    typer.echo(msgspec.json.encode(found).decode() if as_json else table(found))
