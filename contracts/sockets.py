"""The one door to the network: ZeroMQ sockets with safe options set before bind or connect."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import zmq

from contracts.errors import ConfigError
from contracts.wire import MAX_BUFFER_BYTES

HEARTBEAT_IVL_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 5_000
HANDSHAKE_IVL_MS = 5_000


def is_local(address: str) -> bool:
    """True for loopback tcp, ipc and inproc addresses."""
    if address.startswith(("ipc://", "inproc://")):
        return True
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    *,
    bind: str = "",
    connect: str = "",
    high_water_mark: int = 64,
    identity: bytes = b"",
    subscribe: bytes | None = None,
) -> zmq.Socket[bytes]:
    """A socket with bounded queues and message size, no linger, heartbeats; bound or connected.

    Refuses any address that is not local: keys for other addresses arrive with enrolment.
    """
    address = bind or connect
    if not is_local(address):
        raise ConfigError(
            f"address {address} is not loopback and this build has no keys for it",
            expected="tcp://127.0.0.1:<port> or ipc://<path>",
            remedy="tunnel it (ssh -L) until enrolment is available",
        )
    socket = context.socket(kind)
    socket.linger = 0
    socket.maxmsgsize = MAX_BUFFER_BYTES
    socket.sndhwm = socket.rcvhwm = high_water_mark
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_IVL_MS)
    if address.startswith("tcp://"):
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_IVL_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    if identity:
        socket.setsockopt(zmq.IDENTITY, identity)
    if subscribe is not None:
        socket.setsockopt(zmq.SUBSCRIBE, subscribe)
    try:
        socket.bind(bind) if bind else socket.connect(connect)
    except zmq.ZMQError as error:
        socket.close()
        raise ConfigError(
            f"cannot {'bind' if bind else 'connect to'} {address}",
            found=str(error),
            remedy="stop the program that uses the port or choose another in the config",
        ) from error
    return socket
