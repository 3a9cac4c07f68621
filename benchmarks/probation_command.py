"""`robot-bench probation`: arguments and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
POOLS = Path(__file__).resolve().parent.parent / "docs" / "results" / "probation"


def command(
    package: Annotated[Path, typer.Option(help="policy package")] = PRETRAINED
    / "policy-open_drawer",
    healthy: Annotated[
        Path | None, typer.Option(help="head of a good policy (safetensors), for --real and pools")
    ] = None,
    worse: Annotated[
        Path | None, typer.Option(help="head made worse; default: written by --worsen")
    ] = None,
    worsen: Annotated[
        float, typer.Option(help="noise on the healthy head, in shares of each tensor's spread")
    ] = 0.0,
    pools: Annotated[
        Path, typer.Option(help="folder of recorded pools, where no head is given")
    ] = POOLS,
    work: Annotated[
        Path, typer.Option(help="folder for the worsened head and the pools of given heads")
    ] = Path("run/probation"),
    pool_episodes: Annotated[int, typer.Option(help="episodes of each pool", min=20)] = 200,
    trials: Annotated[int, typer.Option(help="of each policy, drawn from the pools", min=1)] = 200,
    real_trials: Annotated[int, typer.Option("--real", help="of each, on the bench")] = 0,
    reference: Annotated[int, typer.Option(help="episodes of the committed release")] = 50,
    simulated: Annotated[int, typer.Option(help="trials of each cell of the grid")] = 10_000,
    chains: Annotated[
        int, typer.Option(help="refinements of equally good releases, one after another")
    ] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    output: Annotated[Path | None, typer.Option(help="file for every trial, as JSON")] = None,
) -> None:
    """Is a worse policy rolled back by itself, a healthy one left alone? The test alone, then the robot."""
    import msgspec

    from benchmarks import probation, probation_trials
    from benchmarks.machine import in_words, machine
    from contracts.errors import EntracteError
    from contracts.files import atomic, outputs
    from contracts.files.packages import safetensors_bytes
    from runtime.weights.probation import Probation

    if output:
        outputs.require_file(output, "the trials", outputs.json_with("machine"))

    def say(line: str) -> None:
        typer.echo(line, err=True)

    found: dict[str, object] = {"machine": machine()}
    if simulated:
        rows = probation.grid(Probation(), simulated, seed)
        found["simulated"] = [msgspec.to_builtins(row) for row in rows]
        typer.echo(probation.table(rows) + "\n")
    if chains:
        links = probation.chains(Probation(), chains, seed)
        found["chains"] = [msgspec.to_builtins(link) for link in links]
        typer.echo(probation.chain_table(links) + "\n")
    if healthy is not None and worse is None and worsen > 0.0:
        worse = work / "worse.safetensors"
        weights = probation_trials.worsened(probation_trials.load(healthy), worsen, seed)
        atomic.write_bytes(worse, safetensors_bytes(weights))
    if healthy or worse:
        pools = work  # what is shipped was run with other heads
    recorded = {}
    for name, weights_path in (("healthy", healthy), ("worse", worse)):
        path = pools / f"{name}.json"
        if weights_path is None and not path.exists():
            raise EntracteError(
                f"no pool at {path}", remedy="give --healthy and --worse (or --worsen)"
            )
        recorded[name] = probation_trials.record(name, package, weights_path, pool_episodes, path)
        typer.echo(f"pool: {recorded[name]}")
    typer.echo(f"\n{probation_trials.HEAD}")
    for name, pool in recorded.items():
        if trials:
            each = probation_trials.drawn(
                package, recorded["healthy"], pool, trials, reference, seed, say
            )
            found[f"drawn {name}"] = [msgspec.to_builtins(trial) for trial in each]
            typer.echo(probation_trials.summary(f"{name}, drawn episodes", each))
    for name, weights_path in (("healthy", healthy), ("worse", worse)):
        if real_trials and healthy is not None and weights_path is not None:
            each = probation_trials.real(
                package,
                healthy,
                weights_path,
                recorded["healthy"],
                real_trials,
                reference,
                seed,
                say,
            )
            found[f"real {name}"] = [msgspec.to_builtins(trial) for trial in each]
            typer.echo(probation_trials.summary(f"{name}, every episode run", each))
    typer.echo(f"\nReference: {reference} episodes. Machine: {in_words(machine())}.")
    if output:
        atomic.write_bytes(output, json.dumps(found, indent=1).encode())
