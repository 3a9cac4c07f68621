"""What a training says of itself on a terminal."""

from __future__ import annotations

import typer


def say(step: int, done: float, losses: dict[str, float]) -> None:
    shown = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
    typer.echo(f"{100 * done:5.1f} %  step {step}  {shown}", err=True)
