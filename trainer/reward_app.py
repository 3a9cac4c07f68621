"""`robot-reward`: data, training, adaptation to demonstrations and evaluation of reward models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from msgspec import json as to_json

from contracts.errors import EntracteError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Output = Annotated[Path, typer.Option(help="Folder to write.")]
Seed = Annotated[int, typer.Option()]
Threads = Annotated[int, typer.Option(help="CPU threads.")]


@app.callback()
def _root() -> None:
    """Reward models: build-data, train, adapt, eval."""


@app.command("build-data")
def build_data(
    output: Output,
    episodes: Annotated[int, typer.Option(help="Clips in all.")] = 5600,
    split: Annotated[str, typer.Option(help="train or eval.")] = "train",
    tasks: Annotated[list[str] | None, typer.Option(help="Task names; a mix by default.")] = None,
    seed: Seed = 1,
    arranged: Annotated[float, typer.Option(help="Share of arranged scenes.")] = 0.5,
    workers: Annotated[int, typer.Option()] = 2,
) -> None:
    """Record clips on the simulated bench, with counterfactual instructions and state-based labels."""
    command = [sys.executable, "-m", "runtime.bench.clips", "--split", split]
    command += [*(["--tasks", *tasks] if tasks else []), "--episodes", str(episodes)]
    command += ["--seed", str(seed), "--arranged", str(arranged), "--workers", str(workers)]
    done = subprocess.run([*command, "--output", str(output)], check=False)
    raise typer.Exit(done.returncode)


@app.command()
def train(
    data: Annotated[list[Path], typer.Option(help="Folders of training clips.")],
    output: Output,
    validation: Annotated[
        list[Path] | None, typer.Option(help="More clips of the train split, to calibrate on.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 3000,
    minutes: Annotated[float, typer.Option(help="End after this long (0: by steps alone).")] = 0.0,
    seed: Seed = 0,
    threads: Threads = 1,
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
    edge, figures = train_zero_shot(data, validation or [], settings, _say)
    save(edge, output)
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


@app.command()
def adapt(
    base: Annotated[Path, typer.Option(help="Folder that `train` wrote.")],
    demonstrations: Annotated[
        Path, typer.Option(help="LeRobotDataset that the base policy was imitated from.")
    ],
    data: Annotated[list[Path], typer.Option(help="Training clips, to replay.")],
    output: Output,
    validation: Annotated[
        list[Path] | None, typer.Option(help="More clips of the train split, to calibrate on.")
    ] = None,
    count: Annotated[int, typer.Option(help="Demonstrations to use.")] = 15,
    steps: Annotated[int, typer.Option()] = 300,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Adapt a trained model's head to the demonstrations of one task (no label by hand)."""
    import torch

    from trainer.rewards.demonstrations import read_demonstrations
    from trainer.rewards.recipe import adapt_to
    from trainer.rewards.train_edge import TrainSettings, load, save

    torch.set_num_threads(threads)
    edge = load(base)
    shown = read_demonstrations(demonstrations, count, edge.settings["rate_hz"])
    settings = TrainSettings(steps=steps, seed=seed, learning_rate=5e-4)
    adapted, figures = adapt_to(edge, shown, data, validation or [], settings, _say)
    save(adapted, output)
    typer.echo("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


@app.command("eval")
def evaluate(
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


def _say(step: int, done: float, losses: dict[str, float]) -> None:
    shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
    typer.echo(f"{100 * done:5.1f} %  step {step}  {shown}", err=True)


def main() -> None:
    """Entry point: one clear sentence and exit code 1 on an error that a user can mend."""
    try:
        app()
    except EntracteError as error:
        print(f"robot-reward: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
