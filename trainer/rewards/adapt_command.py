"""`robot-reward adapt`: fits a trained edge model's head to a task's demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.rewards.progress_line import say


def command(
    base: Annotated[Path, typer.Option(help="Folder that `train` wrote.")],
    demonstrations: Annotated[
        Path, typer.Option(help="LeRobotDataset that the base policy was imitated from.")
    ],
    data: Annotated[list[Path], typer.Option(help="Training clips, to replay.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    validation: Annotated[
        list[Path] | None, typer.Option(help="More clips of the train split, to calibrate on.")
    ] = None,
    count: Annotated[int, typer.Option(help="Demonstrations to use.")] = 15,
    steps: Annotated[int, typer.Option()] = 300,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    without: Annotated[
        list[str] | None, typer.Option(help="Kinds of goals that the base was trained without.")
    ] = None,
) -> None:
    """Adapt a trained model's head to the demonstrations of one task (no label by hand)."""
    import torch

    from trainer.rewards.demonstrations import read_demonstrations
    from trainer.rewards.recipe import adapt_to
    from trainer.rewards.train_edge import TrainSettings, load, require_folder, save

    require_folder(output)
    torch.set_num_threads(threads)
    edge = load(base)
    shown = read_demonstrations(demonstrations, count, edge.settings["rate_hz"])
    settings = TrainSettings(steps=steps, seed=seed, learning_rate=5e-4)
    adapted, figures = adapt_to(
        edge, shown, data, validation or [], settings, say, without=without or []
    )
    save(adapted, output)
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
