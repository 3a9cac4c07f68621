"""The verbs `robot-trainer audit list|show|label`: episodes that a person is asked to judge."""

from __future__ import annotations

import json
import time
from getpass import getuser
from typing import Annotated

import msgspec
import typer

from contracts.errors import ConfigError
from trainer.enroll_command import RunDirOption
from trainer.monitors.records import Label, Records, key_of, waiting

app = typer.Typer(
    no_args_is_help=True,
    help="Episodes that a person is asked to judge: list, show, label. docs/monitors.md",
)


@app.command(name="list")
def list_(
    run_dir: RunDirOption,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Episodes that wait for a label, the oldest first. Label them in that order. What the rewards said of
    them is in --json alone: who labels should not know it."""
    records = Records(run_dir)
    rows = waiting(records.rows(), records.labels())
    for row in rows:
        typer.echo(json.dumps(msgspec.to_builtins(row)) if as_json else row.key)
    if not rows and not as_json:
        typer.echo("no episode waits for a label")


@app.command()
def show(episode: str, run_dir: RunDirOption) -> None:
    """Write a sheet of moments and a film of that episode, and say where they are."""
    from trainer.monitors.clips import write_clip  # OpenCV and PyAV

    records = Records(run_dir)
    key = key_of(episode)
    sheet, film = write_clip(run_dir / "store", key, records.folder / "clips")
    typer.echo(f"sheet: {sheet}\nfilm: {film}")


@app.command()
def label(
    episode: str,
    truth: Annotated[str, typer.Argument(help="success, failure, or unclear")],
    run_dir: RunDirOption,
    by: Annotated[str, typer.Option(help="who says so; default: the user's name")] = "",
) -> None:
    """Say how that episode really ended; a running daemon hears of it at once. The last word counts.
    "unclear" is a failure to the estimate of true success, and nothing to the monitors."""
    said: dict[str, bool | None] = {"success": True, "failure": False, "unclear": None}
    if truth not in said:
        raise ConfigError(
            "label of an episode", expected="success, failure or unclear", found=truth
        )
    records, key = Records(run_dir), str(key_of(episode))
    known = [row for row in records.rows() if row.key == key]
    if not known:
        raise ConfigError(
            f"no episode {key} in {run_dir}",
            expected="one that the trainer has scored",
            remedy="robot-trainer audit list names those that wait",
        )
    records.add_label(Label(key, said[truth], by or getuser(), time.time()))
    left = len(waiting(records.rows(), records.labels()))
    if not any(row.chosen or row.operator is not None for row in known):
        typer.echo(f"{key} was not drawn for the audit: its label is kept and counts for nothing")
    typer.echo(f"{key} is labelled: {truth}; {left} more wait")
