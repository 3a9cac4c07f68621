"""`robot-run slots`: lists the releases on this robot's disk; a person pins one, or rolls one back.

Writes what the slots say; a robot that runs follows at the next episode boundary, another one at its start.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.errors import EntracteError
from runtime.board import Board
from runtime.config import RobotConfig
from runtime.run import Run
from runtime.weights.probation import evidence
from runtime.weights.slots import TARGETS, SlotStore, TargetState, opened

RunDirOption = Annotated[Path, typer.Option("--run-dir", help="run folder of the robot")]
TargetOption = Annotated[str, typer.Option("--target", help="policy or reward")]
JsonOption = Annotated[bool, typer.Option("--json", help="print the slots as JSON")]
Release = Annotated[int, typer.Argument(help="publish_seq; 0: the package's own weights")]

slots = typer.Typer(
    no_args_is_help=True, help="List, pin and roll back the releases on this robot."
)


def register(app: typer.Typer) -> None:
    app.add_typer(slots, name="slots")


@slots.command(name="list")
def list_(run_dir: RunDirOption, as_json: JsonOption = False) -> None:
    """What each slot holds, what acts, and how it does."""
    found = {target: store.state() for target, store in opened(run_dir).items()}
    if not found:
        raise EntracteError(
            f"no slots in {run_dir}", remedy="name the --run-dir of a robot-run start"
        )
    if as_json:
        typer.echo(json.dumps({target: _plain(state) for target, state in found.items()}))
        return
    config = _config(run_dir)
    for target, state in found.items():
        for line in _lines(target, state, config):
            typer.echo(line)


@slots.command()
def pin(release: Release, run_dir: RunDirOption, target: TargetOption = "policy") -> None:
    """Fix what acts: a release that acted here before. Newer ones are fetched, but none takes effect."""
    _say(target, SlotStore.open(_folder(run_dir, target)).pin(release), run_dir)


@slots.command()
def unpin(run_dir: RunDirOption, target: TargetOption = "policy") -> None:
    """Let newer releases take effect again."""
    _say(target, SlotStore.open(_folder(run_dir, target)).unpin(), run_dir)


@slots.command()
def rollback(
    run_dir: RunDirOption,
    to: Annotated[
        int | None, typer.Option("--to", help="release to go back to; 0: the package's own weights")
    ] = None,
    target: TargetOption = "policy",
) -> None:
    """Take back what acts: its contents are not taken again, whatever number they come under."""
    _say(target, SlotStore.open(_folder(run_dir, target)).take_back(to), run_dir)


def _folder(run_dir: Path, target: str) -> Path:
    if target not in TARGETS:
        raise EntracteError("no such target", expected=TARGETS, found=target)
    return run_dir / "slots" / target


def _config(run_dir: Path) -> RobotConfig:
    """That of the run; the defaults where its folder has none."""
    return Run.load(run_dir).config if (run_dir / "config.json").exists() else RobotConfig()


def _acting(state: TargetState) -> int:
    return state.in_force[1].publish_seq if state.in_force else 0


def _named(seq: int) -> str:
    return f"release {seq}" if seq else "the package's own weights"


def _say(target: str, state: TargetState, run_dir: Path) -> None:
    pinned = ", pinned" if state.pinned else ""
    when = "from the next episode boundary on" if _runs(run_dir) else "at the next start"
    typer.echo(f"{target}: {_named(_acting(state))}{pinned}, {when}")


def _runs(run_dir: Path) -> bool:
    try:
        Board.open(Run.load(run_dir).board_path).close()
    except EntracteError:
        return False
    return True


def _plain(state: TargetState) -> dict[str, Any]:
    return {
        "package_id": state.package_id,
        "in_force": _acting(state),
        "pinned": state.pinned,
        "newest_seq": state.newest_seq,
        "own": {"successes": state.own.successes, "failures": state.own.failures},
        "slots": {
            name: {
                "state": slot.state,
                "release": slot.publish_seq,
                "successes": slot.tally.successes,
                "failures": slot.tally.failures,
                "unjudged": slot.tally.unjudged,
                "attempts": slot.attempts,
                "reason": slot.reason,
            }
            for name, slot in state.slots.items()
        },
    }


def _lines(target: str, state: TargetState, config: RobotConfig) -> list[str]:
    pinned = ", pinned by a person" if state.pinned else ""
    lines = [
        f"{target} of package {state.package_id}: {_named(_acting(state))} in force{pinned}; "
        f"newest release seen {state.newest_seq}",
        f"  -  package's own    {state.own} episodes succeeded",
    ]
    for name, slot in state.slots.items():
        if slot.state == "idle":
            lines.append(f"  {name}  idle")
            continue
        said = f"{slot.tally} episodes succeeded" if slot.served else ""
        if slot.state == "probation":
            rules = config.probation
            found = evidence(state.reference, slot.tally, rules)
            said += f"; evidence that it is worse {found:+.2f} ({rules.lower:.2f} commits it, "
            said += f"{rules.upper:.2f} takes it back)"
        if slot.reason:
            said += f"{'; ' if said else ''}{slot.reason}"
        lines.append(f"  {name}  {slot.state:<12} {slot.publish_seq:>5}  {said}".rstrip())
    return lines
