"""The verb `robot-run enroll`: robot and trainer exchange keys, a person compares a code on both ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from contracts import enrolment
from contracts.errors import ConfigError
from contracts.files import question
from contracts.files.keys import KeyStore, check_name, expiry
from contracts.key_rotation import public_key
from contracts.sockets import Pass
from contracts.sockets.curve import checked
from contracts.sockets.enrolling import enrol_with_trainer
from runtime.config import RobotConfig, load_config
from runtime.link.keys import LinkKeys

RunDirOption = Annotated[Path, typer.Option("--run-dir", help="the robot's run folder")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="hardware config; default: the embedded bench")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="override a key: --set robot.id=arm-2 (repeat)")
]


def register(app: typer.Typer) -> None:
    """Add the verb to `robot-run`."""
    app.command(name="enroll")(enroll)


def enroll(
    run_dir: RunDirOption,
    address: Annotated[
        str, typer.Argument(help="tcp://<trainer>:<port>, as robot-trainer enroll says it")
    ] = "",
    config: ConfigOption = None,
    set_: SetOption = None,
    days: Annotated[float, typer.Option(help="the trainer's key is good for so long; 0: ever")] = 0,
    patience_s: Annotated[float, typer.Option(help="how long to wait for people")] = 300.0,
    yes_code: Annotated[
        str, typer.Option(help="answer an enroll that waits in another terminal: the code there")
    ] = "",
) -> None:
    """Exchange keys with a trainer whose `robot-trainer enroll` waits. Nothing is copied by hand."""
    resolved = load_config(config, set_ or [])
    folder = run_dir / resolved.link.keys
    if yes_code:
        confirm(folder, yes_code)
        return
    if not address:
        raise ConfigError(
            "no address", expected="robot-run enroll tcp://<trainer>:<port> --run-dir DIR"
        )
    said = _exchange(resolved, run_dir, address, patience_s)
    for line in keep(resolved, run_dir, said, time.time(), days):
        typer.echo(line)
    typer.echo(f"enrolled with {said.trainer_id}; keys are in {folder}")


def confirm(folder: Path, code: str) -> None:
    """Answer for the command that waits. Raises `ConfigError` if the codes differ."""
    if not question.answer(folder, code.replace(" ", "")):
        raise ConfigError(
            "the codes differ: refused",
            remedy="somebody is in between: use another network, and enroll again",
        )
    typer.echo("the codes are the same; the command that waits goes on")


def keep(
    config: RobotConfig, run_dir: Path, said: enrolment.Commitment, now_unix_s: float, days: float
) -> list[str]:
    """What a person has confirmed, on disk: the trainer's pass and its signing key. Returns what ended by
    that, in words."""
    keys = LinkKeys(config.link, run_dir)
    known = {(one.key, one.signing_key): one for one in keys.store.passes()}
    same = known.get((said.key, said.signing_key))
    before = {one.name: one.key for one in keys.store.passes() if not one.revoked_unix_s}
    keys.store.add(
        Pass(
            name=said.trainer_id,
            key=said.key,
            enrolled_unix_s=now_unix_s,
            expires_unix_s=expiry(days, now_unix_s),
            signing_key=said.signing_key,
            # The same trainer once more: what it announced holds, and nothing older does.
            next_key=same.next_key if same else "",
            next_number=same.next_number if same else 0,
        )
    )
    dropped = keys.pin(said.signing_key)
    ended = []
    if before.get(said.trainer_id, said.key) != said.key:
        ended.append(f"this is another '{said.trainer_id}' than before, whose key ends with this")
    if dropped:
        ended.append(f"releases by another key that waited: {dropped}; they never act")
    return ended


def _exchange(
    config: RobotConfig, run_dir: Path, address: str, patience_s: float
) -> enrolment.Commitment:
    folder = run_dir / config.link.keys
    mine = KeyStore(folder).own(make=True)
    ask = enrolment.Ask(enrolment.PROTOCOL, check_name(config.robot.id), mine.public)

    def decide(code: str, trainer_id: str) -> bool:
        typer.echo(
            f"trainer {check_name(trainer_id)!r} at {address}: code {code[:3]} {code[3:]}\n"
            "does the trainer show the same code? [y/N] ",
            nl=False,
        )
        return question.ask(folder, code, patience_s)

    typer.echo(f"asking for robot-trainer enroll at {address}", err=True)
    said = enrol_with_trainer(address, ask, decide, patience_s=patience_s)
    try:
        checked(said.key)
        public_key(said.signing_key)
    except ValueError as error:
        raise enrolment.EnrolmentFailed("the trainer's keys are none", found=str(error)) from error
    return said
