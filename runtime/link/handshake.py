"""The robot's side of the greeting: who may be spoken to on a socket, and in which words.

One `Handshake` a socket, without the socket: sending is injected. Nothing but `Hello` is sent before the
trainer has answered `Welcome`; who was refused asks again seldom, who hears nothing asks again soon.
"""

from __future__ import annotations

from contracts import wire
from contracts.errors import WireError
from contracts.messages import Goodbye, Hello, Welcome
from runtime.link.episodes import Send

AGAIN_S = 1.0
REFUSED_AGAIN_S = 10.0
"""A person must do something first: install another release, give the robot its rights back."""
SILENT_S = 3.0
"""So long without a word, and the trainer is asked whether it is still the same one."""
AWAY_S = 2 * SILENT_S


class Handshake:
    """`welcomed` says whether anything else may be sent; `features` are those that both ends have."""

    def __init__(self, hello: Hello, send: Send) -> None:
        self._hello, self._send = hello, send
        self._parts = wire.pack(hello)
        self._heard_s = self._next_s = 0.0
        self._welcome: Welcome | None = None
        self.refusal: Goodbye | None = None
        """Why nothing may be sent; None while all is well or nobody has answered."""

    @property
    def welcomed(self) -> bool:
        return self._welcome is not None

    @property
    def features(self) -> frozenset[str]:
        return frozenset(self._welcome.features) if self._welcome else frozenset()

    def tick(self, now_s: float) -> None:
        """Say hello where that is due."""
        if self._welcome is not None:
            silent_s = now_s - self._heard_s
            if silent_s < SILENT_S:
                return
            if silent_s > AWAY_S:
                self._welcome = None
        if now_s >= self._next_s and self._send(self._parts):
            self._next_s = now_s + AGAIN_S

    def heard(self, now_s: float) -> None:
        """Anything at all came from the trainer."""
        self._heard_s = now_s

    def on_welcome(self, welcome: Welcome) -> None:
        """Raises `WireError` on an answer that names what was not offered."""
        low, high = self._hello.versions
        foreign = set(welcome.features) - set(self._hello.features)
        if not low <= welcome.version <= high or foreign:
            raise WireError(
                "welcome that does not answer our hello",
                expected=f"version {low} to {high}, features of {list(self._hello.features)}",
                found=f"version {welcome.version}, {sorted(foreign)}",
            )
        self._welcome, self.refusal = welcome, None

    def on_goodbye(self, goodbye: Goodbye, now_s: float) -> None:
        """Not or no longer welcome. "unknown" is a trainer that has started anew: greet it at once."""
        self._welcome = None
        unknown = goodbye.reason == "unknown"
        self.refusal = None if unknown else goodbye
        self._next_s = now_s if unknown else now_s + REFUSED_AGAIN_S


def in_words(goodbye: Goodbye, robot_id: str) -> str:
    """A refusal as a person should read it."""
    sentence = (
        f"the trainer refuses {robot_id} ({goodbye.reason}): {goodbye.detail or 'no reason given'}"
    )
    if goodbye.reason == "version":
        ours, theirs = (f"{low} to {high}" for low, high in (wire.VERSIONS, goodbye.versions))
        sentence += f"; wire versions here {ours}, there {theirs}"
    return sentence
