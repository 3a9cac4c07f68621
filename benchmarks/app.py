"""`robot-bench`: figures as ratios in one run, against something real."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import EntracteError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


@app.callback()
def _root() -> None:
    """Measure Entracte on this machine."""


@app.command()
def loop(
    package: Annotated[Path, typer.Option(help="policy package")] = PRETRAINED
    / "policy-open_drawer",
    rate_hz: Annotated[float, typer.Option("--rate-hz", help="control rate")] = 30.0,
    seconds: Annotated[float, typer.Option(help="how long")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Lateness and missed ticks at full load, beside a bare absolute-deadline loop."""
    from benchmarks.loop import measure, table

    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as folder:
        result = measure(package, rate_hz, seconds, Path(folder))
    typer.echo(json.dumps(result) if as_json else table(result))


def main() -> None:
    """Entry point: one clear sentence and exit code 2 on an error that a user can mend."""
    try:
        app()
    except EntracteError as error:
        typer.echo(f"robot-bench: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
