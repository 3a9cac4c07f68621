"""`robot-bench faults`: arguments and output of `benchmarks.faults`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    folder: Annotated[
        Path,
        typer.Option(help="where every injection is written down; run again, it goes on there"),
    ] = Path("run/faults"),
    times: Annotated[int, typer.Option(help="injections of each cause", min=0)] = 100,
    only: Annotated[str, typer.Option(help="causes, comma-separated")] = "",
    clean: Annotated[str, typer.Option(help="then run without faults: 30m, 90s")] = "",
    output: Annotated[Path | None, typer.Option(help="file for the table (Markdown)")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Break everything on purpose, with the real processes: fault → hold and hold → standstill."""
    from benchmarks import faults
    from contracts.files import atomic, outputs

    outputs.require_room(folder)
    if output:
        table = outputs.beginning(faults.TABLE_HEAD.encode())
        outputs.require_file(output, "the table", table)
    found = faults.measure(
        folder.resolve(),
        times,
        [name.strip() for name in only.split(",") if name.strip()],
        faults.seconds_of(clean) if clean else 0.0,
        lambda line: typer.echo(line, err=True),
    )
    text = faults.table(found)
    if output:
        atomic.write_bytes(output, f"{text}\n".encode())
    typer.echo(faults.as_json(found) if as_json else text)
    raise typer.Exit(0 if faults.good(found) else 1)
