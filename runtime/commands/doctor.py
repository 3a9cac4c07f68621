"""The verb `robot-run doctor`: what is asked and what is printed. The checks are `runtime.doctor`'s."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from runtime.config import load_config
from runtime.findings import Line

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="hardware config; default: the embedded bench")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="override a key: --set loop.rate_hz=30 (repeat)")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print the lines as JSON")]


def register(app: typer.Typer) -> None:
    """Add the verb to `robot-run`."""
    app.command()(doctor)


def doctor(
    config: ConfigOption = None,
    set_: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", help="run folder whose keys are looked at")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at everything that a start needs and say what is wrong, with the fix. Moves nothing."""
    from runtime.doctor.checks import diagnose

    lines = diagnose(load_config(config, set_ or []), run_dir)
    if as_json:
        typer.echo(msgspec.json.encode(lines).decode())
    else:
        for line in lines:
            typer.echo(str(line))
        typer.echo(_summary(lines))
    sys.stdout.flush()
    # Not sys.exit: a check that hangs in a thread of its own must not keep the answer's exit code.
    os._exit(0 if all(line.ok for line in lines) else 1)


def _summary(lines: list[Line]) -> str:
    counts = {status: sum(line.status == status for line in lines) for status in ("warn", "fail")}
    if not any(counts.values()):
        return "all is well"
    return f"{counts['fail']} to mend before a start, {counts['warn']} worth mending"
