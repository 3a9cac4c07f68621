"""The attackers of `robot-bench intruders`, a process of its own: `python -m benchmarks.intruders_attack`.

Reads a line of JSON with what to do from its input, begins at the next line, attacks the trainer's ports
until its input ends, and prints what it saw and when it tried. It knows the addresses and, for the insiders,
the keys of another robot, and of one that was revoked.
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
from contracts.sockets.admission import REVOKED, UNKNOWN
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
"""At every port; and one that was revoked."""
RETRY_MS = 10


def attack(job: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
    """`job`: endpoints, per_s, server (public key), insider and revoked (name, public, secret). Until `stop`;
    `counts` of what was tried and answered, `at_s`: when each stranger's connection was made."""
    counts = Counter[str]()
    helpers = [
        threading.Thread(target=_refused_keys, args=(job, stop, counts)),
        threading.Thread(target=_insider, args=(job, stop, counts)),
    ]
    for thread in helpers:
        thread.start()
    at_s = _strangers(job, stop, counts)
    for thread in helpers:
        thread.join()
    return {"counts": dict(counts), "at_s": at_s}


def _strangers(job: dict[str, Any], stop: threading.Event, counts: Counter[str]) -> list[float]:
    """TCP connections in turn to every port, each saying something else, at `per_s`; when they were made
    (monotonic)."""
    addresses = [urlsplit(each) for each in job["endpoints"].values()]
    doors = itertools.cycle([(one.hostname, one.port) for one in addresses])
    words = itertools.cycle(STRANGERS.items())
    open_now: list[socket.socket] = []
    at_s: list[float] = []
    began_s, made = time.monotonic(), 0
    while not stop.is_set():
        due = int((time.monotonic() - began_s) * job["per_s"]) + 1
        for _ in range(min(due - made, 200)):
            kind, said = next(words)
            with contextlib.suppress(OSError):
                end = socket.create_connection(next(doors), timeout=2.0)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if said:
                    end.sendall(said)
                open_now.append(end)
                counts[kind] += 1
                at_s.append(time.monotonic())
            made += 1
            if len(open_now) > OPEN_AT_ONCE:
                open_now.pop(0).close()
        time.sleep(0.002)
    for end in open_now:
        end.close()
    return at_s


def _refused_keys(job: dict[str, Any], stop: threading.Event, counts: Counter[str]) -> None:
    """Clients that do everything right, with keys that nobody enrolled or that were revoked; libzmq tries
    again by itself. Counted as often as the other end hung up."""
    context: zmq.Context[Any] = zmq.Context()
    revoked = KeyPair(job["revoked"]["public"], job["revoked"]["secret"])
    ends, told = [], []
    for address in job["endpoints"].values():
        for kind, mine in [(UNKNOWN, new_pair()) for _ in range(UNKNOWN_KEYS)] + [
            (REVOKED, revoked)
        ]:
            end = context.socket(zmq.DEALER)
            end.curve_publickey, end.curve_secretkey = mine.public.encode(), mine.secret.encode()
            end.curve_serverkey = job["server"].encode()
            end.reconnect_ivl, end.linger = RETRY_MS, 0
            told.append((kind, end.get_monitor_socket(zmq.EVENT_DISCONNECTED)))
            end.connect(address)
            ends.append(end)
    while not stop.wait(0.05):
        for kind, monitor in told:
            while monitor.poll(0):
                monitor.recv_multipart()
                counts[kind] += 1
    for end in ends:
        end.disable_monitor()
    for end in [*ends, *(monitor for _, monitor in told)]:
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
    what, over = json.loads(sys.stdin.readline()), threading.Event()
    if sys.stdin.readline():  # else it ended before it began

        def wait_for_the_end() -> None:
            sys.stdin.read()
            over.set()

        threading.Thread(target=wait_for_the_end, daemon=True).start()
    else:
        over.set()
    json.dump(attack(what, over), sys.stdout)
