"""The verbs `robot-trainer keys list|revoke|rotate`: which robots are let in, and the signing key."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from contracts.errors import ConfigError
from contracts.files.keys import KeyStore, described, fingerprint
from trainer.door import KEYS_FOLDER
from trainer.enroll_command import RunDirOption
from trainer.signing import SigningKey, read_public

app = typer.Typer(
    no_args_is_help=True,
    help="Robots that are let in: list, revoke; the key that signs releases: rotate.",
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
    name: Annotated[str, typer.Option(help="what robots call this trainer")] = "trainer",
) -> None:
    """A new key that signs releases. Robots take it on the word of the old one, when they next connect."""
    key = SigningKey(run_dir / "releases")
    key.rotate(name, time.time())
    typer.echo(f"releases are signed by {fingerprint(key.public)} now")
