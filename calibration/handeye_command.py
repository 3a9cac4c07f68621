"""`robot-calibrate handeye`: a capture -> where the cameras are, how sure that is, a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calibration.record import Record
    from contracts.calibration import Calibration


def command(
    capture: Annotated[Path, typer.Argument(help="Folder of `robot-calibrate capture`.")],
    output: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The robot's hardware config: write the poses into it and into its calibration.json."
        ),
    ] = None,
    measure_size: Annotated[
        bool,
        typer.Option(help="The board's size is not known: take it from the arm's own movements."),
    ] = False,
    chain: Annotated[
        Path | None,
        typer.Option(help="Another chain of joints than the capture's: its poses are made anew."),
    ] = None,
    joint_zeros: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=20,
            help="How far the zeros of the arm's joints may be off (one deviation, deg): estimate them, too.",
        ),
    ] = None,
    chain_output: Annotated[
        Path | None,
        typer.Option(help="Write the chain with the zeros that were found there, for --chain."),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for a second interval.")] = 200,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with charts there, as HTML.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Where each camera is, on the hand or in the world. Exit code 0: pass or warn, 1: fail."""
    from dataclasses import replace

    import msgspec

    from calibration import chain as chains
    from calibration import measured, noted_joints, shots
    from calibration.handeye.result import assessed, text_of
    from calibration.pages import report_file
    from calibration.record import Record
    from contracts.files import atomic, outputs

    _require_zeros_apart(joint_zeros, config, chain_output)
    if output is not None:
        earlier = outputs.json_with("verdict", "cameras", "boards")
        outputs.require_file(output, "the result", earlier)
    page = report_file(report)
    taken = shots.read(capture)
    if chain is not None:
        taken = noted_joints.placed_by(taken, chains.read(chain), str(chain))
    record = None if config is None else Record(config)
    if record is not None:
        record.require_arm(taken.arm)
        for name in taken.cameras:
            record.require_camera(name)
        if chain is None:
            noted_joints.require_chain(taken, chains.configured(config) or chains.SO101)
        taken = measured.with_lenses(taken, record.now)
        measured.require_lenses(taken.cameras)
    _tell(taken.doubts)
    setup = shots.to_setup(capture, taken)
    if joint_zeros is not None:
        setup = replace(setup, arm=noted_joints.unknown_zeros(taken, joint_zeros))
    result, found = assessed(setup, size_known=not measure_size, bootstrap=bootstrap)
    if output is not None:
        atomic.write_bytes(output, msgspec.json.format(msgspec.json.encode(result), indent=1))
    if page is not None:
        from calibration.pages.handeye import page_of

        page.write(page_of(result, taken, setup, found))
    if chain_output is not None and setup.arm is not None:
        noted_joints.write_chain(chain_output, setup.arm.corrected(found.poses.zeros))
    typer.echo(msgspec.json.encode(result).decode() if json else text_of(result))
    if result.verdict.level == "fail":
        raise typer.Exit(1)
    if record is not None:
        keys = measured.pose_keys(result)
        if chain is not None:  # what the robot's own looks must place its hand by, too
            keys["calibration.chain"] = str(chain)
        now = measured.hand_eye(record.now, taken, result)
        again = [line for name in taken.cameras for line in _dropped(record, now, name)]
        typer.echo("\n".join([record.said(record.put(lambda _: now, keys)), *again]), err=json)


def _dropped(record: Record, now: Calibration, name: str) -> list[str]:
    from calibration import measured

    return measured.dropped(record.now, now, name, record.cameras[name])[1]


def _tell(doubts: list[str]) -> None:
    for line in doubts:
        typer.echo(line, err=True)


def _require_zeros_apart(
    joint_zeros: float | None, config: Path | None, chain_output: Path | None
) -> None:
    """Raise `ConfigError` where a robot would be told of a place under zeros that it does not have."""
    from contracts.errors import ConfigError
    from contracts.files import outputs

    if joint_zeros is not None and config is not None:
        raise ConfigError(
            "the robot reads its joints by their old zeros: a camera's place under others is none of its own",
            remedy="give --chain-output in place of --config, then this again with that --chain and --config",
        )
    if chain_output is not None:
        if joint_zeros is None:
            raise ConfigError("--chain-output", expected="--joint-zeros with it", found="no zeros")
        outputs.require_file(chain_output, "the chain", outputs.json_with("joints", "hand"))
