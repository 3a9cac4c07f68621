"""`robot-reward score`: the command's options; the work is in `trainer.rewards.bulk` and on Ray."""

from __future__ import annotations

import json
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.errors import ConfigError, some_of

if TYPE_CHECKING:
    from trainer.rewards.bulk import Tally

EXIT_FAILED = 1


def command(
    *,
    data: Annotated[
        list[Path], typer.Option(help="Data sets that robot-run or robot-trainer recorded.")
    ],
    output: Annotated[
        Path, typer.Option(help="Folder of scores, a file an episode; an unfinished one goes on.")
    ],
    reward: Annotated[str, typer.Option(help="A registered reward model.")] = "edge",
    package: Annotated[Path | None, typer.Option(help="Its package (folder).")] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value (value as YAML).")] = None,
    demonstrations: Annotated[
        list[Path] | None, typer.Option(help="LeRobotDatasets for models that use some.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    threads: Annotated[int, typer.Option(help="Of each copy of the model.", min=1)] = 1,
    timeout_s: Annotated[
        float, typer.Option("--timeout-s", help="Of one episode.", min=0.001)
    ] = 600.0,
    ray: Annotated[bool, typer.Option("--ray", help="Many copies of the model, on Ray.")] = False,
    address: Annotated[
        str, typer.Option(help="Ray cluster (auto, host:port, ray://...); local: this machine.")
    ] = "local",
    gpus: Annotated[float, typer.Option(help="GPUs a copy needs; 0.25: four share one.")] = 0.0,
    workers: Annotated[int, typer.Option(help="Copies; 0: as many as there is room for.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Score every stored episode with one reward model: here, or on Ray with many copies of it."""
    from trainer.rewards import bulk, bulk_ray
    from trainer.rewards.opening import options_of

    for name, value in (("--gpus", gpus), ("--workers", workers)):
        if not value >= 0:
            raise ConfigError(name, expected=">= 0", found=value)
    if not ray and (gpus or workers or address != "local"):
        raise ConfigError("--gpus, --workers, --address", remedy="they are for --ray: give it, too")
    asked = bulk.Asked(
        reward=reward,
        output=str(output.resolve()),
        package=str(package.resolve()) if package else "",
        options=options_of(option or []),
        demonstrations=tuple(str(path.resolve()) for path in demonstrations or []),
        seed=seed,
        threads=threads,
        timeout_s=timeout_s,
    )
    # Read by torch and ONNX Runtime when they are first imported: the model comes after this.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Not entered, which would show it before there is an episode.
    bar = typer.progressbar(length=1, label="episodes", file=sys.stderr)

    def show(done: int, of: int) -> None:
        bar.length = of
        bar.update(done - bar.pos)

    # Ray says on standard output what it lost; there stands the outcome alone.
    with redirect_stdout(sys.stderr):
        try:
            run = bulk_ray.on(address, gpus, workers) if ray else bulk.here
            found = bulk.score_all(asked, data, run, show)
        finally:
            if bar.pos:
                bar.render_finish()
    typer.echo(json.dumps(vars(found)) if as_json else f"{output}: {_as_text(found)}")
    if found.failed:
        why = some_of([f"{key}: {failure}" for key, failure in found.failed.items()], 5, "; ")
        typer.echo(f"robot-reward: not scored: {why}; the same command tries again", err=True)
        raise typer.Exit(EXIT_FAILED)


def _as_text(found: Tally) -> str:
    verdicts = ", ".join(f"{name} {count}" for name, count in sorted(found.verdicts.items()))
    agree = f"; agrees with {found.agree} of {found.labelled} labels" if found.labelled else ""
    before = f" ({found.kept} before)" if found.kept else ""
    scored = found.episodes - len(found.failed)
    return f"{scored} of {found.episodes} episodes scored{before}: {verdicts}{agree}"
