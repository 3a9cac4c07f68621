"""`robot-calibrate verify`: how far a tool would miss, by pictures that the calibration was not made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    capture: Annotated[Path, typer.Argument(help="Another capture than the calibration's.")],
    config: Annotated[Path, typer.Option(help="The robot's hardware config.")],
    drift: Annotated[
        bool,
        typer.Option(
            help="The board is where it was at the hand-eye calibration: did anything move?"
        ),
    ] = False,
    touches: Annotated[
        Path | None, typer.Option(help="touches.json: poses of the arm with its tip on corners.")
    ] = None,
    limit_mm: Annotated[
        float, typer.Option(min=0.01, help="Fail above it, warn above half.")
    ] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Exit code 0: pass or warn, 1: fail. Changes nothing: the calibration and its id stay."""
    import msgspec

    from calibration.record import Record
    from calibration.verify import read_touches, text_of, verify

    check = verify(
        Record(config).now,
        capture,
        drift=drift,
        touches=None if touches is None else read_touches(touches),
        limit_mm=limit_mm,
    )
    typer.echo(msgspec.json.encode(check).decode() if json else text_of(check))
    if check.level == "fail":
        raise typer.Exit(1)
