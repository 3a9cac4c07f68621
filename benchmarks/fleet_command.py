"""`robot-bench fleet`: arguments and what is printed."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

PRETRAINED = Path(__file__).resolve().parent.parent / "pretrained"
RECORDED = 3
"""Episodes that are recorded where none are given."""
LEAVE_S = 30.0
"""For a recording that is interrupted, to end what it has started."""


def command(
    package: Annotated[Path, typer.Option(help="policy package")] = PRETRAINED
    / "policy-open_drawer",
    recorded: Annotated[
        Path | None,
        typer.Option(help="data set of episodes to replay (default: recorded first, on the bench)"),
    ] = None,
    robots: Annotated[int, typer.Option(help="beside one", min=2)] = 4,
    rounds: Annotated[int, typer.Option(help="turns of each", min=1)] = 1,
    seconds: Annotated[float, typer.Option(help="of a turn, at least", min=1.0)] = 30.0,
    versions: Annotated[
        int, typer.Option(help="releases that every robot acts by, at least", min=0)
    ] = 1,
    rate_hz: Annotated[
        float,
        typer.Option("--rate-hz", help="steps a second of each; 0: as fast as it goes", min=0),
    ] = 0.0,
    refiner: Annotated[str, typer.Option(help="what refines meanwhile; empty: nobody")] = "bestofn",
    set_: Annotated[list[str] | None, typer.Option("--set", help="override of the trainer")] = None,
    output: Annotated[Path | None, typer.Option(help="file for the JSON too")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Several robots against one trainer, and one alone: who gets how much, whose weights, steps/s stored."""
    import msgspec

    from benchmarks.fleet import measure, table
    from contracts.files import atomic, outputs

    if output:
        outputs.require_file(output, "the figures", outputs.json_with("machine", "turns", "ratio"))

    def say(line: str) -> None:
        typer.echo(line, err=True)

    with tempfile.TemporaryDirectory(prefix="entracte-bench-") as folder:
        if recorded is None:
            recorded = Path(folder) / "recorded"
            say(f"recording {RECORDED} episodes")
            _record(package, recorded, Path(folder))
        found = measure(
            package,
            recorded,
            robots=(1, robots),
            rounds=rounds,
            seconds=seconds,
            versions=versions,
            rate_hz=rate_hz,
            refiner=refiner,
            settings=set_ or [],
            say=say,
        )
    data = msgspec.json.encode(found)
    if output:
        atomic.write_bytes(output, msgspec.json.format(data, indent=1))
    typer.echo(data.decode() if as_json else table(found))


def _record(package: Path, output: Path, folder: Path) -> None:
    """By the bench's robot, as it acts. Raises `EntracteError`."""
    from contracts.errors import EntracteError
    from runtime.processes.program import Program

    command = [
        *(sys.executable, "-m", "runtime.app", "eval", "--package", str(package.resolve())),
        *("--episodes", str(RECORDED), "--record", str(output)),
        *("--run-dir", str(folder / "run"), "--output", str(folder / "truth.jsonl")),
    ]
    program = Program.start("eval", command, folder)
    try:
        program.process.wait()
    finally:
        program.stop(signal.SIGINT, LEAVE_S)  # Ctrl-C: the bench and its robot are other processes
    if program.code:
        said = program.tail()
        raise EntracteError("no episode was recorded", found=said[-1] if said else program.code)
