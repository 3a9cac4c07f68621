"""A bound socket changes its CURVE key under its doorman: who knew the old one is outside at once."""

from __future__ import annotations

import contextlib
import socket as tcp
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from contracts.errors import EntracteError
from contracts.files.keys import KeyStore
from contracts.sockets import Client, Doorman, KeyPair, Pass, bind_anew, open_socket, opening
from contracts.sockets.curve import new_pair


def wait(what: str, condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.01)


class Server:
    """One guarded ROUTER that an enrolled robot knows the first key of."""

    def __init__(self, folder: Path) -> None:
        store = KeyStore(folder / "keys")
        self.first, self.robot = store.own(make=True), new_pair()
        store.add(Pass(name="arm", key=self.robot.public, enrolled_unix_s=1.0))
        self._context, self._outside = zmq.Context(), zmq.Context()
        self.door = Doorman(self._context, self.first, load=store.allow_list, stamp=store.stamp)
        self.socket = open_socket(
            self._context, zmq.ROUTER, bind="tcp://127.0.0.1:*", security=self.door
        )
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.door.start()

    def connect(self, mine: KeyPair, server: str) -> zmq.Socket[bytes]:
        client = open_socket(
            self._outside, zmq.DEALER, connect=self.address, security=Client(mine, server)
        )
        client.sndtimeo = client.rcvtimeo = 10_000
        return client

    def hear(self) -> tuple[str, bytes]:
        assert self.socket.poll(10_000)
        frames = self.socket.recv_multipart(copy=False)
        visitor = self.door.admit(frames)
        assert visitor is not None
        self.socket.send_multipart([frames[0].bytes, b"heard"])
        return visitor.name, frames[-1].bytes

    def close(self) -> None:
        self._outside.destroy(linger=0)
        self.socket.close()
        self.door.close()
        self._context.term()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


def test_connections_end_with_the_old_key_and_only_the_new_one_is_served(server: Server) -> None:
    knows_old = server.connect(server.robot, server.first.public)
    knows_old.send(b"before")
    assert server.hear() == ("arm", b"before") and knows_old.recv() == b"heard"
    second = new_pair()
    bind_anew(server.socket, server.address, second)
    # libzmq ends a connection while its socket is looked after.
    wait(
        "the end of the connection",
        lambda: not server.socket.poll(0) and not knows_old.poll(0, zmq.POLLOUT),
    )
    knows_new = server.connect(server.robot, second.public)
    knows_new.send(b"after")
    assert server.hear() == ("arm", b"after") and knows_new.recv() == b"heard"
    wait("its attempts", lambda: server.door.counts["protocol"] >= 2)
    assert not knows_old.poll(0, zmq.POLLOUT)
    stranger = server.connect(new_pair(), second.public)
    wait("the stranger", lambda: server.door.counts["unknown key"])
    assert not stranger.poll(0, zmq.POLLOUT), "the list of who is let in holds on"


def test_a_port_that_was_taken_meanwhile_is_said(server: Server, monkeypatch) -> None:
    monkeypatch.setattr(opening, "REBIND_S", 0.2)
    port = int(server.address.rpartition(":")[2])
    real = opening.time.monotonic

    with contextlib.ExitStack() as taken:

        def take_it() -> float:
            """Called between the port's end and its new beginning."""
            end = taken.enter_context(tcp.socket())
            end.setsockopt(tcp.SOL_SOCKET, tcp.SO_REUSEADDR, 1)
            until_s = real() + 5.0
            while real() < until_s:
                with contextlib.suppress(OSError):
                    end.bind(("127.0.0.1", port))
                    end.listen()
                    break
            monkeypatch.setattr(opening.time, "monotonic", real)
            return real()

        monkeypatch.setattr(opening.time, "monotonic", take_it)
        with pytest.raises(EntracteError, match=r"again with the new key.*start this one again"):
            bind_anew(server.socket, server.address, new_pair())
