"""The verbs `robot-run keys list|revoke|rotate`: what this robot holds, and its changes."""

from __future__ import annotations

import time

import typer
import zmq

from contracts import __version__, wire
from contracts.errors import ConfigError, EntracteError
from contracts.files.keys import described, fingerprint
from contracts.messages import AnyMessage, Goodbye, Hello, RobotKey, RobotKeyStored, Welcome
from contracts.sockets import Client, open_socket
from runtime.commands.enroll import ConfigOption, RunDirOption, SetOption
from runtime.config import RobotConfig, load_config
from runtime.link.keys import LinkKeys

ANSWER_S, TRIED_S = 15.0, 4.0
"""How long the trainer may take; so long each of its keys is tried in turn, where it announced another, until
one is answered to."""
SESSION = "keys"
SILENT = "the trainer did not answer"
NOT_IN = "the trainer did not let this robot in"


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
    """Tell the trainer, under the old key, to let the new one in. Where it has taken the key into use that it
    announced, that is its key here, too, from now on. Raises `EntracteError` if it doesn't."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    until_s, problem = time.monotonic() + answer_s, NOT_IN
    present, following = keys.client(), keys.next_client()
    ways = [client for client in (present, following) if client is not None]
    patience_s = answer_s if following is None else TRIED_S
    try:
        while time.monotonic() < until_s:
            for client in ways:
                tried_s = min(until_s, time.monotonic() + patience_s)
                found = _tell(context, config, client, key, tried_s, until_s)
                if not found:
                    if client is following:
                        keys.store.take_next(client.server)
                        serves = fingerprint(client.server)
                        typer.echo(f"the trainer's announced key {serves} is in use now: taken")
                    return
                problem = SILENT if SILENT in (problem, found) else found
    finally:
        context.term()
    raise EntracteError(
        problem,
        remedy="is robot-trainer serve running there, and is this robot in its keys list?",
    )


def _tell(
    context: zmq.Context[zmq.Socket[bytes]],
    config: RobotConfig,
    client: Client,
    key: str,
    tried_s: float,
    until_s: float,
) -> str:
    """The whole conversation with a trainer that `client` knows; "", or where it ended. `tried_s`: for its
    welcome. Once that came this is the key that it has, and it may take until `until_s`."""
    robot_id = config.robot.id
    hello = Hello(robot_id, SESSION, wire.VERSIONS, (), __version__)
    socket = open_socket(context, zmq.DEALER, connect=config.link.weights, security=client)
    try:
        return _ask(socket, hello, Welcome, tried_s) or _ask(
            socket, RobotKey(robot_id, key), RobotKeyStored, until_s
        )
    finally:
        socket.close(linger=0)


def _ask(
    socket: zmq.Socket[bytes], message: AnyMessage, wanted: type[AnyMessage], until_s: float
) -> str:
    """Say it and wait for the answer; what else the trainer says meanwhile is passed over. Returns "", or
    what there was in place of an answer."""
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
                return ""
    return SILENT if said else NOT_IN
