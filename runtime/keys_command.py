"""The verbs `robot-run keys list|revoke|rotate`: what this robot holds, and its changes."""

from __future__ import annotations

import time

import typer
import zmq

from contracts import __version__, wire
from contracts.errors import ConfigError, EntracteError
from contracts.files.keys import described, fingerprint
from contracts.messages import AnyMessage, Goodbye, Hello, RobotKey, RobotKeyStored, Welcome
from contracts.sockets import open_socket
from runtime.config import RobotConfig, load_config
from runtime.enroll_command import ConfigOption, RunDirOption, SetOption
from runtime.link_keys import LinkKeys

ANSWER_S = 15.0
SESSION = "keys"


def register(app: typer.Typer) -> None:
    """Add the verbs to `robot-run`."""
    keys = typer.Typer(
        no_args_is_help=True, help="This robot's keys: list them, revoke a trainer, rotate its own."
    )
    keys.command(name="list")(list_)
    keys.command()(revoke)
    keys.command()(rotate)
    app.add_typer(keys, name="keys")


def list_(run_dir: RunDirOption, config: ConfigOption = None, set_: SetOption = None) -> None:
    """This robot's key and the trainers that it knows. Secrets are never shown."""
    keys = LinkKeys(load_config(config, set_ or []).link, run_dir)
    for line in described(keys.store, time.time()):
        typer.echo(line)
    _say_whose(keys)


def revoke(
    trainer: str, run_dir: RunDirOption, config: ConfigOption = None, set_: SetOption = None
) -> None:
    """Connect to that trainer no more, and take no release of its; a running link obeys within a second."""
    keys = LinkKeys(load_config(config, set_ or []).link, run_dir)
    dropped = keys.revoke(trainer)
    typer.echo(f"{trainer} is revoked")
    if dropped:
        typer.echo(f"releases of its that waited and never act: {', '.join(map(str, dropped))}")
    _say_whose(keys)


def _say_whose(keys: LinkKeys) -> None:
    signs = keys.pinned()
    typer.echo(f"releases are taken from: {fingerprint(signs) if signs else 'nobody'}")


def rotate(run_dir: RunDirOption, config: ConfigOption = None, set_: SetOption = None) -> None:
    """A new key for this robot; the trainer, which must be running, lets it in for the old one."""
    resolved = load_config(config, set_ or [])
    keys = LinkKeys(resolved.link, run_dir)
    if not keys.needed:
        raise ConfigError(
            "this link has no keys to rotate",
            expected="a trainer off loopback, or link.curve: always",
        )
    keys.client()  # raises where the robot is not enrolled yet, before a key is made for nothing
    # The new one is on disk before the trainer hears of it: broken off anywhere, one of both still works.
    new = keys.store.next(make=True)
    assert new is not None
    announce(resolved, keys, new.public)
    keys.store.adopt_next()
    typer.echo(f"the robot's key is {fingerprint(new.public)} now")


def announce(config: RobotConfig, keys: LinkKeys, key: str, answer_s: float = ANSWER_S) -> None:
    """Tell the trainer, under the old key, to let the new one in. Raises `EntracteError` if it doesn't."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    socket = open_socket(context, zmq.DEALER, connect=config.link.weights, security=keys.client())
    try:
        robot_id = config.robot.id
        hello = Hello(robot_id, SESSION, wire.VERSIONS, (), __version__)
        until_s = time.monotonic() + answer_s
        _ask(socket, hello, Welcome, until_s)
        _ask(socket, RobotKey(robot_id, key), RobotKeyStored, until_s)
    finally:
        socket.close(linger=0)
        context.term()


def _ask(
    socket: zmq.Socket[bytes], message: AnyMessage, wanted: type[AnyMessage], until_s: float
) -> None:
    """Say it and wait for the answer; what else the trainer says meanwhile is passed over."""
    said = False
    while (left_s := until_s - time.monotonic()) > 0:
        if not said:
            if socket.poll(int(min(100, 1 + 1000 * left_s)), zmq.POLLOUT):
                socket.send_multipart(wire.pack(message))
                said = True
        elif socket.poll(int(min(100, 1 + 1000 * left_s))):
            answer = wire.unpack(socket.recv_multipart()).message
            if isinstance(answer, Goodbye):
                raise EntracteError(f"the trainer refuses ({answer.reason})", found=answer.detail)
            if isinstance(answer, wanted):
                return
    raise EntracteError(
        "the trainer did not answer" if said else "the trainer did not let this robot in",
        remedy="is robot-trainer serve running there, and is this robot in its keys list?",
    )
