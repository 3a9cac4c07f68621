"""Opens ZeroMQ sockets: safe options first, then bind or connect; off loopback with CURVE or not at all."""

from __future__ import annotations

import contextlib
import time

import zmq

from contracts.errors import ConfigError, EntracteError
from contracts.sockets.addresses import WITHOUT_NETWORK, bindable, is_local, split
from contracts.sockets.curve import Client, KeyPair
from contracts.sockets.doorman import Doorman
from contracts.wire import MAX_BUFFER_BYTES

KEEPALIVE_S, KEEPALIVE_PROBES = 1, 5
"""The kernel's, after silence: a peer that is off the network is noticed within 6 s. Not ZeroMQ's own
heartbeats: libzmq (to 4.3.5) aborts the whole process (`!_io_error`) when one is due, or answered, on a
connection that broke while its receive queue was full."""
UNACKNOWLEDGED_MS = 5_000
"""So long what was sent may stay unacknowledged before the connection is given up."""
UNREAD_MESSAGES = 1 << 20
"""Of one connection, behind a doorman, who bounds the bytes: a queue that fills is what lets a peer's
heartbeat abort libzmq (see above)."""
HANDSHAKE_IVL_MS = 5_000
REBIND_S, REBIND_PAUSE_S = 5.0, 0.01
"""libzmq closes a port in a thread of its own: so long it is asked for again, and how often."""
RECONNECT_IVL_MS = 500
"""With keys: one that is not let in costs the other end a handshake each time."""


def open_socket(
    context: zmq.Context[zmq.Socket[bytes]],
    kind: int,
    *,
    bind: str = "",
    connect: str = "",
    high_water_mark: int = 64,
    identity: bytes = b"",
    subscribe: bytes | None = None,
    max_part_bytes: int = MAX_BUFFER_BYTES,
    security: Client | Doorman | None = None,
    immediate: bool = True,
) -> zmq.Socket[bytes]:
    """A socket with bounded queues and part size, no linger, TCP keepalive; bound or connected.

    `security`: a `Client` to connect, a `Doorman` to bind. Without keys only an address of this machine alone
    is taken; with them every tcp address is CURVE, loopback too. `immediate`: what is sent before the other
    end is there is refused (`zmq.Again`) and not queued. Raises `ConfigError` before anything is
    opened, `EntracteError` where the port is taken.
    """
    address = bindable(bind) if bind else connect
    keys = _checked(address, bool(bind), security)
    socket = context.socket(kind)
    socket.linger = 0
    socket.maxmsgsize = max_part_bytes
    socket.sndhwm = high_water_mark
    socket.rcvhwm = UNREAD_MESSAGES if isinstance(security, Doorman) else high_water_mark
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_IVL_MS)
    if address.startswith("tcp://"):
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES)
        socket.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
        if ":" in split(address)[0]:
            socket.setsockopt(zmq.IPV6, 1)
    if connect and immediate:
        # What an end that comes late finds is fresh.
        socket.setsockopt(zmq.IMMEDIATE, 1)
    if identity:
        socket.setsockopt(zmq.IDENTITY, identity)
    if subscribe is not None:
        socket.setsockopt(zmq.SUBSCRIBE, subscribe)
    try:
        if isinstance(keys, Client):
            _set(socket, keys)
        elif keys is not None:
            keys.guard(socket)
        socket.bind(address) if bind else socket.connect(address)
    except zmq.ZMQError as error:
        socket.close()
        # No ConfigError: the program that has the port may end, so that another start cures it.
        raise EntracteError(
            f"cannot {'bind' if bind else 'connect to'} {address}",
            found=str(error),
            remedy="stop the program that uses the port or choose another in the config",
        ) from error
    return socket


def connect_anew(socket: zmq.Socket[bytes], address: str, keys: Client | None) -> None:
    """Drop the connection of a socket that connects and make another with `keys`; None: leave it without one,
    which nothing can be sent on."""
    with contextlib.suppress(zmq.ZMQError):  # it had none
        socket.disconnect(address)
    if keys is not None:
        _set(socket, keys)
        socket.connect(address)


def connect_again(socket: zmq.Socket[bytes], address: str) -> None:
    """Make the connection of a socket that connects once more, as it was."""
    with contextlib.suppress(zmq.ZMQError):  # libzmq may have forgotten it
        socket.disconnect(address)
    socket.connect(address)


def bind_anew(socket: zmq.Socket[bytes], address: str, keys: KeyPair) -> None:
    """Serve with another key from now on a socket that stands behind a doorman and is bound to `address`
    (`LAST_ENDPOINT`). Its connections are dropped with its port: who comes again must know the new key.
    Raises `EntracteError` where the port is not to be had again."""
    if address.startswith(WITHOUT_NETWORK):
        return
    socket.unbind(address)
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode())
    until_s = time.monotonic() + REBIND_S
    while True:
        try:
            socket.bind(address)
            return
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE or time.monotonic() > until_s:
                raise EntracteError(
                    f"cannot bind {address} again with the new key",
                    found=str(error),
                    remedy="stop the program that took the port, and start this one again",
                ) from error
        time.sleep(REBIND_PAUSE_S)


def _set(socket: zmq.Socket[bytes], keys: Client) -> None:
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.mine.public.encode())
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.mine.secret.encode())
    socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server.encode())
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_IVL_MS)


def _checked(
    address: str, binds: bool, security: Client | Doorman | None
) -> Client | Doorman | None:
    """The keys to use; None for a plain socket, which only this machine can reach."""
    if not binds and isinstance(security, Doorman):
        raise ConfigError("a doorman is for a socket that binds", found=f"connect to {address}")
    if binds and isinstance(security, Client):
        raise ConfigError("a client's keys are for a socket that connects", found=f"bind {address}")
    encrypted = isinstance(security, Client) or (security is not None and security.encrypts)
    if not encrypted and not is_local(address):
        raise ConfigError(
            f"address {address} is not loopback and there are no keys for it",
            expected="tcp://127.0.0.1:<port>, ipc://<path>, or a link with keys",
            remedy="enroll (robot-trainer enroll there, robot-run enroll here), or tunnel it (ssh -L)",
        )
    return None if address.startswith(WITHOUT_NETWORK) else security
