"""The socket of a simulation's process, and when its cameras take pictures. Knows no simulation."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from contracts.errors import EntracteError
from runtime.bench import protocol as p


def task_name(name: str) -> str:
    """People and command lines write open-drawer, the registry open_drawer."""
    return name.replace("-", "_")


class Simulation(Protocol):
    """What answers requests: a method for each kind. Each raises `EntracteError`, `ValueError`,
    `RuntimeError` or `OSError`."""

    def welcome(self, request: p.Hello, /) -> p.Welcome: ...
    def read(self, request: p.Read, /) -> p.Joints: ...
    def write(self, request: p.Write, /) -> p.Done: ...
    def hold(self, request: p.Hold, /) -> p.Done: ...
    def advance(self, request: p.Advance, /) -> p.Done: ...
    def reset(self, request: p.Reset, /) -> p.SceneReady: ...
    def expert(self, request: p.Expert, /) -> p.ExpertMove: ...
    def finish(self, request: p.Finish, /) -> p.Finished: ...

    def handle(self, request: p.AnyRequest) -> p.AnyAnswer:
        """By the kind of request."""
        made: p.AnyAnswer = getattr(self, _METHODS[type(request)])(request)
        return made


_METHODS = {
    p.Hello: "welcome",
    p.Read: "read",
    p.Write: "write",
    p.Hold: "hold",
    p.Advance: "advance",
    p.Reset: "reset",
    p.Expert: "expert",
    p.Finish: "finish",
}


class Shutters:
    """Which camera is due, in simulated time."""

    def __init__(self, rates_hz: Mapping[str, float]) -> None:
        self._periods_s = {name: 1.0 / rate_hz for name, rate_hz in rates_hz.items()}
        self._due_s = dict.fromkeys(rates_hz, 0.0)

    def begin(self, now_s: float) -> None:
        """A new scene: every camera takes a picture now."""
        self._due_s = dict.fromkeys(self._due_s, now_s)

    def release(self, now_s: float) -> list[str]:
        """The cameras whose period has passed; the next one of each begins."""
        due = [name for name, due_s in self._due_s.items() if now_s >= due_s - 1e-6]
        for name in due:
            self._due_s[name] = max(self._due_s[name] + self._periods_s[name], now_s)
        return due


def answer(bench: Simulation, data: bytes) -> p.AnyAnswer:
    """One request to one answer; a request that can't be done says why and changes nothing."""
    try:
        return bench.handle(p.decode_request(data))
    except msgspec.MsgspecError as error:
        return p.Failed(f"malformed request: {error}")
    except (EntracteError, ValueError, RuntimeError, OSError) as error:
        return p.Failed(str(error))


def serve(bench: Simulation, address: Path, stop: threading.Event) -> None:
    """Answer any number of clients until `stop`; a client that goes away is forgotten."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(address))
    listener.listen(16)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while not stop.is_set():
        for key, _ in selector.select(0.2):
            if key.fileobj is listener:
                client, _ = listener.accept()
                selector.register(client, selectors.EVENT_READ)
                continue
            assert isinstance(key.fileobj, socket.socket)
            client = key.fileobj
            try:
                data = client.recv(p.MAX_MESSAGE_BYTES)
                if data:
                    client.send(p.encode(answer(bench, data)))
                    continue
            except OSError:
                pass
            selector.unregister(client)
            client.close()
    listener.close()
