"""The link's four sockets: opened with the robot's keys, greeted, connected anew when the keys change.

Owns what may be said and when: nothing but `Hello` before the trainer's `Welcome`. What is said is others'.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from contracts import __version__, wire
from contracts.errors import EntracteError
from contracts.messages import AnyMessage, Goodbye, Hello, TrainerKeys, Welcome
from contracts.sockets import connect_anew, open_socket
from runtime.board import LinkState
from runtime.handshake import Handshake, in_words
from runtime.link_episodes import Parts
from runtime.link_keys import LinkKeys
from runtime.run import Run

HIGH_WATER_MARKS = {"frames": 4, "episodes": 64, "weights": 64, "health": 4}
GREETED = ("episodes", "weights")
MESSAGES_PER_TURN = 16


class LinkSockets:
    """Connections to one trainer. No call waits for the other end."""

    def __init__(self, run: Run, features: tuple[str, ...] = ()) -> None:
        """`features`: what this robot can do beyond `wire.FEATURES`. Raises `ConfigError` where an address
        needs keys and there are none."""
        link = run.config.link
        self._robot_id = run.config.robot.id
        self._addresses = {
            "frames": link.frames,
            "episodes": link.episodes,
            "weights": link.weights,
            "health": link.health,
        }
        self._keys = LinkKeys(link, Path(run.run_dir))
        security = self._keys.client()
        self._context = zmq.Context(io_threads=1)
        self._sockets: dict[str, zmq.Socket[bytes]] = {
            name: open_socket(
                self._context,
                zmq.DEALER,
                connect=address,
                high_water_mark=HIGH_WATER_MARKS[name],
                security=security,
            )
            for name, address in self._addresses.items()
        }
        self._poller = zmq.Poller()
        for name, socket in self._sockets.items():
            if name != "frames":  # nothing ever comes back on it
                self._poller.register(socket, zmq.POLLIN)
        can = (*wire.FEATURES, *features)
        hello = Hello(self._robot_id, run.session_id, wire.VERSIONS, can, __version__)
        self._greetings = {
            name: Handshake(hello, functools.partial(self._send, name)) for name in GREETED
        }
        self._refusal = ""

    def sender(self, name: str) -> Callable[[Parts], bool]:
        """What sends on that socket without waiting: False where there is no room or no welcome yet."""
        return functools.partial(self.say, name)

    def say(self, name: str, parts: Parts) -> bool:
        """Send what may only be said after the greeting; frames after that of `episodes`."""
        greeting = "episodes" if name == "frames" else name
        if greeting in self._greetings and not self._greetings[greeting].welcomed:
            return False
        return self._send(name, parts)

    def welcomed(self, name: str) -> bool:
        return self._greetings[name].welcomed

    def features(self, name: str) -> frozenset[str]:
        """What both ends can do, as far as they have greeted each other."""
        return self._greetings[name].features

    def poll(self, patience_ms: int) -> Iterator[tuple[str, list[bytes]]]:
        """(socket, parts) of some of what has arrived."""
        ready = dict(self._poller.poll(patience_ms))
        for name, socket in self._sockets.items():
            for _ in range(MESSAGES_PER_TURN if socket in ready else 0):
                try:
                    yield name, socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break

    def take(self, name: str, message: AnyMessage, now_s: float) -> bool:
        """Whether a message was about the connection itself and is dealt with. Raises `WireError`."""
        if isinstance(message, TrainerKeys):
            if self._keys.follow(message):
                _tell("the trainer's new signing key is taken")
            return True
        greeting = self._greetings.get(name)
        if greeting is None:
            return False
        if isinstance(message, Welcome):
            greeting.on_welcome(message)
        elif isinstance(message, Goodbye):
            greeting.on_goodbye(message, now_s)
        greeting.heard(now_s)
        return isinstance(message, Welcome | Goodbye)

    def tick(self, now_s: float) -> None:
        """Greet where that is due, and follow keys that were changed by a command."""
        for greeting in self._greetings.values():
            greeting.tick(now_s)
        if self._keys.needed and self._keys.changed(now_s):
            self._connect_anew()

    def state(self) -> LinkState:
        """How things stand with the trainer; a new refusal is said once."""
        greetings = self._greetings.values()
        refusals = [g.refusal for g in greetings if g.refusal is not None]
        said = in_words(refusals[0], self._robot_id) if refusals else ""
        if said and said != self._refusal:
            _tell(said)
        self._refusal = said
        if refusals:
            return LinkState.REFUSED
        everywhere = all(greeting.welcomed for greeting in greetings)
        return LinkState.WELCOME if everywhere else LinkState.ALONE

    def close(self) -> None:
        for socket in self._sockets.values():
            # What is acknowledged needs no linger; the last live frames get a moment.
            socket.close(linger=200)
        self._context.term()

    def _send(self, name: str, parts: Parts) -> bool:
        try:
            # Not copied above 64 kB: nothing that is sent is ever written to again.
            self._sockets[name].send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        return True

    def _connect_anew(self) -> None:
        """With the keys of now, or with none not at all."""
        try:
            security = self._keys.client()
        except EntracteError as error:
            security = None
            _tell(str(error))
        for name, address in self._addresses.items():
            connect_anew(self._sockets[name], address, security)
        now_s = time.monotonic()
        for greeting in self._greetings.values():
            greeting.on_goodbye(Goodbye("unknown"), now_s)


def _tell(what: str) -> None:
    print(f"link: {what}", file=sys.stderr, flush=True)
