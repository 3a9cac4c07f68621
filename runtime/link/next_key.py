"""What the link does when its trainer is silent and keys may be why. Owns one connection beside the link's
own, made with the key that the trainer announced, and the count of handshakes that failed.

The link's connections stay as they are meanwhile: a trainer that was only away answers there. An answer on
the other one proves that the trainer uses its next key: nobody else can read what is asked.
"""

from __future__ import annotations

import contextlib
from typing import Any

import zmq

from contracts.messages import Hello
from contracts.sockets import Client, open_socket
from runtime.link.episodes import Parts
from runtime.link.handshake import Handshake

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class NextKeyTrial:
    """Greets the trainer with its next key. No call waits for the other end."""

    def __init__(
        self, context: zmq.Context[Any], address: str, hello: Hello, again_s: float
    ) -> None:
        """`again_s`: unanswered for so long, the connection is made anew; libzmq may have given it up."""
        self._context, self._address, self._hello = context, address, hello
        self._again_s, self._opened_s = again_s, 0.0
        self._client: Client | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._greeting = Handshake(hello, self._send)

    def answered(self, client: Client, now_s: float) -> bool:
        """Whether the trainer has answered to `client`; ask again and again."""
        if client != self._client or now_s - self._opened_s > self._again_s:
            self.close()
            self._opened_s = now_s
            self._socket = open_socket(
                self._context,
                zmq.DEALER,
                connect=self._address,
                high_water_mark=4,
                security=client,
            )
            self._greeting, self._client = Handshake(self._hello, self._send), client
        assert self._socket is not None
        self._greeting.tick(now_s)
        with contextlib.suppress(zmq.Again):
            return bool(self._socket.recv_multipart(zmq.NOBLOCK))
        return False

    def close(self) -> None:
        """Until it is asked for again."""
        if self._socket is not None:
            self._socket.close(linger=0)
        self._client = self._socket = None

    def _send(self, parts: Parts) -> bool:
        assert self._socket is not None
        try:
            self._socket.send_multipart(parts, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


class FailedHandshakes:
    """How often the other end of a socket that connects broke the handshake off: it is there, and one of both
    does not know the other's key."""

    def __init__(self, context: zmq.Context[Any], socket: zmq.Socket[bytes]) -> None:
        """Close this before the socket."""
        address = f"inproc://handshakes-{id(self)}"
        socket.monitor(address, _FAILED)
        self._watched = socket
        self._events = context.socket(zmq.PAIR)
        self._events.linger = 0
        self._events.rcvhwm = 0  # a bounded one would stop libzmq's I/O thread when it is full
        self._events.connect(address)
        self._count = 0

    def look(self) -> int:
        """How many since `forget`. Call it or that from time to time: what is not looked at takes memory."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._events.recv_multipart(zmq.NOBLOCK)
                self._count += 1
        return self._count

    def forget(self) -> None:
        self.look()
        self._count = 0

    def close(self) -> None:
        self._watched.disable_monitor()
        self._events.close()
