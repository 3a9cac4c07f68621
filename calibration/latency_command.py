"""`robot-calibrate latency`: the arm moves a little, the cameras look: how late each of them is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[
        Path | None,
        typer.Option(help="The robot's hardware config, into which it is written; default: bench."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key for this run only (repeat).")
    ] = None,
    seconds: Annotated[float, typer.Option(min=8, help="How long to move.")] = 20.0,
    amplitude: Annotated[
        float, typer.Option(min=0.5, max=15, help="How far each joint swings (the arm's units).")
    ] = 3.0,
    state_ms: Annotated[
        float,
        typer.Option(min=0, max=500, help="How old a reading of the joints is, where known."),
    ] = 0.0,
    write: Annotated[bool, typer.Option(help="Into the configuration and its calibration.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Moves the arm about where it stands, through the gate. Exit code 1: a camera did not see it move."""
    import msgspec

    from calibration import measured
    from calibration.latency import measure
    from calibration.record import Record
    from runtime.arms.session import Session

    record = Record(config) if config is not None and write else None
    terminal = sys.stderr.isatty() and not json

    def say(share: float) -> None:
        if terminal:
            sys.stderr.write(f"\r\x1b[K{100 * share:3.0f} %, the arm moves")

    with Session.of(config, set_ or []) as session:
        session.take_arm()
        recording = measure.record(session, amplitude, seconds, say)
    if terminal:
        sys.stderr.write("\r\x1b[K")
    found = measure.latencies(recording, state_ms / 1e3)
    typer.echo(msgspec.json.encode(found).decode() if json else measure.text_of(found))
    if record is not None:
        put = record.put(lambda now: measured.latencies(now, found), measured.latency_keys(found))
        typer.echo(record.said(put), err=json)
    if found.unseen:
        raise typer.Exit(1)
