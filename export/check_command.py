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
        Path | None,
        typer.Option(help="LeRobotDataset whose moments are compared too (policy, reward)."),
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
    pictures to actions, and on the bench. If they differ, the exit code is 1 and the first layer that
    does is named; 2 is for a wrong path or option."""
    import dataclasses

    from contracts.errors import ConfigError
    from contracts.files.packages import read_manifest
    from export.check import check_package, closed_loops, require
    from export.parity.bench import require_enough, require_task
    from export.parity.report import as_json, as_text
    from export.parity.torch_side import use_one_thread

    if against is not None and not bench:
        raise ConfigError("--against", expected="--bench TASK beside it", found="none")
    read_manifest(package)
    if bench:
        if against is not None:
            read_manifest(against)
        require_task(bench)
        require_enough(episodes)
    use_one_thread()
    report = check_package(package, engine or (), recorded, samples)
    if bench:
        loops = closed_loops(
            report, bench, episodes, against, lambda line: typer.echo(line, err=True)
        )
        report = dataclasses.replace(report, bench=loops)
    if json:
        typer.echo(as_json(report))
    else:
        for line in as_text(report):
            typer.echo(line)
    require(report)
