"""`robot-bench link`: arguments and what is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def command(
    seconds: Annotated[float, typer.Option(help="of the steady stream, 0 for none", min=0)] = 30.0,
    episode_s: Annotated[float, typer.Option(help="length of an episode", min=1.0)] = 10.0,
    soak: Annotated[str, typer.Option(help="instead, a stream so long ('30m'): memory slope")] = "",
    peers: Annotated[bool, typer.Option(help="the fastest possible beside pyzmq and gRPC")] = True,
    rounds: Annotated[int, typer.Option(help="of the peers, in turns", min=1)] = 3,
    plain: Annotated[bool, typer.Option("--plain", help="the stream without CURVE")] = False,
    lerobot: Annotated[str, typer.Option(help="a Python that has LeRobot and grpcio")] = "",
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Two RGB-D cameras through ring, link and trainer: ages, drops, CPU, memory; and peers beside. Exit code
    1 where a verdict is missed."""
    import msgspec

    from benchmarks.link import measure, table
    from contracts.files import atomic, outputs

    if output:
        earlier = outputs.json_with("machine", "steady", "lanes")
        outputs.require_file(output, "the figures", earlier)
    found = measure(
        seconds=seconds,
        episode_s=episode_s,
        soak_s=seconds_of(soak) if soak else 0.0,
        peers=peers,
        rounds=rounds,
        encrypted=not plain,
        lerobot=lerobot,
        say=lambda line: typer.echo(line, err=True),
    )
    data = msgspec.json.encode(found)
    if output:
        atomic.write_bytes(output, msgspec.json.format(data, indent=1))
    typer.echo(data.decode() if as_json else table(found))
    raise typer.Exit(0 if all(verdict.met for verdict in found.verdicts) else 1)


def seconds_of(text: str) -> float:
    """ "90", "90s", "30m" or "2h". Raises `ConfigError`."""
    from contracts.errors import ConfigError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise ConfigError("a time", expected="as 90s, 30m or 2h", found=repr(text))
    return float(match[1]) * {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]
