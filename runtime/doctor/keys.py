"""Keys for the link: there where needed, for their owner only, known to the trainer, not about to end."""

from __future__ import annotations

import time
from pathlib import Path

import zmq

from contracts.errors import EntracteError
from contracts.files.keys import fingerprint
from contracts.sockets import Client, open_socket
from runtime.config import RobotConfig
from runtime.findings import Line
from runtime.link.keys import LinkKeys

SOON_S = 30 * 86400.0
HANDSHAKE_S = 3.0
ENROLL = "robot-run enroll tcp://<trainer>:<port>, with robot-trainer enroll there"


def keys(config: RobotConfig, run_dir: Path | None) -> list[Line]:
    """What the link of that run folder has to prove itself with. Sends nothing but a handshake."""
    if not config.link.enabled:
        return [Line("keys", "ok", "no link configured")]
    needed = LinkKeys(config.link, run_dir or Path()).needed
    if not needed:
        return [Line("keys", "ok", "every address is this machine's: none needed")]
    if run_dir is None and not Path(config.link.keys).is_absolute():
        return [Line("keys", "warn", "needed, but of which run?", "robot-run doctor --run-dir DIR")]
    held = LinkKeys(config.link, run_dir or Path())
    try:
        client, trainer = held.client(), held.trainer()
    except EntracteError as error:
        return [Line("keys", "fail", str(error), ENROLL)]
    assert client is not None
    lines = [Line("keys", "ok", f"own key {fingerprint(client.mine.public)}, owner only")]
    left_s = trainer.expires_unix_s - time.time() if trainer.expires_unix_s else SOON_S
    lines.append(
        Line.advised(
            "trainer's key",
            left_s >= SOON_S,
            f"{trainer.name}, {fingerprint(trainer.key)}"
            + (f", ends in {left_s / 86400:.0f} days" if trainer.expires_unix_s else ""),
            f"enroll again before it ends: {ENROLL}",
        )
    )
    lines.append(
        Line.judged(
            "releases",
            held.signing_path.is_file(),
            f"taken by the key in {held.signing_path}"
            if held.signing_path.is_file()
            else "nobody's",
            ENROLL,
        )
    )
    return [*lines, _let_in(config, client, held.next_client())]


def _let_in(config: RobotConfig, client: Client, following: Client | None) -> Line:
    """Whether the trainer takes this robot's key. `following`: with the key that it announced as its next."""
    address = config.link.weights
    if _reached(address, client):
        return Line("let in", "ok", f"{address} takes this robot's key")
    if following is not None and _reached(address, following):
        found = f"{address} is known by its next key now, {fingerprint(following.server)}"
        return Line("let in", "ok", f"{found}; the link takes that by itself")
    return Line(
        "let in",
        "warn",
        f"{address} does not take this robot's key, or is away",
        "robot-trainer keys list there: revoked, expired, enrolled anew, or a new key there since?",
    )


def _reached(address: str, client: Client) -> bool:
    """Nothing can be sent before both ends have proven their keys."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
    socket = open_socket(context, zmq.DEALER, connect=address, security=client)
    try:
        return bool(socket.poll(int(1000 * HANDSHAKE_S), zmq.POLLOUT))
    finally:
        socket.close(linger=0)
        context.term()
