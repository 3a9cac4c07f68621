"""Who gets in, who is cut off while a connection is open, and how much one peer may bring: real sockets."""

from __future__ import annotations

import contextlib
import os
import resource
import socket as tcp
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from contracts.errors import ConfigError
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


def test_an_enrolled_robot_speaks_under_its_own_name(serve) -> None:
    server = serve()
    arm, leg = server.enrolled("arm"), server.enrolled("leg")
    wait("the list", lambda: server.door.counts["list read"])
    for name, pair in (("arm", arm), ("leg", leg)):
        client = server.connect(pair)
        client.send(name.encode())
        assert server.next() == (name, name.encode())


def test_strangers_are_refused_and_counted_each_for_its_reason(serve) -> None:
    server = serve()
    known = server.enrolled("arm")
    late = server.enrolled("late", expires_unix_s=999.0)
    gone = server.enrolled("gone")
    server.store.revoke("gone", 999.0)
    wait("the list", lambda: server.door.counts["list read"])
    counts = server.door.counts
    for pair, reason in ((new_pair(), "unknown key"), (late, "expired"), (gone, "revoked")):
        server.try_send(pair, b"let me in")
        wait(reason, lambda r=reason: counts[r])
    server.try_send(None, b"plain text")
    # Which of the two it is depends on who of the two hangs up first.
    wait("protocol", lambda: counts["protocol"] + counts["no handshake"])
    wrong_server = Client(known, new_pair().public)
    stranger = open_socket(
        server._outside, zmq.DEALER, connect=server.address, security=wrong_server
    )
    server._clients.append(stranger)
    failed = counts["protocol"] + counts["no handshake"]
    wait("a wrong server key", lambda: counts["protocol"] + counts["no handshake"] > failed)
    assert server.next(timeout_s=0.3) is None and not counts["let in"]


def test_revoking_cuts_that_connection_off_and_no_other(serve) -> None:
    server = serve()
    bad, good = server.enrolled("bad"), server.enrolled("good")
    wait("the list", lambda: server.door.counts["list read"])
    clients = {name: server.connect(pair) for name, pair in (("bad", bad), ("good", good))}
    for name, client in clients.items():
        client.send(b"hello")
        assert server.next() == (name, b"hello")
    server.store.revoke("bad", 999.0)
    wait("the cut", lambda: server.door.counts["cut off"])
    wait("another try of it", lambda: server.door.counts["revoked"])
    with pytest.raises(zmq.Again):
        clients["bad"].send(b"am I still here?")
    clients["good"].send(b"I am")
    assert server.next() == ("good", b"I am")
    assert server.next(timeout_s=0.3) is None
    assert server.door.counts["cut off"] == 1 and server.door.counts["let in"] == 2


def test_what_waited_unread_when_its_robot_was_revoked_is_not_taken(serve) -> None:
    server = serve()
    bad = server.enrolled("bad")
    wait("the list", lambda: server.door.counts["list read"])
    server.connect(bad).send(b"before")
    assert server.socket.poll(10_000)
    server.store.revoke("bad", 999.0)
    wait("the cut", lambda: server.door.counts["list read"] > 1)
    assert server.next() == (None, b"before")


def test_a_key_that_expires_is_cut_off_where_it_stands(serve) -> None:
    server = serve()
    pair = server.enrolled("arm", expires_unix_s=2_000.0)
    wait("the list", lambda: server.door.counts["list read"])
    server.connect(pair).send(b"hello")
    assert server.next() == ("arm", b"hello")
    server.now_unix_s = 2_001.0
    wait("the cut", lambda: server.door.counts["cut off"])


def test_a_new_key_ends_the_one_it_replaces_when_it_is_first_used(serve) -> None:
    server = serve()
    old, new = server.enrolled("arm"), new_pair()
    server.store.add(Pass(name="arm", key=new.public, enrolled_unix_s=2.0, replaces=old.public))
    wait("the list", lambda: server.door.counts["list read"])
    first = server.connect(old)
    first.send(b"old")
    assert server.next() == ("arm", b"old"), "both are good until the new one is used"
    server.connect(new).send(b"new")
    assert server.next() == ("arm", b"new")
    wait("the end of the old one", lambda: server.door.counts["cut off"])
    assert [one.key for one in server.store.passes()] == [new.public]


def test_a_flood_is_refused_and_its_sender_rests(serve) -> None:
    limits = Limits(messages_per_s=50.0, rest_s=4.0)
    server = serve(limits=limits)
    loud, quiet = server.enrolled("loud"), server.enrolled("quiet")
    wait("the list", lambda: server.door.counts["list read"])
    flood, other = server.connect(loud), server.connect(quiet)
    taken, deadline = 0, time.monotonic() + 20
    while not server.door.counts["cut for flooding"]:
        assert time.monotonic() < deadline
        for _ in range(20):
            flood.send(b"!", zmq.NOBLOCK) if flood.poll(0, zmq.POLLOUT) else None
        while (found := server.next(0)) is not None:
            taken += found[0] is not None
    assert server.door.counts["over rate"] > 50 and taken < 50 * 25
    other.send(b"excuse me")
    while (found := server.next()) is not None and found[1] != b"excuse me":
        pass
    assert found == ("quiet", b"excuse me")
    wait("its rest", lambda: server.door.counts["resting"])
    wait("its return", lambda: server.door.counts["let in"] == 3)


def test_a_message_that_never_ends_is_cut_before_it_fills_memory(serve) -> None:
    """libzmq counts whole messages: parts with MORE set would pile up without bound."""
    server = serve(encrypts=False, limits=Limits(held_bytes=8 << 20))
    with raw(server) as endless, pytest.raises(OSError):
        for _ in range(1 << 14):  # a GiB
            endless.sendall(part(1 << 16))
    wait("the count", lambda: server.door.counts["cut for memory"])
    assert server.next(timeout_s=0.2) is None


def test_what_cost_its_sender_nothing_earns_it_no_room(serve) -> None:
    """Empty parts take two bytes each; booked as more they would let an endless message grow later."""
    server = serve(encrypts=False, limits=Limits(held_bytes=4 << 20, bytes_per_s=1e12))
    message = bytes([1, 0]) * 999 + bytes([0, 0])
    with raw(server) as end:
        for _ in range(1000):
            end.sendall(message)
            assert server.next() == ("", b"")
        with pytest.raises(OSError):
            for _ in range(
                1 << 10
            ):  # 64 MiB in a second and more: bytes are counted four times a second
                end.sendall(part(1 << 16))
                time.sleep(0.001)
        wait("the cut", lambda: server.door.counts["cut for memory"])


def test_one_key_holds_no_more_on_many_connections_than_on_one(serve) -> None:
    server = serve(limits=Limits(held_bytes=4 << 20))
    arm, other = server.enrolled("arm"), server.enrolled("other")
    wait("the list", lambda: server.door.counts["list read"])
    quiet = server.connect(other)
    quiet.send(b"hello")
    assert server.next() == ("other", b"hello")
    clients = [server.connect(arm) for _ in range(8)]
    for client in clients:
        client.send(b"hello")
        assert server.next() == ("arm", b"hello")
    for client in clients:
        client.send(bytes(1 << 20))  # and nobody reads it
    wait("the cut", lambda: server.door.counts["cut for memory"] >= 4)
    quiet.send(b"still here")
    while (found := server.next()) is not None and found[1] != b"still here":
        pass
    assert found == ("other", b"still here") and server.door.counts["cut for memory"] < 8


def test_those_that_never_spoke_hold_together_no_more_than_one_may(serve) -> None:
    server = serve(encrypts=False, limits=Limits(held_bytes=4 << 20))
    spoken = server.connect()
    spoken.send(b"hello")
    assert server.next() == ("", b"hello")
    ends = [raw(server) for _ in range(10)]
    for end in ends:
        with contextlib.suppress(OSError):  # cut off already
            for _ in range(16):
                end.sendall(part(1 << 16))
    wait("the cuts", lambda: server.door.counts["cut for memory"] >= 6)
    spoken.send(b"still here")
    assert server.next() == ("", b"still here")
    for end in ends:
        end.close()


def test_connections_of_one_key_are_bounded(serve) -> None:
    server = serve(limits=Limits(connections=4))
    arm, other = server.enrolled("arm"), server.enrolled("other")
    wait("the list", lambda: server.door.counts["list read"])
    first = server.connect(other)
    first.send(b"hello")
    assert server.next() == ("other", b"hello")
    for _ in range(4):
        server.connect(arm).send(b"hello")
        assert server.next() == ("arm", b"hello")
    server.connect(arm).send(b"one more")
    assert server.next() == ("arm", b"one more")
    wait("the oldest to go", lambda: server.door.counts["cut for connections"])
    first.send(b"still here")
    assert server.next() == ("other", b"still here")


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process can open so many more files and connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    filling: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 20, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in filling[:count]:
            os.close(descriptor)
        del filling[:count]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in filling:
            os.close(descriptor)


def test_without_a_descriptor_left_who_fills_memory_is_cut_off(serve) -> None:
    server = serve(encrypts=False, limits=Limits(held_bytes=4 << 20))
    with raw(server) as endless:
        wait("it", lambda: server.door.counts["connections"])
        with descriptors_left(0), pytest.raises(OSError):
            for _ in range(1 << 14):  # a GiB
                endless.sendall(part(1 << 16))
    wait("the count", lambda: server.door.counts["cut for memory"])


SILENT = """
import socket, sys
sys.stdin.readline()
ends = []
for _ in range(int(sys.argv[2])):
    ends.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60))
sys.stdin.read()
"""


def test_connections_that_take_every_descriptor_go_again(serve) -> None:
    server = serve(limits=Limits(silent=4))
    pair = server.enrolled("arm")
    wait("the list", lambda: server.door.counts["list read"])
    port = server.address.rpartition(":")[2]
    command = [sys.executable, "-c", SILENT, port, "40"]
    robot = server.connect(pair)
    robot.send(b"hello")
    assert server.next() == ("arm", b"hello")
    with subprocess.Popen(command, stdin=subprocess.PIPE) as silent:
        with descriptors_left(12):
            silent.stdin.write(b"now\n")
            silent.stdin.flush()
            wait("the oldest to go", lambda: server.door.counts["cut for silence"] >= 36, 60.0)
            robot.send(b"still here")
            assert server.next() == ("arm", b"still here")
        silent.kill()


def test_traffic_that_is_read_never_counts_as_held(serve) -> None:
    server = serve(limits=Limits(held_bytes=1 << 19, bytes_per_s=1e12, messages_per_s=1e6))
    client = server.connect(server.enrolled("arm"))
    wait("the list", lambda: server.door.counts["list read"])
    for number in range(3000):
        client.send_multipart([b"%d" % number, *[bytes(200)] * 8])
        assert server.next() == ("arm", bytes(200))
    assert not server.door.counts["cut for memory"]
    assert server.door.counts["let in"] == 1


def test_connections_that_say_nothing_are_bounded(serve) -> None:
    server = serve(limits=Limits(silent=8))
    pair = server.enrolled("arm")
    wait("the list", lambda: server.door.counts["list read"])
    robot = server.connect(pair)
    robot.send(b"hello")
    assert server.next() == ("arm", b"hello")
    port = int(server.address.rpartition(":")[2])
    silent = [tcp.create_connection(("127.0.0.1", port)) for _ in range(30)]
    wait("the oldest to go", lambda: server.door.counts["cut for silence"] >= 22)
    robot.send(b"still here")
    assert server.next() == ("arm", b"still here")
    assert server.door.counts["let in"] == 1
    for one in silent:
        one.close()


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"\x01\x00",  # ZMTP 1
        b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00",  # ZMTP 2
        GREETING,
        b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32) + bytes(500),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">Q", 1 << 62) * 8,
    ],
)
def test_other_protocols_and_old_ones_get_nothing(serve, words: bytes) -> None:
    server = serve()
    pair = server.enrolled("arm")
    wait("the list", lambda: server.door.counts["list read"])
    port = int(server.address.rpartition(":")[2])
    with tcp.create_connection(("127.0.0.1", port), timeout=10) as stranger:
        stranger.sendall(words)
        wait("it", lambda: server.door.counts["connections"])
    robot = server.connect(pair)
    robot.send(b"after it")
    assert server.next() == ("arm", b"after it")


def test_on_loopback_without_keys_limits_hold_all_the_same(serve) -> None:
    server = serve(encrypts=False, limits=Limits(messages_per_s=20.0), clock=lambda: 5.0)
    client = server.connect()
    client.sndtimeo = 10_000
    for _ in range(50):
        client.send(b"x")
    found = [server.next() for _ in range(50)]
    assert found == [("", b"x")] * 40 + [(None, b"x")] * 10, "two seconds' worth at once"
    assert server.door.counts["over rate"] == 10


def test_a_half_edited_list_leaves_the_old_one_in_force(serve) -> None:
    server = serve()
    pair = server.enrolled("arm")
    wait("the list", lambda: server.door.counts["list read"])
    path = server.store.folder / "passes.json"
    path.write_bytes(path.read_bytes()[:-10])
    wait("a complaint", lambda: "not read" in server.door.last_refused)
    server.connect(pair).send(b"hello")
    assert server.next() == ("arm", b"hello")


@pytest.mark.parametrize("address", ["tcp://*:5799", "tcp://0.0.0.0:5799", "tcp://[::]:5799"])
def test_all_interfaces_at_once_are_never_bound(tmp_path: Path, address: str) -> None:
    with zmq.Context() as context, pytest.raises(ConfigError, match="every network"):
        open_socket(context, zmq.ROUTER, bind=address, security=Doorman(context))


def test_off_loopback_there_is_no_socket_without_keys() -> None:
    with zmq.Context() as context:
        for given in ({"bind": "tcp://192.0.2.9:5799"}, {"connect": "tcp://192.0.2.9:5799"}):
            with pytest.raises(ConfigError, match="enroll"):
                open_socket(context, zmq.DEALER, **given)
        with pytest.raises(ConfigError, match="enroll"):
            open_socket(context, zmq.ROUTER, bind="tcp://192.0.2.9:5799", security=Doorman(context))


def test_an_interface_is_named_by_its_name() -> None:
    with zmq.Context() as context:
        with open_socket(context, zmq.ROUTER, bind="tcp://lo:*") as socket:
            endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
            assert endpoint.startswith("tcp://127.0.0.1:")
        with pytest.raises(ConfigError, match=r"no network interface 'eth77'.*lo"):
            open_socket(context, zmq.ROUTER, bind="tcp://eth77:5799")


def test_a_secret_is_never_printed() -> None:
    pair = new_pair()
    assert pair.secret not in repr(pair) + repr(Client(pair, pair.public))
    assert (
        msgspec.json.encode(Pass(name="a", key=pair.public, enrolled_unix_s=0)).count(b"secret")
        == 0
    )
