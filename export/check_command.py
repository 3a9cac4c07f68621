"""`robot-export check`: do torch, the ONNX graphs and every engine answer alike, and where do they part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[Path, typer.Argument(help="Folder of the package.")],
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine that must be here and agree (repeat). Default: all that are here."
        ),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="LeRobotDataset whose moments are compared too.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of its moments.")] = 32,
    bench: Annotated[
        str, typer.Option(help="Task of the bench on which success is compared too.")
    ] = "",
    episodes: Annotated[int, typer.Option(min=1, help="Scenes of the bench.")] = 100,
    against: Annotated[
        Path | None, typer.Option(help="Package that the bench compares with, on onnxruntime.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify a package: every hash and shape; torch, ONNX and engines on golden and recorded inputs, from
    pictures to actions, and on the bench. Exit code 1 names the first layer that diverges."""
    import dataclasses

    from export.check import check_package, closed_loops, require
    from export.parity.report import as_json, as_text
    from export.parity.torch_side import use_one_thread

    use_one_thread()
    report = check_package(package, engine or (), recorded, samples)
    if bench:
        loops = closed_loops(report, bench, episodes, against)
        report = dataclasses.replace(report, bench=loops)
    if json:
        typer.echo(as_json(report))
    else:
        for line in as_text(report):
            typer.echo(line)
    require(report)
