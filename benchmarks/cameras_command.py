"""`robot-bench cameras`: arguments and what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    config: Annotated[Path, typer.Option("--config", help="hw_configs/<yours>.yaml")],
    seconds: Annotated[float, typer.Option(help="how long", min=1)] = 20.0,
    set_: Annotated[list[str] | None, typer.Option("--set", help="dotted override")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Processor time, latency and losses of a configuration's cameras, without a loop beside them."""
    from benchmarks.cameras import measure, table
    from runtime.config import load_config

    found = measure(load_config(config, set_ or []), seconds)
    typer.echo(json.dumps(found) if as_json else table(found))
