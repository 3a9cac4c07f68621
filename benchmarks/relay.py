"""Passes TCP bytes on and counts them: what a push really costs on the wire, framing and answers included."""

from __future__ import annotations

import contextlib
import socket
import threading

BLOCK = 1 << 18


class Relay:
    """Listens at `port` on loopback, for every connection opens one to `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._passed = 0

    @property
    def passed(self) -> int:
        """Bytes passed on so far, both ways."""
        with self._lock:
            return self._passed

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                other = socket.create_connection(self._target)
                self._sockets += [one, other]
                for pair in ((one, other), (other, one)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                with self._lock:
                    self._passed += len(data)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
