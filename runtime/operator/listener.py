"""The listening socket of the operator's page: how many may connect, how long a request may take.

Owns threads, places and deadlines, so that nobody without the token can keep the operator out; what is
answered is up to the handler.
"""

from __future__ import annotations

import io
import socket
import socketserver
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from runtime.operator.section import is_loopback

MOST_CONNECTIONS = 64
MOST_OF_ONE = 16
"""Connections from one address of the network: two browsers with six each, and some that are closing."""
FOR_LOOPBACK = 16
"""Places that the network never gets: `ssh -L` and the robot's own screen always come in."""
REQUEST_S = 3.0
"""From the first byte of a request (the first one: from its connection) to the last."""
IDLE_S = 10.0
"""Between two requests."""
REQUEST_BYTES = 16 * 1024
"""Request line, headers and body together."""
SEND_TIMEOUT_S = 20.0
_SEND_BUFFER = 16 * 1024


def _plain(address: str) -> str:
    """An IPv4 address as such where the socket is for both."""
    return address.removeprefix("::ffff:")


class Places:
    """Who has how many connections."""

    def __init__(
        self,
        most: int = MOST_CONNECTIONS,
        most_of_one: int = MOST_OF_ONE,
        for_loopback: int = FOR_LOOPBACK,
    ) -> None:
        self._most, self._most_of_one, self._for_loopback = most, most_of_one, for_loopback
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, address: str) -> bool:
        """False: there is none left for this address."""
        with self._lock:
            used, local = self._taken.total(), is_loopback(address)
            if used >= self._most or not (
                local
                or (
                    used < self._most - self._for_loopback
                    and self._taken[address] < self._most_of_one
                )
            ):
                return False
            self._taken[address] += 1
            return True

    def give_back(self, address: str) -> None:
        with self._lock:
            self._taken[address] -= 1
            if self._taken[address] <= 0:
                del self._taken[address]


class Requests(io.RawIOBase):
    """A socket's bytes, request by request: each must be whole by its deadline and no longer than it may."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._until_s = time.monotonic() + REQUEST_S
        self._begun, self._left = True, REQUEST_BYTES

    def next(self) -> None:
        """What is read from here on belongs to another request."""
        self._until_s = time.monotonic() + IDLE_S
        self._begun, self._left = False, REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises `TimeoutError` for a request that is late, or too long."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0.0 or self._left <= 0:
            raise TimeoutError
        self._connection.settimeout(left_s)
        try:
            got = self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(SEND_TIMEOUT_S)
        self._left -= got
        if not self._begun:
            self._begun, self._until_s = True, time.monotonic() + REQUEST_S
        return got


class TimedHandler(BaseHTTPRequestHandler):
    """A connection whose requests have a deadline."""

    protocol_version = "HTTP/1.1"
    timeout = SEND_TIMEOUT_S

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._requests = Requests(self.connection)
        self.rfile = io.BufferedReader(self._requests)

    def handle_one_request(self) -> None:
        super().handle_one_request()
        self._requests.next()


class Listener(ThreadingHTTPServer):
    """One thread a connection, so many at most; the kernel holds little for one that doesn't read."""

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], handler: type[TimedHandler]) -> None:
        self._places = Places()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Without the look-up of our own name that `HTTPServer` does, which can hang for long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.take(_plain(client_address[0])):
            self.shutdown_request(request)
            return
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.give_back(_plain(client_address[0]))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A viewer that went away is no error."""
