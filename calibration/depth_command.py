"""`robot-calibrate depth`: do a camera's depths lie where its colour picture sees the board?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calibration.depth import Taken
    from calibration.record import Record
    from calibration.shots import ShotCamera
    from contracts.calibration import Calibration

_PATIENCE_S = 10.0
"""For a live camera's next picture."""


def command(
    camera: Annotated[str, typer.Option(help="Which camera.")],
    capture: Annotated[
        Path | None,
        typer.Argument(help="Folder of `robot-calibrate capture`; without one: the live camera."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The robot's hardware config, into whose calibration it is written."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key for this run only (repeat).")
    ] = None,
    board: Annotated[
        Path | None, typer.Option(help="board.json of robot-calibrate board, for a live camera.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, max=200, help="Of a live camera.")] = 10,
    output: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit a plane to the depths on the board and compare it with the board's pose. Moves nothing.

    Exit code 0: pass or warn, 1: fail. With --config the result becomes part of calibration.json."""
    import msgspec

    from calibration import depth, measured
    from calibration.record import Record
    from contracts.errors import ConfigError
    from contracts.files import atomic, outputs

    if output is not None:
        earlier = outputs.json_with("level", "pictures", "scale")
        outputs.require_file(output, "the result", earlier)
    if (capture is None) == (board is None):
        raise ConfigError(
            "whose depths to check",
            expected="a capture, or --board for the live camera",
            found="neither" if board is None else "both",
        )
    record = None if config is None else Record(config)
    if record is not None:
        record.require_camera(camera)
    known = None if record is None else record.now
    if board is None:
        assert capture is not None
        shot_camera, taken = _stored(capture, camera, record)
    else:
        shot_camera, taken = _live(board, camera, config, set_ or [], pictures, known)
    if record is not None:
        measured.require_lenses({camera: shot_camera})
    found = depth.check(shot_camera, taken)
    if output is not None:
        atomic.write_bytes(output, msgspec.json.format(msgspec.json.encode(found), indent=1))
    typer.echo(msgspec.json.encode(found).decode() if json else depth.text_of(found, camera))
    if found.level == "fail":
        raise typer.Exit(1)
    if record is not None:
        now = measured.depth(record.now, camera, shot_camera, found)
        section = record.cameras[camera]
        keys, again = measured.dropped(record.now, now, camera, section)
        typer.echo("\n".join([record.said(record.put(lambda _: now, keys)), *again]), err=json)


def _stored(folder: Path, name: str, record: Record | None) -> tuple[ShotCamera, list[Taken]]:
    """Of a capture, with the lens that was calibrated since."""
    from calibration import depth, measured, shots

    taken = shots.read(folder)
    if record is not None:
        record.require_arm(taken.arm)
    pictures = list(depth.of_capture(folder, taken, name))
    camera = taken.cameras[name]
    if record is not None:
        camera = measured.with_lens(record.now, name, camera)
    if camera.lens_doubt:
        typer.echo(camera.lens_doubt, err=True)
    return camera, pictures


def _live(
    board_file: Path,
    name: str,
    config: Path | None,
    set_: list[str],
    count: int,
    known: Calibration | None,
) -> tuple[ShotCamera, list[Taken]]:
    """So many pictures, one after the other; the arm is left alone."""
    from calibration.capture import devices, factory
    from calibration.record import Record
    from contracts.errors import ConfigError
    from runtime.arms.session import Session

    board = devices.read_board(board_file)
    attached = None if config is None else factory.attached(Record(config).cameras)
    with Session.of(config, set_) as session:
        specs = devices.chosen(session.cameras, [name])
        if not specs[name].depth:
            raise ConfigError(
                f"camera '{name}' has no depth", remedy=f"set cameras.{name}.depth: true"
            )
        cameras, said = devices.shot_cameras(specs, "world", board, known, attached)
        for line in said:
            typer.echo(line, err=True)
        taken: list[Taken] = []
        last, give_up_s = 0, session.now_s() + _PATIENCE_S
        while len(taken) < count:
            session.pause()
            frame = session.cameras[name].newest(session.now_s())
            if frame is not None and frame.number > last and frame.depth is not None:
                last, give_up_s = frame.number, session.now_s() + _PATIENCE_S
                taken.append((f"{len(taken):03d}", frame.rgb, frame.depth))
            elif session.now_s() > give_up_s:
                raise ConfigError(
                    f"camera '{name}' gives no more pictures with depth",
                    found=f"{len(taken)} in time",
                    remedy="see that it is connected, and robot-run doctor",
                )
    return cameras[name], taken
