"""`robot-reward distill`: an edge model that learns from another reward model's scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.rewards.progress_line import say

if TYPE_CHECKING:
    from trainer.interfaces import VideoRewardModel
    from trainer.rewards.data import Clip


def command(
    data: Annotated[list[Path], typer.Option(help="Folders of training clips.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    teacher: Annotated[
        str, typer.Option(help="Reward model to learn from; 'truth': the clips' own labels.")
    ] = "edge",
    package: Annotated[Path | None, typer.Option(help="The teacher's package or folder.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value for the teacher.")] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="More clips of the train split, to calibrate on.")
    ] = None,
    scores_per_s: Annotated[float, typer.Option(help="How often the teacher is asked.")] = 1.0,
    goals: Annotated[int, typer.Option(help="Counterfactual instructions a clip.")] = 3,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 3000,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train an edge model on a teacher's scores; `robot-export reward` makes a package of it."""
    import torch

    from trainer.rewards.opening import open_video_model, options_of, require_reachable
    from trainer.rewards.recipe import Relabel, train_zero_shot
    from trainer.rewards.train_edge import TrainSettings, require_folder, save

    require_folder(output)
    torch.set_num_threads(threads)
    label: Relabel = list
    notes = "learned from the clips' own labels"
    if teacher != "truth":
        model = open_video_model(teacher, package, options_of(option or []), seed)
        require_reachable(model)
        notes = f"distilled from {model.model_id}"
        label = partial(_taught, model, scores_per_s, goals)

    settings = TrainSettings(steps=steps, seed=seed)
    edge, figures = train_zero_shot(data, validation or [], settings, say, label, notes)
    save(edge, output)
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


def _taught(
    teacher: VideoRewardModel, scores_per_s: float, goals: int, clips: Sequence[Clip]
) -> list[Clip]:
    from trainer.rewards.distill import relabel

    taught = relabel(teacher, clips, scores_per_s=scores_per_s, goals=goals, report=_told)
    typer.echo(
        f"{teacher.model_id}: judged {taught.asked - taught.abstained} goals of "
        f"{len(taught.clips)} clips, abstained from {taught.abstained}",
        err=True,
    )
    return taught.clips


def _told(done: int, of: int) -> None:
    if done % 20 == 0 or done == of:
        typer.echo(f"teacher: {done}/{of} clips", err=True)
