"""`robot-bench swap`: arguments and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[Path, typer.Argument(help="model package with a refinable head")],
    swaps: Annotated[int, typer.Option(help="of each way", min=3)] = 30,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Ways to a standby with new weights: how soon it is ready and what an inference costs after."""
    import msgspec

    from benchmarks.swap import measure, table

    found = measure(package, swaps)
    typer.echo(msgspec.json.encode(found).decode() if as_json else table(found))
