"""`robot-calibrate quantization`: recorded episodes -> a calibration set with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[list[Path], typer.Argument(help="Recorded data sets (LeRobotDataset v3.0).")],
    package: Annotated[Path, typer.Option(help="Package whose trunk will be quantised.")],
    output: Annotated[Path, typer.Option(help="Folder of the set to write.")],
    samples: Annotated[int, typer.Option(min=1, help="Steps to calibrate with.")] = 256,
    held_out: Annotated[int, typer.Option(min=0, help="Steps of other episodes.")] = 128,
    held_out_share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Share of each task's episodes held out.")
    ] = 0.33,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Draw recorded steps evenly over task, phase, light and gripper. Exit code 1 if the set is unfit.

    An earlier set in OUTPUT is replaced, and it is said which."""
    import msgspec

    from calibration.quantization.card import replaced, require_folder, text_of, write_set
    from calibration.quantization.draw import draw
    from contracts.files.packages import load_package
    from contracts.files.typed import typed

    require_folder(output)
    asked = typed(
        [
            *("robot-calibrate", "quantization", *data, "--package", package, "--output", output),
            *("--samples", samples, "--held-out", held_out),
            *("--held-out-share", f"{held_out_share:g}", "--seed", seed),
        ]
    )
    made = draw(
        load_package(package),
        data,
        samples=samples,
        held_out=held_out,
        held_out_share=held_out_share,
        seed=seed,
        command=asked,
    )
    if earlier := replaced(output, made):
        typer.echo(f"{output}: {earlier}", err=True)
    write_set(output, made)
    card = made.card
    typer.echo(msgspec.json.encode(card).decode() if json else text_of(card))
    if card.fitness == "bad":
        raise typer.Exit(1)
