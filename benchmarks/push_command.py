"""`robot-bench push`: arguments and what is printed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[
        Path | None, typer.Argument(help="policy package (default: a generated one)")
    ] = None,
    mb: Annotated[int, typer.Option(help="size of the generated one", min=1)] = 140,
    releases: Annotated[
        Path | None,
        typer.Option(
            help="releases of a real refinement of the package: <trainer>/releases/policy"
        ),
    ] = None,
    pushes: Annotated[int, typer.Option(help="releases each way", min=3)] = 10,
    peer: Annotated[bool, typer.Option(help="LeRobot's push too")] = True,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """From a refiner's arrays to the acting head: bytes, times, the robot's idle time; and LeRobot's push.

    ENTRACTE_LEROBOT_PYTHON names a Python with lerobot 0.4.4 (ENTRACTE_LEROBOT_PATH: where its grpcio is);
    without it the peer is re-created by hand with torch and grpcio, and says so.
    """
    import msgspec

    from benchmarks.push import measure, table

    found = measure(
        package,
        pushes,
        nbytes=mb * 1_000_000,
        releases=releases,
        peer=os.environ.get("ENTRACTE_LEROBOT_PYTHON", sys.executable) if peer else None,
        report=lambda line: typer.echo(line, err=True),
    )
    typer.echo(msgspec.json.encode(found).decode() if as_json else table(found))
