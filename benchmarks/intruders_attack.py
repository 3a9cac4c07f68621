"""The attackers of `robot-bench intruders`, a process of its own: `python -m benchmarks.intruders_attack`.

Reads what to do as JSON from its input, attacks the trainer's ports until its time is up or all attempts are
made, and prints what it saw. It knows the addresses and, for the insiders, the keys of another robot.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import msgspec
import zmq

from contracts import wire
from contracts.messages import Goodbye, Hello
from contracts.sockets import Client, KeyPair, open_socket
from contracts.sockets.curve import new_pair

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
GREETING = SIGNATURE + b"\x03\x00%s" + bytes(32)
STRANGERS = {
    "hangs up at once": b"",
    "plain text": GREETING % b"NULL".ljust(20, b"\0"),
    "ZMTP 1": b"\x01\x00",
    "ZMTP 2": SIGNATURE + b"\x01\x05\x00\x00",
    "noise for a handshake": GREETING % b"CURVE".ljust(20, b"\0")
    + b"\x04\xc8\x05HELLO"
    + bytes(194),
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
}
OPEN_AT_ONCE = 64
UNKNOWN_KEYS = 4
"""At every port."""
RETRY_MS = 10


def attack(job: dict[str, Any]) -> dict[str, int]:
    """`job`: endpoints, attempts, per_s, seconds, server (public key), insider (name, public, secret)."""
    stop, counts = threading.Event(), Counter[str]()
    helpers = [
        threading.Thread(target=_unknown_keys, args=(job, stop)),
        threading.Thread(target=_insider, args=(job, stop, counts)),
    ]
    for thread in helpers:
        thread.start()
    _strangers(job, counts)
    stop.set()
    for thread in helpers:
        thread.join()
    return dict(counts)


def _strangers(job: dict[str, Any], counts: Counter[str]) -> None:
    """TCP connections in turn to every port, each saying something else, at `per_s`."""
    addresses = [urlsplit(each) for each in job["endpoints"].values()]
    doors = itertools.cycle([(one.hostname, one.port) for one in addresses])
    words = itertools.cycle(STRANGERS.items())
    open_now: list[socket.socket] = []
    began_s, made = time.monotonic(), 0
    while made < job["attempts"] and (elapsed_s := time.monotonic() - began_s) < job["seconds"]:
        due = int(elapsed_s * job["per_s"]) + 1
        for _ in range(min(due - made, 200)):
            kind, said = next(words)
            with contextlib.suppress(OSError):
                end = socket.create_connection(next(doors), timeout=2.0)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if said:
                    end.sendall(said)
                open_now.append(end)
                counts[kind] += 1
            made += 1
            if len(open_now) > OPEN_AT_ONCE:
                open_now.pop(0).close()
        time.sleep(0.002)
    for end in open_now:
        end.close()


def _unknown_keys(job: dict[str, Any], stop: threading.Event) -> None:
    """Clients that do everything right, with keys that nobody enrolled; libzmq tries again by itself."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    ends = []
    for address in list(job["endpoints"].values()) * UNKNOWN_KEYS:
        end = context.socket(zmq.DEALER)
        mine = new_pair()
        end.curve_publickey, end.curve_secretkey = mine.public.encode(), mine.secret.encode()
        end.curve_serverkey = job["server"].encode()
        end.reconnect_ivl, end.linger = RETRY_MS, 0
        end.connect(address)
        ends.append(end)
    stop.wait()
    for end in ends:
        end.close()
    context.term()


def _insider(job: dict[str, Any], stop: threading.Event, counts: Counter[str]) -> None:
    """Another robot's good key: it says that it is the robot under test, and speaks an old version."""
    insider, victim = job["insider"], job["victim"]
    keys = Client(KeyPair(insider["public"], insider["secret"]), job["server"])
    foreign = Hello(victim, "s", wire.VERSIONS)
    old = Hello(insider["name"], "s", (1, 1))
    outdated = msgspec.msgpack.encode([1, {"kind": "release_query"}, []])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    while not stop.wait(0.1):
        with open_socket(
            context, zmq.DEALER, connect=job["endpoints"]["episodes"], security=keys
        ) as end:
            for parts in (wire.pack(foreign), wire.pack(old), [outdated]):
                if not end.poll(1000, zmq.POLLOUT):
                    break
                end.send_multipart(parts)
                if end.poll(1000):
                    answer = wire.unpack(end.recv_multipart()).message
                    reason = answer.reason if isinstance(answer, Goodbye) else "let in"
                    counts[f"answered: {reason}"] += 1
    context.term()


if __name__ == "__main__":
    os.nice(19)  # they would have a machine of their own
    json.dump(attack(json.load(sys.stdin)), sys.stdout)
