"""`robot-run blackbox`: looks at the last ten seconds before a fault, a trip or an emergency stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.files import outputs


def command(
    place: Annotated[Path, typer.Argument(help="a dump, or a run folder: its newest one")],
    last_s: Annotated[float, typer.Option("--last", help="seconds of ticks in the table")] = 1.0,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="a picture (PNG) of all joints")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="everything, as JSON")] = False,
) -> None:
    """Show why the arm stopped, and every tick before it."""
    from runtime.blackbox import view as blackbox_view

    if plot:
        outputs.require_file(plot, "the picture")
    dump, path = blackbox_view.load(place)
    typer.echo(blackbox_view.as_json(dump) if as_json else blackbox_view.table(dump, path, last_s))
    if plot:
        from runtime.blackbox import plot as blackbox_plot

        blackbox_plot.plot(dump, plot)


def register(app: typer.Typer) -> None:
    app.command(name="blackbox")(command)
