"""Who is at the other end of each connection: greeted, for which robot, with which features. No sockets.

A connection is a socket's name and a routing id. What it says counts only after its `Hello`, and only about
the robot that it named there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from contracts import wire
from contracts.errors import WireError
from contracts.messages import Goodbye, Hello, Welcome

MAX_PEERS = 256
"""Connections known at once: two a robot. The one that was silent longest makes room for a new one."""
KEPT_S = 30.0
"""But none that spoke so recently: with all places taken by those, a new one is refused."""
MAX_OF_ROBOT = 4
"""Of one robot on one socket; it needs one, and one that broke without a word. Beyond it makes its own
room."""


@dataclass
class Peer:
    """One greeted connection."""

    robot_id: str
    session_id: str
    features: frozenset[str]
    heard_s: float


class Peers:
    """The greeted connections of all sockets. `may_speak(robot_id, user)`: "" or why the holder of a
    connection's key (`user`, empty without keys) may not speak for that robot."""

    def __init__(
        self,
        trainer_id: str,
        software_version: str = "",
        may_speak: Callable[[str, str], str] = lambda robot_id, user: "",
        clock: Callable[[], float] = time.monotonic,
        features: tuple[str, ...] = (),
    ) -> None:
        """`features`: what this end can do beyond `wire.FEATURES`."""
        self._trainer_id, self._software_version = trainer_id, software_version
        self._features = features
        self._may_speak, self._clock = may_speak, clock
        self._known: dict[tuple[str, bytes], Peer] = {}
        self.refused: dict[str, int] = {}
        """How many greetings and messages were turned away, by the reason of their `Goodbye`."""

    def greet(self, socket: str, peer: bytes, hello: Hello, user: str = "") -> Welcome | Goodbye:
        """The answer to a `Hello`; after a `Welcome` the connection is known."""
        self._known.pop((socket, peer), None)
        versions = range(
            max(hello.versions[0], wire.VERSIONS[0]), min(hello.versions[1], wire.VERSIONS[1]) + 1
        )
        if not versions:
            return self.turn_away("version", "no wire version that both ends know")
        problem = self._may_speak(hello.robot_id, user)
        if problem:
            return self.turn_away("identity", problem)
        now_s = self._clock()
        own = [(socket, each) for each in self.of_robot(hello.robot_id, socket)]
        full = len(own) >= MAX_OF_ROBOT
        if full or len(self._known) >= MAX_PEERS:
            oldest = min(own if full else self._known, key=lambda key: self._known[key].heard_s)
            if not full and now_s - self._known[oldest].heard_s < KEPT_S:
                return self.turn_away("full", f"{len(self._known)} connections are known already")
            del self._known[oldest]
        can = (*wire.FEATURES, *self._features)
        features = [name for name in hello.features if name in can]
        self._known[socket, peer] = Peer(
            hello.robot_id, hello.session_id, frozenset(features), now_s
        )
        return Welcome(self._trainer_id, versions[-1], tuple(features), self._software_version)

    def known(self, socket: str, peer: bytes) -> Peer | None:
        """Who that is, heard again now; None for one that must greet first."""
        found = self._known.get((socket, peer))
        if found is not None:
            found.heard_s = self._clock()
        return found

    def of_robot(self, robot_id: str, socket: str) -> list[bytes]:
        """Routing ids of that robot's greeted connections on a socket."""
        return [
            peer
            for (name, peer), known in self._known.items()
            if name == socket and known.robot_id == robot_id
        ]

    def on_socket(self, socket: str, feature: str = "") -> list[bytes]:
        """Routing ids of all greeted connections on a socket, of all or with that feature."""
        return [
            peer
            for (name, peer), known in self._known.items()
            if name == socket and (not feature or feature in known.features)
        ]

    def forget(self, robot_id: str) -> None:
        """That robot must greet again (its rights have changed)."""
        for key in [key for key, known in self._known.items() if known.robot_id == robot_id]:
            del self._known[key]

    def turn_away(self, reason: str, detail: str) -> Goodbye:
        """A counted refusal."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return Goodbye(reason, detail, wire.VERSIONS)


def check_speaker(peer: Peer, robot_id: str) -> None:
    """Raise `WireError` unless a message about `robot_id` comes from that robot's connection."""
    if peer.robot_id != robot_id:
        raise WireError(
            "message of another robot than the connection's",
            expected=peer.robot_id,
            found=robot_id[:80],
        )
