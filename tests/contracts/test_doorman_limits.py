"""How much one peer may bring, hold and open: floods, memory, connections, descriptors. Real sockets."""

from __future__ import annotations

import contextlib
import os
import resource
import socket as tcp
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import zmq
from doormen import FREE, GREETING, part, raw, serve, wait

from contracts.sockets import Doorman, Limits, open_socket

__all__ = ["serve"]


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


class Crossed:
    """Two guarded sockets, and a doorman that does not listen yet: as one that waits for the processor."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self.door = Doorman(self._context, limits=Limits(held_bytes=4 << 20))
        self.sockets = [
            open_socket(self._context, zmq.ROUTER, bind=FREE, security=self.door) for _ in range(2)
        ]

    def greeted(self, number: int) -> tuple[tcp.socket, int]:
        """A connection to that socket that said a word, and its descriptor at this end."""
        server = SimpleNamespace(address=self.sockets[number].getsockopt_string(zmq.LAST_ENDPOINT))
        end = raw(server)
        end.sendall(b"\x00\x01x")
        assert self.sockets[number].poll(20_000)
        self.heard = self.sockets[number].recv_multipart(copy=False)
        return end, int(self.heard[-1].get(zmq.SRCFD))

    def check_bounded(self, end: tcp.socket) -> None:
        """It is cut off when its message never ends."""
        with pytest.raises(OSError):
            for _ in range(1 << 10):  # 64 MiB in a second and more
                end.sendall(part(1 << 16))
                time.sleep(0.001)
        wait("the cut", lambda: self.door.counts["cut for memory"])

    def close(self) -> None:
        for socket in self.sockets:
            socket.close()
        self.door.close()
        self._context.term()


@pytest.fixture
def crossed() -> Iterator[Crossed]:
    made = Crossed()
    yield made
    made.close()


def closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


def test_an_end_that_is_heard_late_does_not_hide_whoever_has_its_descriptor_now(crossed) -> None:
    """Of two sockets the beginning on one may be heard before the end on the other, which came first."""
    for _ in range(50):
        old, descriptor = crossed.greeted(1)
        old.close()
        wait("its end", lambda fd=descriptor: closed(fd))
        new, again = crossed.greeted(0)
        if again == descriptor:
            break
        new.close()  # something else took it
    assert again == descriptor
    crossed.door.start()
    wait("both", lambda: crossed.door.counts["connections"] >= 2)
    with new:
        crossed.check_bounded(new)


def test_who_speaks_before_its_beginning_is_heard_is_bounded_all_the_same(crossed) -> None:
    end, descriptor = crossed.greeted(0)
    crossed.door.start()
    wait("it", lambda: descriptor in crossed.door._connections)
    crossed.door._connections.clear()  # as if nobody had told of it
    assert crossed.door.admit(crossed.heard) is not None
    with end:
        crossed.check_bounded(end)


def test_last_words_that_are_heard_after_the_end_leave_nothing_behind(crossed) -> None:
    end, descriptor = crossed.greeted(0)
    crossed.door.start()
    wait("it", lambda: descriptor in crossed.door._connections)
    end.close()
    wait("its end", lambda: descriptor not in crossed.door._connections)
    assert crossed.door.admit(crossed.heard) is not None
    assert descriptor in crossed.door._connections
    wait("the next look", lambda: descriptor not in crossed.door._connections)


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
