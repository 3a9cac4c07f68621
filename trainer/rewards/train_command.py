"""`robot-reward train`: trains the zero-shot edge model; with --config, fine-tunes a vision-language model.

One verb with one switch: a file of settings means a large model, folders of clips mean the edge model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import ConfigError, MissingDependency
from trainer.rewards.progress_line import say

EDGE, TUNING = "Edge model", "Vision-language model"


def command(
    context: typer.Context,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folders of training clips; with --config, the one folder of build-data."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML: fine-tune a vision-language model by it.", rich_help_panel=TUNING),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="section.key=value onto the file, repeatable.", rich_help_panel=TUNING
        ),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="More clips of the train split, to calibrate on.", rich_help_panel=EDGE),
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps.", rich_help_panel=EDGE)] = 3000,
    minutes: Annotated[
        float, typer.Option(help="End after this long (0: by steps alone).", rich_help_panel=EDGE)
    ] = 0.0,
    seed: Annotated[int, typer.Option(rich_help_panel=EDGE)] = 0,
    threads: Annotated[int, typer.Option(help="CPU threads.", rich_help_panel=EDGE)] = 1,
    false_positives: Annotated[
        float,
        typer.Option(
            help="Share of unfinished validation frames that may pass as done.",
            rich_help_panel=EDGE,
        ),
    ] = 0.02,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Leave out goals of this kind (close, press, ...), to see what becomes of unknown tasks.",
            rich_help_panel=EDGE,
        ),
    ] = None,
) -> None:
    """Train a reward model.

    Without --config: the zero-shot edge model, from clips; `robot-export reward` makes a package of it.

    With --config: a vision-language model, by LoRA or whole, on what `build-data` built. Run it again to go
    on where it was stopped. trainer/rewards/tuning/README.md has every setting, and how to use several GPUs.
    """
    if config is not None:
        _refuse(context)
        _tune(config, overrides or [], data or [], output)
        return
    if overrides:
        raise ConfigError("--set", expected="with --config", found="without")
    if not data or output is None:
        raise ConfigError(
            "robot-reward train",
            expected="--data and --output for the edge model, or --config for a vision-language model",
        )
    import torch

    from trainer.rewards.recipe import train_zero_shot
    from trainer.rewards.train_edge import TrainSettings, require_folder, save

    require_folder(output)
    torch.set_num_threads(threads)
    settings = TrainSettings(
        steps=steps, minutes=minutes, seed=seed, false_positive_rate=false_positives
    )
    edge, figures = train_zero_shot(data, validation or [], settings, say, without=without or [])
    save(edge, output)
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


def _refuse(context: typer.Context) -> None:
    """Raises `ConfigError` for an option of the edge model's that the settings file would silently outdo."""
    own = ("validation", "steps", "minutes", "seed", "threads", "false_positives", "without")
    given = [
        f"--{name.replace('_', '-')}"
        for name in own
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        raise ConfigError(
            "options beside --config",
            expected="--set, --data and --output",
            found=", ".join(given),
            remedy="the file has settings of its own; --set steps=100 changes one",
        )


def _tune(config: Path, overrides: list[str], data: list[Path], output: Path | None) -> None:
    try:
        from trainer.rewards.tuning.run import tune
        from trainer.rewards.tuning.settings import read_settings
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"fine-tuning needs {error.name}", remedy="pip install 'entracte[vlm]'"
        ) from error
    if len(data) > 1:
        raise ConfigError("--data with --config", expected="one folder", found=len(data))
    # JSON's quotes are YAML's: a folder named 2026 stays a text.
    own = [f"data={json.dumps(str(path))}" for path in data]
    own += [f"output={json.dumps(str(output))}"] if output else []
    settings = read_settings(config, [*overrides, *own])
    figures = tune(settings, say)
    if figures:  # none on processes but the first
        typer.echo("\n".join(_summary(figures)))
        typer.echo(f"{settings.output}/best is used by the options in {settings.output}/vlm.yaml")


def _summary(figures: dict[str, float]) -> list[str]:
    """Validation figures before and after, the best constant's beside them, and whether it was worth it."""
    lines = [f"best step {figures['best_step']:.0f}"]
    for name, value in figures.items():
        if f"{name}_before" in figures:
            blind = figures.get(f"{name}_blind")
            beside = "" if blind is None else f"   (a constant: {blind:.4f})"
            lines.append(f"{name}: {figures[f'{name}_before']:.4f} -> {value:.4f}{beside}")
    for name, what in (("before", "the model before the training"), ("blind", "a constant")):
        if figures["error"] >= figures[f"error_{name}"]:
            lines.append(f"WARNING: on validation the result is no better than {what}")
    return lines
