"""`robot-trainer collect`: the command's options; the work is in `trainer.collection` and on Ray."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import ConfigError, some_of

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def command(
    *,
    package: Annotated[Path, typer.Option(help="Policy package (folder).")],
    output: Annotated[Path, typer.Option(help="Folder to write; an unfinished one goes on.")],
    task: Annotated[str, typer.Option(help="Task of the bench.")] = "",
    episodes: Annotated[int, typer.Option(help="How many scenes.")] = 50,
    seed_base: Annotated[int, typer.Option(help="First scene seed.")] = 1_000_000,
    block: Annotated[int, typer.Option(help="Scenes that one robot runs in a row.")] = 10,
    reward_package: Annotated[
        Path | None, typer.Option(help="Reward package that scores every step.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Refined head (safetensors file).")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Hardware config; default: the embedded bench.")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
    address: Annotated[
        str, typer.Option(help="Ray cluster (auto, host:port, ray://...); local: this machine.")
    ] = "local",
    gpus: Annotated[float, typer.Option(help="GPUs a robot needs; 0.25: four share one.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Record many simulated episodes on Ray: one data set, bit for bit that of one robot-run eval."""
    from trainer import collect_ray, ray_cluster
    from trainer.collection import Collection, Request, named

    if not gpus >= 0.0:
        raise ConfigError("--gpus", expected=">= 0", found=gpus)
    collection = Collection(
        Request(
            package=package,
            output=output,
            episodes=episodes,
            seed_base=seed_base,
            block=block,
            task=task,
            weights=weights,
            reward_package=reward_package,
            config=config,
            overrides=tuple(set_ or ()),
        )
    )
    ray = ray_cluster.library("robot-trainer collect")
    need = collection.processors
    local = ray_cluster.this_machine(need)
    done = 0
    try:
        # Ray says on standard output what it lost; there stands the outcome alone.
        with (
            redirect_stdout(sys.stderr),
            collection.opened(),
            ray_cluster.cluster(ray, address, **local),
        ):
            collect_ray.warn_if_too_large(ray, need, gpus)
            with typer.progressbar(length=episodes, label="episodes", file=sys.stderr) as bar:

                def show(count: int) -> None:
                    nonlocal done
                    done = count
                    bar.update(count - bar.pos)

                runner = collect_ray.runner(ray, need, gpus)
                found = collection.run(runner, _say, show)
    except KeyboardInterrupt:
        _say(f"interrupted: {done} of {episodes} episodes are done; the same command goes on")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    successes = sum(bool(row["success"]) for row in found.rows)
    if as_json:
        failed = [
            {"seeds": [job.seeds[0], job.seeds[-1]], "why": w} for job, w in found.failed.items()
        ]
        report = {"episodes": len(found.rows), "successes": successes, "failed": failed}
        typer.echo(json.dumps(report))
    else:
        share = f" ({100 * successes / len(found.rows):.0f} %)" if found.rows else ""
        typer.echo(
            f"{output}: {len(found.rows)} episodes, success: {successes} of {len(found.rows)}{share}"
        )
    if found.failed:
        blocks = some_of(
            [f"{named(job)}: {why}" for job, why in found.failed.items()], between="; "
        )
        _say(f"not collected: the scenes of seeds {blocks}; the same command tries again")
        raise typer.Exit(EXIT_FAILED)


def _say(what: str) -> None:
    typer.echo(f"robot-trainer: {what}", err=True)
