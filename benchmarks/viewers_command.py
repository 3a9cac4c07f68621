"""`robot-bench viewers`: arguments and what is printed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def command(
    package: Annotated[Path, typer.Option(help="policy package")] = PRETRAINED
    / "policy-open_drawer",
    rate_hz: Annotated[float, typer.Option("--rate-hz", help="control rate")] = 30.0,
    rounds: Annotated[int, typer.Option(help="turns of each", min=1)] = 6,
    seconds: Annotated[float, typer.Option(help="of one turn", min=1.0)] = 15.0,
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Lateness of the loop with no viewer, a reading one, and one that stopped reading, in one run."""
    from benchmarks.viewers import measure, table
    from contracts.files import atomic, outputs

    if output:
        outputs.require_file(
            output, "the figures", outputs.json_with("rate_hz", "rounds", "seconds")
        )
    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as folder:
        result = measure(
            package, rate_hz, rounds, seconds, Path(folder), lambda line: typer.echo(line, err=True)
        )
    if output:
        atomic.write_bytes(output, json.dumps(result, indent=1).encode())
    typer.echo(json.dumps(result) if as_json else table(result))
