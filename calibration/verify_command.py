"""`robot-calibrate verify`: how far a tool would miss, by pictures that the calibration was not made of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calibration.record import Record
    from calibration.verify import Check, Touches
    from runtime.arms.session import Session


def command(
    config: Annotated[Path, typer.Option(help="The robot's hardware config.")],
    capture: Annotated[
        Path | None,
        typer.Argument(help="Another capture than the calibration's; without one: live cameras."),
    ] = None,
    drift: Annotated[
        bool,
        typer.Option(
            "--drift",
            help="The board is where it was at the hand-eye calibration: did anything move?",
        ),
    ] = False,
    touches: Annotated[
        Path | None,
        typer.Option(
            help="touches.json: poses with the tip on corners; with --touch where they are kept."
        ),
    ] = None,
    touch: Annotated[
        list[int] | None,
        typer.Option(
            min=0, help="Live: a corner that the tip is brought onto by hand now (repeat)."
        ),
    ] = None,
    tip_mm: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Of --touch: the tip in the hand's frame, x y z."),
    ] = None,
    limit_mm: Annotated[
        float | None, typer.Option(min=0.01, help="Fail above it, warn above half; default 5.")
    ] = None,
    limit_px: Annotated[
        float | None,
        typer.Option(min=0.01, help="The same of --drift, in the picture; default 8."),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(help="Live: which must see its board (repeat); default: one of all."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Live: override a key for this run only (repeat)."),
    ] = None,
    chain: Annotated[
        Path | None,
        typer.Option(
            help="Live: the arm's kinematics; default: calibration.chain; an SO-101's are known."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Exit code 0: pass or warn, 1: fail. Changes nothing: the calibration and its id stay. Commands no
    motion."""
    import msgspec

    from calibration import shots
    from calibration.record import Record
    from calibration.verify import LIMIT_MM, LIMIT_PX, read_touches, text_of, verify
    from contracts.errors import ConfigError
    from contracts.files import outputs

    if touch and touches is not None:
        outputs.require_file(touches, "the touches", outputs.json_with("tip_m", "touches"))
    mm, px = limit_mm or LIMIT_MM, limit_px or LIMIT_PX
    if capture is None:
        if not drift or touches is not None or touch:
            raise ConfigError(
                "what to verify by",
                expected="a capture, or --drift alone for the live cameras",
                found="touches without a capture" if touches or touch else "neither",
            )
        check = _live(Record(config), camera or [], set_ or [], chain, mm, px)
    else:
        live = {"--camera": camera, "--set": set_, "--chain": chain}
        given = [option for option, value in live.items() if value and not touch]
        if given:
            raise ConfigError(
                "a capture knows its cameras and poses, and asks no robot",
                remedy=f"leave out {', '.join(given)}",
            )
        record, found = Record(config), None
        record.require_arm(shots.read(capture).arm)
        if touch:
            found = _touched(record, capture, touch, tip_mm, touches, set_ or [], chain)
        elif touches is not None:
            found = read_touches(touches)
        check = verify(
            record.now,
            capture,
            drift=drift,
            touches=found,
            limit_mm=mm,
            limit_px=px,
        )
    typer.echo(msgspec.json.encode(check).decode() if json else text_of(check))
    if check.level == "fail":
        raise typer.Exit(1)


def _touched(
    record: Record,
    capture: Path,
    corners: list[int],
    tip_mm: tuple[float, float, float] | None,
    kept: Path | None,
    overrides: list[str],
    chain: Path | None,
) -> Touches:
    """Noted now, from an arm that a person moves; into `kept`, where that is asked for."""
    import msgspec

    from calibration import shots
    from calibration.chain import chain_of, configured
    from calibration.touching import touched
    from calibration.verify import known_place, require_on_hand
    from contracts.errors import ConfigError
    from contracts.files import atomic
    from runtime.arms.session import Session

    if tip_mm is None:
        raise ConfigError(
            "where the tip is", expected="--tip-mm X Y Z, in the hand's frame", found="not given"
        )
    cameras = shots.read(capture).cameras
    fewest = min((len(one.board.points()) for one in cameras.values()), default=0)
    if wrong := [one for one in corners if one >= fewest]:
        raise ConfigError(
            "the board has no such corner", expected=f"0 to {fewest - 1}", found=wrong
        )
    names = list(cameras)
    for name in names:  # before a person has brought the tip anywhere
        record.require_camera(name)
        require_on_hand(known_place(record.now, cameras[name], name))
    x, y, z = (value / 1e3 for value in tip_mm)
    path = chain or configured(record.config, overrides)
    devices = Session.of(record.config, overrides, names)
    _say_power(devices)
    with devices as session:
        known = chain_of(session.action, path)
        found = touched(session, known, corners, (x, y, z), lambda text: typer.echo(text, err=True))
    if kept is not None:
        atomic.write_bytes(kept, msgspec.json.format(msgspec.json.encode(found), indent=1))
    return found


def _live(
    record: Record,
    wanted: list[str],
    overrides: list[str],
    chain: Path | None,
    limit_mm: float,
    limit_px: float,
) -> Check:
    """Whether anything moved, by the cameras as they are now."""
    from calibration.chain import chain_of, configured
    from calibration.drift import asked, drifted, sizes
    from runtime.arms.session import Session

    for name in wanted:
        record.require_camera(name)
    names = asked(record.now, record.cameras, wanted)
    as_calibrated = sizes(record.now, names)
    path = chain or configured(record.config, overrides)
    devices = Session.of(record.config, [*as_calibrated, *overrides], names)
    _say_power(devices)
    with devices as session:
        known = chain_of(session.action, path)
        return drifted(
            session,
            record.now,
            known,
            names,
            each=bool(wanted),
            limit_mm=limit_mm,
            limit_px=limit_px,
        )


def _say_power(devices: Session) -> None:
    if devices.powers_by_opening:
        typer.echo(
            "robot-calibrate: connecting to this arm switches its motors' power: it may sink for a moment",
            err=True,
        )
