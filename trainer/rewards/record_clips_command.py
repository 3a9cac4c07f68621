"""`robot-reward record-clips`: records clips on the simulated bench, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from contracts.files import outputs


def command(
    output: Annotated[Path, typer.Option(help="Folder to write.")],
    episodes: Annotated[int, typer.Option(help="Clips in all.")] = 5600,
    split: Annotated[str, typer.Option(help="train or eval.")] = "train",
    tasks: Annotated[list[str] | None, typer.Option(help="Task names; a mix by default.")] = None,
    seed: Annotated[int, typer.Option()] = 1,
    arranged: Annotated[float, typer.Option(help="Share of arranged scenes.")] = 0.5,
    workers: Annotated[int, typer.Option()] = 2,
) -> None:
    """Record clips on the simulated bench, with counterfactual instructions and state-based labels."""
    outputs.require_folder(output, "clips")
    command = [sys.executable, "-m", "runtime.bench.clips", "--split", split]
    command += [*(["--tasks", *tasks] if tasks else []), "--episodes", str(episodes)]
    command += ["--seed", str(seed), "--arranged", str(arranged), "--workers", str(workers)]
    done = subprocess.run([*command, "--output", str(output)], check=False)
    raise typer.Exit(done.returncode)
