"""The socket side of an arm's process: connections, messages, and who is told what before the arm is open."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from runtime.arms import protocol as p
from runtime.system.priority import Rank, run_first


class Caller:
    """One connection; may be sent to from any thread."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, number: int, answer: p.AnyAnswer) -> None:
        try:
            data = p.encode((number, answer))
        except Exception as error:  # it holds what a driver said
            data = p.encode((number, _failed("send its answer", error)))
        with contextlib.suppress(OSError):  # gone: nobody waits
            self.connection.send(data, socket.MSG_DONTWAIT)


def _failed(to_do: str, error: Exception) -> p.Failed:
    words = ascii(str(error))[1:-1]  # whatever is in them, they can be sent
    return p.Failed(f"the arm's process could not {to_do}: {type(error).__name__}: {words}")


_AGAIN_S = 0.001
"""After an error of its own (no more files may be open, say) it isn't at once tried again."""

Answer = Callable[[Caller, int, p.AnyRequest], p.AnyAnswer | None]


class Answering:
    """Listens from the start; what is asked before `begin` or `refuse` waits for it. Whatever is raised,
    it goes on: without it nobody could ask for hold."""

    def __init__(self, address: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(address))
        self._listener.listen(16)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._rouse_r, self._rouse_w = os.pipe()
        self._selector.register(self._rouse_r, selectors.EVENT_READ)
        self._answer: Answer | None = None
        self._waiting: list[tuple[Caller, int, p.AnyRequest]] = []
        self._lock = threading.Lock()
        self._over = False
        self._said: str | None = None
        self._thread = threading.Thread(target=self._forever, name="answering", daemon=True)
        self._thread.start()

    def begin(self, answer: Answer) -> None:
        with self._lock:
            self._answer = answer
            waiting, self._waiting = self._waiting, []
        for caller, number, request in waiting:
            self._reply(answer, caller, number, request)

    def refuse(self, why: str) -> None:
        """Every request, those that wait too, is answered by this sentence."""
        self.begin(lambda _caller, _number, _request: p.Failed(why))

    def close(self) -> None:
        self._over = True
        os.write(self._rouse_w, b"x")
        self._thread.join(1.0)
        self._listener.close()

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forever(self) -> None:
        run_first(Rank.BUS)  # the loop waits for these answers; a thread has a priority of its own
        while not self._over:
            for key, _ in self._selector.select():
                try:
                    self._attend(key)
                except Exception as error:
                    self._note(error)
                    time.sleep(_AGAIN_S)

    def _attend(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._listener:
            connection, _ = self._listener.accept()
            self._selector.register(connection, selectors.EVENT_READ, Caller(connection))
        elif isinstance(key.data, Caller) and not self._take(key.data):
            self._selector.unregister(key.data.connection)
            key.data.connection.close()

    def _note(self, error: Exception) -> None:
        """To logs/arm.log, once where it comes again and again."""
        said = f"{type(error).__name__}: {error}"
        if said != self._said:
            self._said = said
            traceback.print_exc(file=sys.stderr)

    def _take(self, caller: Caller) -> bool:
        """One message. False: the connection has ended or sent something else than requests."""
        try:
            data = caller.connection.recv(p.MAX_MESSAGE_BYTES)
            if not data:
                return False
            number, request = p.decode_request(data)
        except (OSError, msgspec.MsgspecError):
            return False
        with self._lock:
            answer = self._answer
            if answer is None:
                self._waiting.append((caller, number, request))
                return True
        self._reply(answer, caller, number, request)
        return True

    def _reply(self, answer: Answer, caller: Caller, number: int, request: p.AnyRequest) -> None:
        said: p.AnyAnswer | None
        try:
            said = answer(caller, number, request)
        except Exception as error:
            self._note(error)
            said = _failed(f"answer ({type(request).__name__.lower()})", error)
        if said is not None:
            caller.send(number, said)
