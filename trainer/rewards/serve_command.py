"""`robot-reward serve`: the reward server as a process. Owns its configuration and how models are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    package: Annotated[
        Path | None, typer.Option(help="Serve this reward package alone, as model 'edge'.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML: address, limits, models.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Dotted override, e.g. limits.batch=8.")
    ] = None,
    check: Annotated[str, typer.Option(help="Only ask the server at this address how it is.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Score for many trainers and robots: several models, batched, with deadlines.

    Configuration: `address` (tcp://127.0.0.1:5710), `limits` (batch, wait_ms, frames_mib, per_client),
    `selftest_instruction`, `threads`, and `models`: name -> {reward: <registered name>, package,
    demonstrations, options, seed}.
    """
    from trainer.reward_service.program import check_server, load_config, serve

    if check:
        check_server(check, json)
        return
    serve(load_config(config, package, set_ or []), json)
