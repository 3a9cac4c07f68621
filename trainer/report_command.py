"""`robot-trainer report`: the command's options; the work is in `trainer.report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FOLDER",
            help="Run folder, as robot-run demo made it (run/demo). Several are compared; those of one NAME "
            "are seeds of one way to refine.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(help="Folder for index.html, report.md and films.")
    ] = Path("report"),
) -> None:
    """Render what a run left, whole or cut short, as one page with films beside it; or compare several."""
    from trainer.report.build import build, compare

    def say(words: str) -> None:
        typer.echo(f"report: {words}", err=True)

    runs = [_named(text) for text in run or ["run/demo"]]
    if len(runs) == 1 and not runs[0][0]:
        page = build(runs[0][1], output, say=say)
    else:
        page = compare(runs, output, say=say)
    typer.echo(str(page))


def _named(text: str) -> tuple[str, Path]:
    """("", folder) where no name is given: a folder's own name may hold an equals sign."""
    name, equals, folder = text.partition("=")
    return (
        (name, Path(folder)) if equals and folder and not Path(text).is_dir() else ("", Path(text))
    )
