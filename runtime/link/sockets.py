"""The link's four sockets: opened with the robot's keys, greeted, connected anew when the keys change.

Owns what may be said and when: nothing but `Hello` before the trainer's `Welcome`. What is said is others'.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from contracts import __version__, wire
from contracts.errors import EntracteError, ReleaseRejected, WireError
from contracts.files.keys import fingerprint
from contracts.key_rotation import NEXT_KEY
from contracts.messages import (
    AnyMessage,
    Goodbye,
    Hello,
    NextKey,
    NextKeyStored,
    TrainerKeys,
    Welcome,
)
from contracts.sockets import connect_again, connect_anew, open_socket
from runtime.board import LinkState
from runtime.link.episodes import Parts
from runtime.link.handshake import Handshake, in_words
from runtime.link.keys import LinkKeys
from runtime.link.next_key import FailedHandshakes, NextKeyTrial
from runtime.run import Run

HIGH_WATER_MARKS = {"frames": 4, "episodes": 64, "weights": 64, "health": 4}
GREETED = ("episodes", "weights")
MESSAGES_PER_TURN = 16
SILENT_S, LOOK_S = 5.0, 0.25
"""After so long without a word the trainer's next key is tried; how often that is looked at."""
FAILED_S, FAILED_MOST = 15.0, 5
"""So long without a word, and so many handshakes that failed meanwhile, and people are told."""

DEAD_S, DEAF_TIMES = 30.0, 4.0
"""A socket that takes nothing for so long, or says nothing for so many times longer, is connected once more.
libzmq itself gives a connection up for good after it read what is none of its protocol (issues 1043, 4196 of
libzmq): a changed bit under CURVE, another program at the port. A changed length leaves it deaf."""


class LinkSockets:
    """Connections to one trainer. No call waits for the other end."""

    def __init__(self, run: Run, features: tuple[str, ...] = (), *, dead_s: float = DEAD_S) -> None:
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
        self._security = self._keys.client()
        self._context = zmq.Context(io_threads=1)
        self._sockets: dict[str, zmq.Socket[bytes]] = {
            name: open_socket(
                self._context,
                zmq.DEALER,
                connect=address,
                high_water_mark=HIGH_WATER_MARKS[name],
                security=self._security,
            )
            for name, address in self._addresses.items()
        }
        self._poller = zmq.Poller()
        for name, socket in self._sockets.items():
            if name != "frames":  # nothing ever comes back on it
                self._poller.register(socket, zmq.POLLIN)
        can = (*wire.FEATURES, *((NEXT_KEY,) if self._keys.needed else ()), *features)
        hello = Hello(self._robot_id, run.session_id, wire.VERSIONS, can, __version__)
        self._greetings = {
            name: Handshake(hello, functools.partial(self._send, name)) for name in GREETED
        }
        self._refusal = ""
        self._trial = NextKeyTrial(self._context, link.weights, hello, dead_s)
        weights = self._sockets["weights"]
        self._failed = FailedHandshakes(self._context, weights) if self._keys.needed else None
        self._heard_s = self._looked_s = time.monotonic()
        self._dead_s = dead_s
        self._took_s = dict.fromkeys(self._addresses, self._heard_s)
        self._said_s = {name: self._heard_s for name in self._addresses if name != "frames"}
        self._told, self._kept = False, ""
        self.refused: Counter[str] = Counter()
        """Announcements of a next key that were not believed, by their reason."""

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
        self._heard_s = self._said_s[name] = now_s
        if isinstance(message, TrainerKeys):
            if self._keys.follow(message):
                _tell("the trainer's new signing key is taken")
            return True
        if isinstance(message, NextKey):
            self._expect(message)
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
        if self._failed is not None and self._keys.changed(now_s):
            self._connect_anew()
        if now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        self._revive(now_s)
        if self._failed is not None:
            self._look_for_other_keys(now_s, self._failed)

    def _revive(self, now_s: float) -> None:
        """Connect those once more that are dead or deaf, where there is somebody to connect to."""
        if self._keys.needed and self._security is None:
            return
        for name, socket in self._sockets.items():
            if socket.poll(0, zmq.POLLOUT):
                self._took_s[name] = now_s
            dead = now_s - self._took_s[name] > self._dead_s
            deaf = now_s - self._said_s.get(name, now_s) > DEAF_TIMES * self._dead_s
            if not dead and not deaf:
                continue
            self._took_s[name] = now_s
            if name in self._said_s:
                self._said_s[name] = now_s
            connect_again(socket, self._addresses[name])
            if name in self._greetings:
                self._greetings[name].on_goodbye(Goodbye("unknown"), now_s)

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
        self._trial.close()
        if self._failed is not None:
            self._failed.close()
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
        # A slow connection is full whenever it is looked at.
        self._took_s[name] = time.monotonic()
        return True

    def _expect(self, message: NextKey) -> None:
        """The trainer's next key is acknowledged once it is on disk. Raises `WireError` for one that is not
        to be believed; the first of each kind is said."""
        try:
            key = self._keys.expect(message)
        except ReleaseRejected as error:
            self.refused[error.reason] += 1
            if self.refused[error.reason] == 1:
                _tell(str(error))
            raise WireError(str(error)) from error
        except EntracteError as error:
            raise WireError(str(error)) from error
        if key != self._kept:
            self._kept = key
            _tell(f"the trainer's next key {fingerprint(key)} is kept until the trainer uses it")
        self._send("weights", wire.pack(NextKeyStored(self._robot_id, key)))

    def _look_for_other_keys(self, now_s: float, failed: FailedHandshakes) -> None:
        """Of a trainer that says nothing: whether it has taken the key into use that it announced. Where
        somebody is there and neither key will do, people are told once."""
        silent_s = now_s - self._heard_s
        if silent_s < SILENT_S:
            self._trial.close()
            failed.forget()
            self._told = False
            return
        client = self._keys.next_client()
        try:
            if client is not None and self._trial.answered(client, now_s):
                self._trial.close()
                self._keys.store.take_next(client.server)
                _tell(
                    f"the trainer's announced key {fingerprint(client.server)} is in use now: taken"
                )
                self._connect_anew()
                return
        except (OSError, EntracteError) as error:
            _tell(f"the trainer's new key can't be kept: {error}")
            self._heard_s = now_s  # tried again later
        if silent_s >= FAILED_S and failed.look() >= FAILED_MOST and not self._told:
            self._told = True
            _tell(
                f"{self._addresses['weights']} is there and makes no connection with this robot's keys: it "
                "was revoked there, or the trainer has a new CURVE key since; robot-trainer keys list there "
                "says which, and robot-trainer enroll there with robot-run enroll here lets it in again"
            )

    def _connect_anew(self) -> None:
        """With the keys of now, or with none not at all; connections with the same keys stay."""
        try:
            security = self._keys.client()
        except EntracteError as error:
            security = None
            _tell(str(error))
        if security == self._security:
            return
        self._security = security
        for name, address in self._addresses.items():
            connect_anew(self._sockets[name], address, security)
        self._heard_s = now_s = time.monotonic()
        for greeting in self._greetings.values():
            greeting.on_goodbye(Goodbye("unknown"), now_s)


def _tell(what: str) -> None:
    print(f"link: {what}", file=sys.stderr, flush=True)
