"""`robot-bench arm`: arguments and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    seconds: Annotated[float, typer.Option(help="how long, of each part", min=1)] = 60.0,
    rate_hz: Annotated[
        float, typer.Option("--rate-hz", help="readings and commands a second")
    ] = 50.0,
    bit_errors: Annotated[float, typer.Option(help="probability per byte on the wire")] = 0.0,
    port: Annotated[str, typer.Option(help="a real arm's (default: a simulated bus)")] = "",
    calibration: Annotated[Path | None, typer.Option(help="of that arm")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Time on the servo bus of a sync read and a sync write, beside Feetech's bare SDK on the same bus."""
    from benchmarks.arms import measure, table

    found = measure(seconds, rate_hz, bit_errors, port, calibration)
    typer.echo(json.dumps(found) if as_json else table(found))
