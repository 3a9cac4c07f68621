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
    report: Annotated[
        Path | None, typer.Option(help="Write a page with charts there, as HTML.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Where each camera is, on the hand or in the world. Exit code 0: pass or warn, 1: fail."""
    import msgspec

    from calibration import measured, shots
    from calibration.handeye.result import assessed, text_of
    from calibration.pages import report_file
    from calibration.record import Record
    from contracts.files import atomic, outputs

    if output is not None:
        earlier = outputs.json_with("verdict", "cameras", "boards")
        outputs.require_file(output, "the result", earlier)
    page = report_file(report)
    taken = shots.read(capture)
    record = None if config is None else Record(config)
    if record is not None:
        for name in taken.cameras:
            record.require_camera(name)
        taken = measured.with_lenses(taken, record.now)
    setup = shots.to_setup(capture, taken)
    result, found = assessed(setup, size_known=not measure_size, bootstrap=bootstrap)
    if output is not None:
        atomic.write_bytes(output, msgspec.json.format(msgspec.json.encode(result), indent=1))
    if page is not None:
        from calibration.pages.handeye import page_of

        page.write(page_of(result, taken, setup, found))
    typer.echo(msgspec.json.encode(result).decode() if json else text_of(result))
    if result.verdict.level == "fail":
        raise typer.Exit(1)
    if record is not None:
        put = record.put(
            lambda now: measured.hand_eye(now, taken, result), measured.pose_keys(result)
        )
        typer.echo(record.said(put), err=json)
