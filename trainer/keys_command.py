"""The verbs `robot-trainer keys list|revoke|rotate|replace`: which robots are let in, and the signing key."""

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
from trainer.signing import SigningKey, read_public

app = typer.Typer(
    no_args_is_help=True,
    help="Robots that are let in: list, revoke; the key that signs releases: rotate, replace.",
)


@app.command(name="list")
def list_(run_dir: RunDirOption) -> None:
    """This trainer's keys and its robots. Secrets are never shown."""
    for line in described(KeyStore(run_dir / KEYS_FOLDER), time.time()):
        typer.echo(line)
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
