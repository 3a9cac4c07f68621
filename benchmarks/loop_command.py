"""`robot-bench loop`: arguments and what is printed; the work is `benchmarks.loop`'s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


def command(
    *,
    package: Annotated[Path, typer.Option(help="policy package")] = PRETRAINED
    / "policy-open_drawer",
    rate_hz: Annotated[
        list[float] | None, typer.Option("--rate-hz", help="control rate (repeat; all three)")
    ] = None,
    ticks: Annotated[int, typer.Option(help="of each loop at each rate", min=10)] = 10_000,
    block_s: Annotated[float, typer.Option(help="how long one loop has its turn", min=1.0)] = 20.0,
    folder: Annotated[
        Path, typer.Option(help="where blocks are kept; the same folder goes on where it stopped")
    ] = Path("run/bench-loop"),
    restless_percent: Annotated[
        float,
        typer.Option(
            help="leave out (and count) blocks in which the machine itself lost more of the time than this",
            min=0.0,
            max=100.0,
        ),
    ] = 100.0,
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Lateness and missed ticks of our loop at full load, a bare one and LeRobot's, taking turns."""
    from benchmarks.loop import measure
    from benchmarks.loop_blocks import table
    from contracts.files import atomic, outputs

    outputs.require_room(folder)

    if output:
        outputs.require_file(output, "the figures", outputs.json_with("rate_hz", "machine"))

    def say(line: str) -> None:
        typer.echo(line, err=True)

    found = [
        measure(package, rate, ticks, block_s, folder, say, restless_percent)
        for rate in rate_hz or (30.0, 50.0, 100.0)
    ]
    if output:
        atomic.write_bytes(output, json.dumps(found, indent=1).encode())
    typer.echo(json.dumps(found) if as_json else "\n\n".join(map(table, found)))
