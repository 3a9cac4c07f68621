"""`robot-reward train`: trains the zero-shot edge model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.rewards.progress_line import say


def command(
    data: Annotated[list[Path], typer.Option(help="Folders of training clips.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="More clips of the train split, to calibrate on.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 3000,
    minutes: Annotated[float, typer.Option(help="End after this long (0: by steps alone).")] = 0.0,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    false_positives: Annotated[
        float, typer.Option(help="Share of unfinished validation frames that may pass as done.")
    ] = 0.02,
) -> None:
    """Train the zero-shot model; `robot-export reward` makes a package of it."""
    import torch

    from trainer.rewards.recipe import train_zero_shot
    from trainer.rewards.train_edge import TrainSettings, save

    torch.set_num_threads(threads)
    settings = TrainSettings(
        steps=steps, minutes=minutes, seed=seed, false_positive_rate=false_positives
    )
    edge, figures = train_zero_shot(data, validation or [], settings, say)
    save(edge, output)
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
