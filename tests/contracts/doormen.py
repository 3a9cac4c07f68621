"""A guarded socket with the allow-list of a real key store, and peers that knock at it."""

from __future__ import annotations

import contextlib
import socket as tcp
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from contracts.files.keys import KeyStore
from contracts.sockets import Client, Doorman, KeyPair, Limits, Pass, open_socket
from contracts.sockets.curve import new_pair

FREE = "tcp://127.0.0.1:*"
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x05READY\x0bSocket-Type" + bytes(3) + b"\x06DEALER"
LONG_AND_MORE = 3


class Server:
    """A guarded ROUTER on loopback, with the allow-list of a real key store."""

    def __init__(
        self,
        folder: Path,
        limits: Limits | None = None,
        encrypts: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = KeyStore(folder / "keys")
        self.mine = self.store.own(make=True)
        self.now_unix_s = 1_000.0
        self._context = zmq.Context()
        self.door = Doorman(
            self._context,
            self.mine if encrypts else None,
            load=self.store.allow_list,
            stamp=self.store.stamp,
            first_use=self.store.settle,
            limits=limits,
            clock=clock,
            unix_clock=lambda: self.now_unix_s,
        )
        self.socket = open_socket(self._context, zmq.ROUTER, bind=FREE, security=self.door)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.door.start()
        self._clients: list[zmq.Socket[bytes]] = []
        self._outside = zmq.Context()

    def enrolled(self, name: str, **given: float) -> KeyPair:
        pair = new_pair()
        self.store.add(Pass(name=name, key=pair.public, enrolled_unix_s=1.0, **given))
        return pair

    def connect(self, pair: KeyPair | None = None, kind: int = zmq.DEALER) -> zmq.Socket[bytes]:
        keys = Client(pair, self.mine.public) if pair else None
        client = open_socket(self._outside, kind, connect=self.address, security=keys)
        client.sndtimeo = 2_000
        self._clients.append(client)
        return client

    def next(self, timeout_s: float = 10.0) -> tuple[str | None, bytes] | None:
        """(robot, last part) of the next message, or None; robot None: the doorman refused it."""
        if not self.socket.poll(1000 * timeout_s):
            return None
        frames = self.socket.recv_multipart(copy=False)
        visitor = self.door.admit(frames)
        return (visitor.name if visitor else None, frames[-1].bytes)

    def try_send(self, pair: KeyPair | None, words: bytes) -> None:
        """From one that is perhaps not let in: then there is nowhere to send to."""
        with contextlib.suppress(zmq.Again):
            self.connect(pair).send(words)

    def close(self) -> None:
        for client in self._clients:
            client.close(linger=0)
        self._outside.term()
        self.socket.close()
        self.door.close()
        self._context.term()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(**given) -> Server:
        made.append(Server(tmp_path, **given))
        return made[-1]

    yield start
    for server in made:
        server.close()


def wait(what: str, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


def raw(server: Server) -> tcp.socket:
    """A connection without keys after its handshake, for bytes that no library sends."""
    port = int(server.address.rpartition(":")[2])
    end = tcp.create_connection(("127.0.0.1", port), timeout=10)
    end.sendall(GREETING + bytes([4, len(READY)]) + READY)
    heard = b""
    while b"ROUTER" not in heard:
        heard += end.recv(256)
    return end


def part(nbytes: int) -> bytes:
    return bytes([LONG_AND_MORE]) + struct.pack(">Q", nbytes) + bytes(nbytes)
