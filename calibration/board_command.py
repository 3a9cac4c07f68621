"""`robot-calibrate board`: a board to print, and its description for every other verb."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    output: Annotated[Path, typer.Option(help="Folder for board.pdf and board.json.")],
    kind: Annotated[Literal["charuco", "marker"], typer.Option(help="What to print.")] = "charuco",
    columns: Annotated[int, typer.Option(help="Squares from left to right.")] = 7,
    rows: Annotated[int, typer.Option(help="Squares from top to bottom.")] = 5,
    square_mm: Annotated[float, typer.Option(help="Side of a square.")] = 30.0,
    marker_mm: Annotated[float, typer.Option(help="Side of a marker.")] = 22.0,
    dictionary: Annotated[str, typer.Option(help="ArUco dictionary.")] = "DICT_4X4_50",
    marker_id: Annotated[int, typer.Option(help="Of a single marker.")] = 0,
    legacy: Annotated[bool, typer.Option(help="The pattern of OpenCV before 4.6.")] = False,
    paper: Annotated[str, typer.Option(help="a4, a4-upright, a3 or letter.")] = "a4",
    measured_mm: Annotated[
        float | None,
        typer.Option(
            help="What a square (or the marker) of the print measures; mean over many of them."
        ),
    ] = None,
) -> None:
    """Print board.pdf at 100 %, glue it to something flat, measure, and say the result with --measured-mm."""
    import msgspec

    from calibration import print_board
    from calibration.boards import Board
    from contracts.files import atomic, outputs

    outputs.require_folder(output, "the board", outputs.only("board.pdf", "board.json"))
    board = Board(
        kind=kind,
        columns=columns,
        rows=rows,
        square_m=square_mm / 1e3,
        marker_m=marker_mm / 1e3,
        dictionary=dictionary,
        marker_id=marker_id,
        legacy=legacy,
    )
    printed = print_board.pdf(board, paper)
    described = board if measured_mm is None else print_board.measured(board, measured_mm / 1e3)
    atomic.make_directory(output)
    if measured_mm is None:
        atomic.write_bytes(output / "board.pdf", printed)
    atomic.write_bytes(
        output / "board.json", msgspec.json.format(msgspec.json.encode(described), indent=1)
    )
    typer.echo(f"{output / 'board.json'}: {print_board.said(described)}")
    if measured_mm is None:
        typer.echo(
            f"{output / 'board.pdf'}: print it at 100 %, measure it, and say --measured-mm, options as now"
        )
