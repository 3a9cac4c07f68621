"""`robot-bench gate`: arguments and output of `benchmarks.gate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    commands: Annotated[int, typer.Option(help="how many", min=20)] = 1_000_000,
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 0,
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Random and adversarial commands through the gate: none outside any limit may reach the arm."""
    from benchmarks.gate import measure, table
    from contracts.files import atomic, outputs

    if output:
        outputs.require_file(output, "the figures", outputs.json_with("seed", "commands", "rows"))
    found = measure(commands, seed)
    text = json.dumps(found, indent=1)
    if output:
        atomic.write_bytes(output, f"{text}\n".encode())
    typer.echo(text if as_json else table(found))
    raise typer.Exit(1 if any(row["wrong"] for row in found["rows"]) else 0)
