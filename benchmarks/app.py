"""`robot-bench`: figures as ratios in one run, against something real."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import EntracteError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"


@app.callback()
def _root() -> None:
    """Measure Entracte on this machine."""


@app.command()
def reward(
    package: Annotated[Path, typer.Option(help="reward package")] = PRETRAINED / "reward-zero-shot",
    vlm: Annotated[
        Path | None,
        typer.Option(
            help="folder of a vision-language model (default: a tiny one of random weights)"
        ),
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="key=value for the vlm")] = None,
    endpoint: Annotated[str, typer.Option(help="base URL of an OpenAI-compatible server")] = "",
    endpoint_model: Annotated[str, typer.Option(help="the model's name there")] = "",
    only: Annotated[
        str,
        typer.Option(
            help="some of robot,robot-tensorrt,edge,edge-torch,vlm,remote,remote-vlm,endpoint"
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(help="scores timed of each", min=3)] = 60,
    threads: Annotated[int, typer.Option(help="of a model", min=1)] = 1,
    device: Annotated[str, typer.Option(help="of the vlm: auto, cpu, cuda")] = "auto",
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Latency, throughput and memory of every reward backend that is present, beside bare calls."""
    import msgspec

    from benchmarks.reward import measure, table
    from contracts.files import atomic, outputs
    from trainer.rewards.opening import options_of

    if output:
        outputs.require_file(
            output, "the figures", outputs.json_with("rows", "cores", "random_model")
        )
    found = measure(
        package,
        model=vlm,
        options=options_of(option or []),
        endpoint=endpoint,
        endpoint_model=endpoint_model,
        only=[name.strip() for name in only.split(",") if name.strip()],
        rounds=rounds,
        threads=threads,
        device=device,
        report=lambda line: typer.echo(line, err=True),
    )
    data = msgspec.json.encode(found)
    if output:
        atomic.write_bytes(output, msgspec.json.format(data, indent=1))
    typer.echo(data.decode() if as_json else table(found))


for _verb in (
    "arm",
    "cameras",
    "engine",
    "faults",
    "fleet",
    "gate",
    "intruders",
    "link",
    "loop",
    "probation",
    "push",
    "swap",
    "viewers",
):
    app.command(name=_verb)(import_module(f"benchmarks.{_verb}_command").command)


def main() -> None:
    """Entry point: one clear sentence and exit code 2 on an error that a user can mend."""
    try:
        app()
    except EntracteError as error:
        typer.echo(f"robot-bench: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
