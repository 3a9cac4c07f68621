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
from trainer.monitors.records import Label, Records, Row, key_of, waiting

app = typer.Typer(
    no_args_is_help=True,
    help="Episodes that a person is asked to judge: list, show, label. docs/monitors.md",
)
WORDS = {True: "success", False: "failure", None: "nothing"}


@app.command(name="list")
def list_(
    run_dir: RunDirOption,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Episodes that wait for a label, the oldest first."""
    records = Records(run_dir)
    rows = waiting(records.rows(), records.labels())
    for row in rows:
        typer.echo(json.dumps(msgspec.to_builtins(row)) if as_json else _described(row))
    if not rows and not as_json:
        typer.echo("no episode waits for a label")


@app.command()
def show(episode: str, run_dir: RunDirOption) -> None:
    """Write a sheet of moments and a film of that episode, and say where they are."""
    from trainer.monitors.clips import write_clip  # OpenCV and PyAV

    records = Records(run_dir)
    key = key_of(episode)
    sheet, film = write_clip(run_dir / "store", key, records.folder / "clips")
    for row in records.rows():
        if row.key == str(key):
            typer.echo(_described(row))
    typer.echo(f"sheet: {sheet}\nfilm: {film}")


@app.command()
def label(
    episode: str,
    truth: Annotated[str, typer.Argument(help="success, failure, or unclear")],
    run_dir: RunDirOption,
    by: Annotated[str, typer.Option(help="who says so; default: the user's name")] = "",
) -> None:
    """Say how that episode really ended; a running daemon hears of it at once. The last word counts."""
    said: dict[str, bool | None] = {"success": True, "failure": False, "unclear": None}
    if truth not in said:
        raise ConfigError(
            "label of an episode", expected="success, failure or unclear", found=truth
        )
    records, key = Records(run_dir), str(key_of(episode))
    if all(row.key != key for row in records.rows()):
        raise ConfigError(
            f"no episode {key} in {run_dir}",
            expected="one that the trainer has scored",
            remedy="robot-trainer audit list names those that wait",
        )
    records.add_label(Label(key, said[truth], by or getuser(), time.time()))
    left = len(waiting(records.rows(), records.labels()))
    typer.echo(f"{key} is labelled: {truth}; {left} more wait")


def _described(row: Row) -> str:
    why = "drawn at random" if row.random else "contested"
    return (
        f"{row.key}  reward: {WORDS[row.verdict]}, second opinion: {WORDS[row.second]}  "
        f"({why}, chance {row.chance:.2f})"
    )
