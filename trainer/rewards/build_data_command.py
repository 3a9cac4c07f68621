"""`robot-reward build-data`: a data set for reward models from the sources of a recipe file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[Path, typer.Option(help="YAML: sources with weights, what to derive.")],
    output: Annotated[Path, typer.Option(help="Folder to write; an unfinished one goes on.")],
    workers: Annotated[int, typer.Option(help="Processes on this machine.")] = 1,
    ray: Annotated[bool, typer.Option(help="Work on Ray Data; same bytes.")] = False,
) -> None:
    """Mix recordings into RoboReward-format data and LRM-format frames, relabelled, clipped and split."""
    from contracts.errors import some_of
    from trainer.reward_data import card, ray_build
    from trainer.reward_data.build import build
    from trainer.reward_data.recipe import read_recipe

    runner = ray_build.run if ray else None
    read = read_recipe(recipe)
    with typer.progressbar(length=1, label="source videos", file=sys.stderr) as bar:

        def show(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        figures = build(read, output, workers=workers, run=runner, progress=show)
    counts = ", ".join(f"{name} {count}" for name, count in figures["origins"].items())
    typer.echo(f"{output}: {figures['samples']} samples ({counts})")
    typer.echo("\n".join(card.bars(figures["scores"])))
    if lost := figures["unreadable"]:
        typer.echo(f"left out, can't be read: {len(lost)}: {some_of(lost, 5, '; ')}", err=True)
    typer.echo(f"data card: {output / 'README.md'}")
