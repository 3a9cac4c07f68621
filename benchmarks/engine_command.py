"""`robot-bench engine`: arguments and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[Path, typer.Argument(help="model package")],
    engine: Annotated[
        list[str] | None, typer.Option(help="onnxruntime, tensorrt (repeat; default: all present)")
    ] = None,
    provider: Annotated[str, typer.Option(help="of ONNX Runtime: cpu, cuda, auto")] = "cpu",
    threads: Annotated[int, typer.Option(help="of one inference", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="calls timed of each", min=16)] = 400,
    warm_up: Annotated[int, typer.Option("--warm-up", help="calls before", min=1)] = 20,
    neighbours: Annotated[
        int, typer.Option(help="busy processes beside half of the calls", min=0)
    ] = 1,
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Inference of a package's graphs in every engine present, beside the bare library."""
    import msgspec

    from benchmarks.engine import measure, table
    from contracts.files import atomic, outputs

    if output:
        outputs.require_file(
            output, "the figures", outputs.json_with("package_id", "rounds", "rows")
        )
    found = measure(
        package,
        engines=engine or (),
        provider=provider,
        threads=threads,
        rounds=rounds,
        warm_up=warm_up,
        neighbours=neighbours,
        report=lambda line: typer.echo(line, err=True),
    )
    data = msgspec.json.encode(found)
    if output:
        atomic.write_bytes(output, msgspec.json.format(data, indent=1))
    typer.echo(data.decode() if as_json else table(found))
