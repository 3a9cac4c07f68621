"""`robot-trainer report`: the command's options; the work is in `trainer.report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Option(help="Run folder, as robot-run demo made it.")] = Path(
        "run/demo"
    ),
    output: Annotated[Path, typer.Option(help="Folder for index.html and films.")] = Path("report"),
) -> None:
    """Render what a run left, whole or cut short, as one page with films beside it."""
    from trainer.report.build import build

    page = build(run, output, say=lambda words: typer.echo(f"report: {words}", err=True))
    typer.echo(str(page))
