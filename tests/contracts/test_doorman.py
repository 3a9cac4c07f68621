"""Who gets in, and who is cut off while a connection is open: real sockets."""

from __future__ import annotations

import socket as tcp
import time
from pathlib import Path

import msgspec
import pytest
import zmq
from doormen import serve, wait

from benchmarks.intruders_attack import STRANGERS
from contracts.errors import ConfigError
from contracts.sockets import Client, Doorman, Pass, open_socket
from contracts.sockets.curve import new_pair
from contracts.sockets.doorman import UNHEARD

__all__ = ["serve"]


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


@pytest.mark.parametrize("kind", STRANGERS)
def test_each_stranger_is_counted_once_whatever_it_says(serve, kind: str) -> None:
    """libzmq tells of no failure where it refuses an old protocol or another program's."""
    server = serve()
    port = int(server.address.rpartition(":")[2])
    for _ in range(5):
        with tcp.create_connection(("127.0.0.1", port)) as end:
            end.sendall(STRANGERS[kind])
            time.sleep(0.02 if STRANGERS[kind] else 0.0)
    counts = server.door.counts
    refused = lambda: sum(counts[r] for r in ("protocol", "no handshake", UNHEARD))  # noqa: E731
    wait("all of them", lambda: counts["connections"] == refused() == 5)
    known, stranger = server.enrolled("arm"), new_pair()
    wait("the list", lambda: counts["list read"])
    server.try_send(stranger, b"let me in")
    wait("its refusal", lambda: counts["unknown key"])
    server.connect(known).send(b"hello")
    assert server.next() == ("arm", b"hello")
    assert refused() == 5, "who is counted elsewhere is not counted here"


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
