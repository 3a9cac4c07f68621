"""`robot-calibrate capture`: a robot, or a capture on disk -> a capture of stands that are worth it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from calibration.boards import Board
    from calibration.capture.live import Voice
    from calibration.capture.taking import Capture
    from contracts.calibration import Mount

_REACH, _SPEED = 30.0, 15.0
"""`--reach` and `--speed` where they are not given."""


def command(
    output: Annotated[Path, typer.Option(help="Folder for the capture: a new or an empty one.")],
    again: Annotated[
        Path | None, typer.Option(help="Judge this capture anew, in place of a robot.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The robot's hardware config; default: the bench.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key for this run only (repeat).")
    ] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Which camera (repeat).")] = None,
    mount: Annotated[
        Literal["hand", "world"] | None,
        typer.Option(
            help="hand: on the hand, the board stands. world: beside the arm, the board is on the hand."
        ),
    ] = None,
    board: Annotated[Path | None, typer.Option(help="board.json of robot-calibrate board.")] = None,
    stands: Annotated[int, typer.Option(min=1, max=500, help="How many to take.")] = 20,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="The arm moves itself: clear the space around it first."),
    ] = False,
    reach: Annotated[
        float | None,
        typer.Option(
            min=2, max=90, help="How far from its start a joint is sent (its units); default 30."
        ),
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=1, max=60, help="Units a second at which the arm moves; default 15."),
    ] = None,
    lens: Annotated[
        bool,
        typer.Option(
            "--lens", help="For robot-calibrate intrinsics only: the board may be moved about."
        ),
    ] = False,
    chain: Annotated[
        Path | None,
        typer.Option(
            help="The arm's kinematics in YAML; default: calibration.chain; an SO-101's are known."
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Show it in a browser, too, on this machine.")
    ] = False,
    page_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of --page; 0: any that is free.")
    ] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take stands of the arm with pictures of a board, for intrinsics, handeye, depth and verify.

    Exit code 0: as many as were asked for, and enough of them; 1: not so, and it says what is missing."""
    import msgspec

    from calibration.capture.live import Voice
    from calibration.capture.progress import lacks, progress, text_of
    from calibration.capture.taking import Left
    from contracts.errors import ConfigError
    from contracts.files import outputs

    # Not even an earlier capture: it would be lost with the first stand of this one, or pass for this one.
    outputs.require_folder(output, "a capture")
    voice = Voice(quiet=json)
    if again is not None:
        robots = {
            "--auto": auto,
            "--camera": camera,
            "--mount": mount,
            "--board": board,
            "--config": config,
            "--set": set_,
            "--chain": chain,
            "--reach": reach,
            "--speed": speed,
            "--page": page or page_port,
        }
        given = [option for option, value in robots.items() if value not in (None, False, [], 0)]
        if given:
            raise ConfigError(
                "--again takes poses, cameras, mount and board from the capture, and asks no robot",
                remedy=f"leave out {', '.join(given)}",
            )
        capture = _again(again, output, lens, voice)
        stands = min(stands, max(1, len(capture.samples)))
    elif not camera or mount is None or board is None or (auto and lens):
        raise ConfigError(
            "what to capture",
            expected="--camera, --mount and --board, and --auto without --lens",
            remedy="as in: --camera wrist --mount hand --board board/board.json",
        )
    else:
        fast, far = speed or _SPEED, reach or _REACH
        port = page_port if page or page_port else None
        wanted = Wanted(camera, mount, board, stands, fast if auto else 0.0, far, chain, lens, port)
        capture = _live(output, config, set_ or [], wanted, voice)
    state = progress(capture)
    missing = [] if lens else lacks(state)
    if len(capture.samples) < stands:
        missing.append(f"{len(capture.samples)} stands of the {stands} that were wanted")
    left = Left(
        folder=str(output),
        stands=len(capture.samples),
        rejected=dict(capture.rejections),
        missing=tuple(missing),
        coverage={name: one.covered for name, one in state.cameras.items()},
        doubts=tuple(one.lens_doubt for one in capture.cameras.values() if one.lens_doubt),
    )
    if json:
        typer.echo(msgspec.json.encode(left).decode())
    else:
        said = [f"{output}: {left.stands} stands", text_of(state, left.rejected)]
        typer.echo("\n".join([*said, *(f"  missing: {one}" for one in missing)]))
    if missing:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Wanted:
    """What a robot is asked for; `speed` 0: a person moves the arm. `page_port`: None for no page."""

    cameras: list[str]
    mount: Mount
    board: Path
    stands: int
    speed: float
    reach: float
    chain: Path | None
    lens: bool
    page_port: int | None


def _again(source: Path, output: Path, lens: bool, voice: Voice) -> Capture:
    """A capture that is on disk, judged anew."""
    from calibration import shots
    from calibration.capture.taking import Capture, again
    from contracts.errors import ConfigError

    taken = shots.read(source)
    if source.resolve() == output.resolve():
        raise ConfigError("a capture is not judged into itself", remedy="name another --output")
    if lens:
        _require_board([camera.board for camera in taken.cameras.values()])
    capture = Capture(
        output, taken.cameras, taken.arm, lens, joints=taken.joints, chain=taken.chain
    )
    for line in taken.doubts:
        voice.say(line)
    for line in again(source, taken, capture):
        voice.say(f"  not taken: {line}")
    return capture


def _require_board(boards: Sequence[Board]) -> None:
    """Raise `ConfigError` for what tells `intrinsics` nothing: four corners fit any lens."""
    from contracts.errors import ConfigError

    if boards and all(board.kind == "marker" for board in boards):
        raise ConfigError(
            "a lens can't be calibrated with a single marker",
            expected="a board of many corners",
            remedy="print one: robot-calibrate board, without --kind marker",
        )


def _live(
    output: Path, config: Path | None, set_: list[str], wanted: Wanted, voice: Voice
) -> Capture:
    """From a robot; what was taken before a person stops it is kept."""
    from calibration.capture import devices, factory
    from calibration.capture.live import Live
    from calibration.capture.taking import Capture
    from calibration.chain import Chain, chain_of, configured
    from calibration.record import Record
    from runtime.arms.session import Session, Stopped

    board = devices.read_board(wanted.board)
    if wanted.lens:
        _require_board([board])
    path = wanted.chain or configured(config, set_)
    record = None if config is None else Record(config)
    known = None if record is None else record.now
    attached = None if record is None else factory.attached(record.cameras)
    with _page(wanted, output, voice), Session.of(config, set_) as session:
        specs = devices.chosen(session.cameras, wanted.cameras)
        chain = Chain(joints=()) if wanted.lens else chain_of(session.action, path)
        cameras, said = devices.shot_cameras(
            specs, wanted.mount, board, known, attached, anew=wanted.lens
        )
        for line in said:
            voice.say(line)
        capture = Capture(output, cameras, known.arm if known else "sim", wanted.lens)
        if chain.joints:
            capture.joints, capture.chain = session.action.names, chain
        live = Live(session, capture, chain, wanted.stands, voice, wanted.reach)
        try:
            if wanted.speed:
                live.automatic(wanted.speed)
            else:
                live.by_hand()
        except Stopped:
            stays = ", the arm stays where it is" if wanted.speed else ""
            voice.say(f"stopped after {len(capture.samples)} stands{stays}")
    return capture


@contextlib.contextmanager
def _page(wanted: Wanted, output: Path, voice: Voice) -> Iterator[None]:
    """Where it is wanted: before the devices are opened, so that what can't be served fails first."""
    if wanted.page_port is None:
        yield
        return
    from calibration.capture.web import served

    about = {
        "title": f"{output}: {wanted.stands} stands {'by itself' if wanted.speed else 'by hand'}",
        "cameras": wanted.cameras,
        "stands": wanted.stands,
        "lens_only": wanted.lens,
    }
    with served(voice.shown, about, wanted.page_port) as url:
        typer.echo(f"the capture's page: {url}", err=True)
        yield
