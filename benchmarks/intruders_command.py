"""`robot-bench intruders`: arguments and output of `benchmarks.intruders`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def command(
    *,
    package: Annotated[Path, typer.Option(help="policy package")] = PRETRAINED
    / "policy-open_drawer",
    attempts: Annotated[int, typer.Option(help="connections tried in all", min=1)] = 100_000,
    blocks: Annotated[int, typer.Option(help="with attackers, and as many without", min=1)] = 5,
    block_s: Annotated[float, typer.Option(help="how long each lasts", min=1.0)] = 30.0,
    rate_hz: Annotated[float, typer.Option("--rate-hz", help="control rate")] = 30.0,
    folder: Annotated[Path, typer.Option(help="scratch; a new or empty folder")] = Path(
        "run/bench-intruders"
    ),
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
) -> None:
    """The loop's lateness while strangers try the trainer's doors, beside the same without them."""
    from benchmarks import intruders

    found = intruders.measure(
        package,
        attempts=attempts,
        blocks=blocks,
        block_s=block_s,
        rate_hz=rate_hz,
        folder=folder.resolve(),
        report=lambda line: typer.echo(line, err=True),
    )
    if output:
        intruders.save(found, output)
    typer.echo(intruders.table(found))
    raise typer.Exit(0 if found.good else 1)
