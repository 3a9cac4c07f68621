"""The verb `robot-trainer enroll`: waits for one robot, a person compares a code on both ends."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Annotated

import typer

from contracts.errors import ConfigError
from contracts.files import question
from contracts.files.keys import MAX_NAME, KeyStore, check_name, expiry
from contracts.files.lock import locked
from contracts.sockets import Pass, is_local
from contracts.sockets.curve import checked
from contracts.sockets.enrolling import enrol_robot
from trainer.config import load_config
from trainer.door import KEYS_FOLDER
from trainer.server_key import LOCK_FILE
from trainer.signing import SigningKey

RunDirOption = Annotated[Path, typer.Option("--run-dir", help="the trainer's folder")]
NameOption = Annotated[
    str, typer.Option(help="what robots call this trainer; default: this machine's name")
]


def own_name() -> str:
    """Of this trainer where nobody gave it one: two trainers must not have the same."""
    return check_name(socket.gethostname()[:MAX_NAME])


def command(
    run_dir: RunDirOption,
    config: Annotated[Path | None, typer.Option(help="YAML file; hw_configs/trainer.yaml.")] = None,
    listen: Annotated[
        str, typer.Option(help="tcp://<interface or address>:<port>; default: listen.enroll")
    ] = "",
    name: NameOption = "",
    days: Annotated[float, typer.Option(help="the robot's key is good for so long; 0: ever")] = 365,
    patience_s: Annotated[float, typer.Option(help="how long to wait for people")] = 300.0,
    yes_code: Annotated[
        str, typer.Option(help="answer an enroll that waits in another terminal: the code there")
    ] = "",
) -> None:
    """Let one robot in: run `robot-run enroll` on it while this waits, compare the codes, say yes on both. A
    running daemon that has keys takes it in at once."""
    folder = run_dir / KEYS_FOLDER
    if yes_code:
        if not question.answer(folder, yes_code.replace(" ", "")):
            raise ConfigError(
                "the codes differ: refused",
                remedy="somebody is in between: use another network, and enroll again",
            )
        typer.echo("the codes are the same; the command that waits goes on")
        return
    address = listen or load_config(config).listen.enroll
    store = KeyStore(folder)
    mine = store.own(make=True)
    signing = SigningKey(run_dir / "releases").public

    def decide(code: str, robot_id: str) -> bool:
        typer.echo(
            f"robot {check_name(robot_id)!r}: code {code[:3]} {code[3:]}\n"
            f"{_in_whose_place(store, robot_id)}does the robot show the same code? [y/N] ",
            nl=False,
        )
        return question.ask(folder, code, patience_s)

    ask = enrol_robot(
        address,
        check_name(name or own_name()),
        mine.public,
        signing,
        decide,
        patience_s=patience_s,
        listening=_invite,
    )
    now_s = time.time()
    new = Pass(
        name=ask.robot_id,
        key=checked(ask.key),
        enrolled_unix_s=now_s,
        expires_unix_s=expiry(days, now_s),
        holds=mine.public,
    )
    with locked(folder / LOCK_FILE):  # the one of `keys adopt-curve`
        if store.own().public != mine.public:
            raise ConfigError(
                f"{ask.robot_id} was told a CURVE key that is this trainer's no more",
                expected="the one that this command began with",
                found="another, by keys adopt-curve",
                remedy="enroll again",
            )
        store.add(new)
    typer.echo(f"{ask.robot_id} is enrolled; keys are in {folder}")


def _invite(address: str) -> None:
    """What a person is to say on the robot."""
    typer.echo(f"waiting for a robot: robot-run enroll --run-dir DIR {address}", err=True)
    if is_local(address):
        typer.echo(
            "only this machine reaches that; for a robot elsewhere: --listen tcp://<interface>:<port>",
            err=True,
        )


def _in_whose_place(store: KeyStore, robot_id: str) -> str:
    """What a yes would end, as a line: two robots that were given the same id would turn each other out."""
    now_s = time.time()
    if not any(one.name == robot_id and not one.problem(now_s) for one in store.passes()):
        return ""
    return (
        f"a robot {robot_id!r} is let in already, and a yes ends its key: if this is another one, say no and "
        "give it an id of its own (robot.id)\n"
    )
