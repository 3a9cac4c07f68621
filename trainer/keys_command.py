"""The verbs `robot-trainer keys list|revoke|rotate|replace|rotate-curve|adopt-curve`: which robots are let
in, the key that signs releases, and the CURVE key that robots know this trainer by."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from contracts.errors import ConfigError
from contracts.files.keys import KeyStore, day, described, fingerprint
from contracts.key_rotation import MAX_CHAIN
from trainer import signing
from trainer.door import KEYS_FOLDER
from trainer.enroll_command import NameOption, RunDirOption, own_name
from trainer.server_key import ServerKey
from trainer.signing import SigningKey, read_public

app = typer.Typer(
    no_args_is_help=True,
    help="Robots that are let in: list, revoke; the key that signs releases: rotate, replace; the key that "
    "robots know this trainer by: rotate-curve, adopt-curve.",
)


@app.command(name="list")
def list_(run_dir: RunDirOption) -> None:
    """This trainer's keys and its robots. Secrets are never shown."""
    store, now_s = KeyStore(run_dir / KEYS_FOLDER), time.time()
    for line in described(store, now_s):
        typer.echo(line)
    server = ServerKey(run_dir, store)
    if (waiting := server.waiting()) is not None:
        typer.echo(
            f"next key: {fingerprint(waiting.new)}, told since {day(waiting.created_unix_s)}"
        )
        typer.echo(_who_has(server, waiting.new, now_s))
    signs = read_public(run_dir)
    typer.echo(f"releases are signed by: {fingerprint(signs) if signs else 'nobody yet'}")


@app.command()
def revoke(robot: str, run_dir: RunDirOption) -> None:
    """Let that robot in no more; a running daemon cuts its connections off within a second."""
    if not KeyStore(run_dir / KEYS_FOLDER).revoke(robot, time.time()):
        raise ConfigError(
            f"no robot '{robot}' to revoke", remedy="robot-trainer keys list names those there are"
        )
    typer.echo(f"{robot} is revoked")


@app.command()
def rotate(
    run_dir: RunDirOption,
    name: NameOption = "",
    leave_behind: Annotated[
        bool, typer.Option(help="even where robots that were long away have to be enrolled again")
    ] = False,
) -> None:
    """A new key that signs releases. Robots take it on the word of the old one, when they next connect."""
    since_s = signing.left_behind_since(run_dir)
    if since_s and not leave_behind:
        raise ConfigError(
            f"robots that were not here since {day(since_s)} would not follow another rotation",
            expected=f"one that each robot hears of: the last {MAX_CHAIN} are told",
            remedy="have them connect first, or say --leave-behind and enroll those again",
        )
    key = SigningKey(run_dir / "releases")
    key.rotate(name or own_name(), time.time())
    typer.echo(f"releases are signed by {fingerprint(key.public)} now")


@app.command()
def replace(run_dir: RunDirOption) -> None:
    """A new key that signs releases, where the old one may have leaked or is lost: no robot takes it on the
    old one's word, each must be enrolled again. Releases and their numbers are kept."""
    public = signing.replace(run_dir)
    typer.echo(f"releases are signed by {fingerprint(public)} now; enroll every robot again")


@app.command(name="rotate-curve")
def rotate_curve(
    run_dir: RunDirOption,
    name: NameOption = "",
    anew: Annotated[
        bool,
        typer.Option("--anew", help="another one in place of one that waits and may have leaked"),
    ] = False,
) -> None:
    """A next CURVE key: robots are told of it while the present one serves, now or when they next connect.
    `adopt-curve` takes it into use."""
    server, now_s = ServerKey(run_dir, KeyStore(run_dir / KEYS_FOLDER)), time.time()
    said = server.announce(name or own_name(), now_s, anew=anew)
    typer.echo(f"the next key is {fingerprint(said.new)}; {_who_has(server, said.new, now_s)}")
    typer.echo("robot-trainer keys list says who has it, keys adopt-curve takes it into use")


@app.command(name="adopt-curve")
def adopt_curve(
    run_dir: RunDirOption,
    now: Annotated[
        bool, typer.Option("--now", help="even if robots are left behind, to be enrolled again")
    ] = False,
) -> None:
    """Take the next CURVE key into use and drop the present one: a running daemon does within a second,
    robots that have it follow by themselves. Refused while one that is let in has not said that it has it."""
    server = ServerKey(run_dir, KeyStore(run_dir / KEYS_FOLDER))
    pair, behind = server.adopt(time.time(), leave_behind=now)
    typer.echo(f"this trainer's key is {fingerprint(pair.public)} now")
    if behind:
        typer.echo(
            f"left behind: {', '.join(behind)}; for each robot-trainer enroll here and robot-run enroll "
            "there, or robot-trainer keys revoke"
        )


def _who_has(server: ServerKey, key: str, now_s: float) -> str:
    has, without = server.holders(key, now_s)
    return (
        f"robots that have it: {', '.join(has) or 'none'}; not yet: {', '.join(without) or 'none'}"
    )
