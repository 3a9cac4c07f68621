"""A tap on the cable: passes TCP bytes on in both directions and keeps those that the robot sent.

Knows ZMTP 3 (https://rfc.zeromq.org/spec/23/) as far as plain sockets speak it: a greeting of 64 bytes,
then frames.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from urllib.parse import urlparse

GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4


class Tap:
    """Stands before the trainer's sockets: connect to `endpoints` instead of theirs."""

    def __init__(self, endpoints: dict[str, str]) -> None:
        self.endpoints: dict[str, str] = {}
        self._sent: list[tuple[str, bytearray]] = []
        self._closed = threading.Event()
        self._threads = []
        for name, endpoint in endpoints.items():
            listener = socket.create_server(("127.0.0.1", 0))
            self.endpoints[name] = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
            target = urlparse(endpoint)
            address = (str(target.hostname), int(target.port or 0))
            self._start(self._accept, name, listener, address)

    def messages(self) -> list[tuple[str, list[bytes]]]:
        """(socket, parts) of every whole message that the robot sent."""
        return [(name, parts) for name, data in self._sent for parts in messages(bytes(data))]

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join(5.0)

    def _start(self, work, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, name: str, listener: socket.socket, address: tuple[str, int]) -> None:
        listener.settimeout(0.1)
        with listener:
            while not self._closed.is_set():
                with contextlib.suppress(TimeoutError, ConnectionError):
                    robot, _ = listener.accept()
                    self._start(self._pass_on, name, robot, socket.create_connection(address))

    def _pass_on(self, name: str, robot: socket.socket, trainer: socket.socket) -> None:
        sent = bytearray()
        self._sent.append((name, sent))
        with robot, trainer, contextlib.suppress(OSError):
            while not self._closed.is_set():
                for ready in select.select([robot, trainer], [], [], 0.1)[0]:
                    data = ready.recv(1 << 16)
                    if not data:
                        return
                    if ready is robot:
                        sent += data
                    (trainer if ready is robot else robot).sendall(data)


def messages(data: bytes) -> list[list[bytes]]:
    """What one end of a ZMTP connection sent, without its commands; a message cut off is left out."""
    found: list[list[bytes]] = []
    parts: list[bytes] = []
    at = GREETING_BYTES
    while at + 2 <= len(data):
        flags, width = data[at], 8 if data[at] & LONG else 1
        size = int.from_bytes(data[at + 1 : at + 1 + width], "big")
        at += 1 + width
        if at + size > len(data):
            break
        if not flags & COMMAND:
            parts.append(data[at : at + size])
            if not flags & MORE:
                found.append(parts)
                parts = []
        at += size
    return found
