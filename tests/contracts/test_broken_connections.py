"""A connection that breaks while nobody reads must not take the process with it (libzmq's `!_io_error`)."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time

import pytest
import zmq

from contracts.sockets import Doorman, open_socket

GREETING = b"\xff" + b"\0" * 7 + b"\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" * 32


def command(name: bytes, body: bytes) -> bytes:
    """A command of ZMTP 3.1 (https://rfc.zeromq.org/spec/37/)."""
    return b"\x04" + bytes([1 + len(name) + len(body), len(name)]) + name + body


def ready() -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER")


MESSAGE = b"\x00\x04abcd"
PING = command(b"PING", struct.pack(">H", 100) + b"x")


def serve_one_that_breaks() -> None:
    """In a process of its own: a peer sends more than anybody reads, a heartbeat, and is gone."""
    context = zmq.Context()
    doorman = Doorman(context)
    bound = open_socket(
        context, zmq.ROUTER, bind="tcp://127.0.0.1:0", high_water_mark=4, security=doorman
    )
    doorman.start()
    port = int(bound.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.sendall(GREETING)
        said = b""
        while len(said) < len(GREETING):
            said += peer.recv(4096)
        peer.sendall(ready())
        while b"READY" not in said:
            said += peer.recv(4096)
        peer.sendall(MESSAGE * 400 + PING + MESSAGE * 10)
        time.sleep(0.5)  # the queue is full, if it can be
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.2)
    received = 0
    while bound.poll(500):
        bound.recv_multipart()
        received += 1
    print("received", received)
    bound.close()
    doorman.close()
    context.term()


def test_a_heartbeat_before_a_reset_does_not_abort_the_process() -> None:
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "received 410"), done.stderr


def test_no_heartbeat_of_ours_is_on_the_wire() -> None:
    """The other end may be one that a heartbeat aborts."""
    with socket.create_server(("127.0.0.1", 0)) as server, zmq.Context() as context:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with open_socket(context, zmq.DEALER, connect=address):
            peer, _ = server.accept()
            with peer:
                peer.sendall(GREETING + ready())
                peer.settimeout(2.5)
                seen = b""
                with pytest.raises(TimeoutError):
                    while data := peer.recv(4096):
                        seen += data
                assert b"READY" in seen
                assert b"PING" not in seen
                assert _kept_alive(peer.getpeername())


def _kept_alive(local: tuple[str, int]) -> bool:
    """Whether this process's end of that connection has keepalive and a limit for the unacknowledged."""
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as end:
                if end.family != socket.AF_INET or end.getsockname() != local:
                    continue
                alive = end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                limit = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                return bool(alive) and limit == 5000
        except OSError:
            continue
    return False


if __name__ == "__main__":
    serve_one_that_breaks()
