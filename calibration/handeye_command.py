"""`robot-calibrate handeye`: a capture -> where the cameras are, how sure that is, a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    capture: Annotated[Path, typer.Argument(help="Folder of `robot-calibrate capture`.")],
    output: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The robot's hardware config: write the poses into it and into its calibration.json."
        ),
    ] = None,
    measure_size: Annotated[
        bool,
        typer.Option(help="The board's size is not known: take it from the arm's own movements."),
    ] = False,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for a second interval.")] = 200,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Where each camera is, on the hand or in the world. Exit code 0: pass or warn, 1: fail."""
    import msgspec

    from calibration import measured, shots
    from calibration.handeye.result import solve_shots, text_of
    from calibration.record import Record
    from contracts.files import atomic, outputs

    if output is not None:
        earlier = outputs.json_with("verdict", "cameras", "boards")
        outputs.require_file(output, "the result", earlier)
    taken = shots.read(capture)
    record = None if config is None else Record(config)
    if record is not None:
        for name in taken.cameras:
            record.require_camera(name)
        taken = measured.with_lenses(taken, record.now)
    result = solve_shots(capture, taken, size_known=not measure_size, bootstrap=bootstrap)
    if output is not None:
        atomic.write_bytes(output, msgspec.json.format(msgspec.json.encode(result), indent=1))
    typer.echo(msgspec.json.encode(result).decode() if json else text_of(result))
    if result.verdict.level == "fail":
        raise typer.Exit(1)
    if record is not None:
        found = record.put(
            lambda now: measured.hand_eye(now, taken, result), measured.pose_keys(result)
        )
        typer.echo(record.said(found), err=json)
