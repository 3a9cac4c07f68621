"""`robot-reward eval`: measures reward models on clips with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec import json as to_json


def command(
    data: Annotated[list[Path], typer.Option(help="Folders of clips with known truth.")],
    package: Annotated[list[Path] | None, typer.Option(help="Reward packages to measure.")] = None,
    demonstrations: Annotated[
        list[Path] | None, typer.Option(help="LeRobotDatasets for the nearest-neighbour baseline.")
    ] = None,
    tasks: Annotated[list[str] | None, typer.Option(help="Only these tasks.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Completion at matched times, error rates at the shipped threshold, and progress, against baselines."""
    from trainer.rewards.recipe import evaluate_all

    for report in evaluate_all(package or [], data, demonstrations or [], tasks):
        typer.echo(to_json.encode(report.as_dict()).decode() if json else report.line())
