"""What an arm's process is asked and answers, over a Unix socket. Data only.

Every message carries a number, and an answer that of its request: what comes too late is recognised.
"""

from __future__ import annotations

import msgspec

from contracts.specs import ActionSpec

MAX_MESSAGE_BYTES = 64 * 1024


class Request(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all requests."""


class Hello(Request, frozen=True):
    """Who is calling. Answered once the arm is open, by `Welcome` or `Failed`."""

    caller: str


class Take(Request, frozen=True):
    """Commands of an older epoch are refused from here on."""

    epoch: int


class Read(Request, frozen=True):
    """The newest reading."""


class Write(Request, frozen=True):
    """Position targets in the spec's units."""

    epoch: int
    targets: tuple[float, ...]


class Hold(Request, frozen=True):
    """Stop and stay; answered when that has been read back. Never refused."""

    epoch: int


class Enable(Request, frozen=True):
    """Power the motors."""

    epoch: int


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all answers."""


class Welcome(Answer, frozen=True):
    """`degrees` as in `runtime.arms.Driver`."""

    spec: ActionSpec
    degrees: tuple[float, ...] | None = ()


class State(Answer, frozen=True):
    """As `runtime.arms.ArmState`."""

    positions: tuple[float, ...]
    at_s: float
    velocities: tuple[float, ...] | None
    targets: tuple[float, ...] | None
    torque: bool
    doubt_s: float = 0.0


class Done(Answer, frozen=True):
    """`accepted` False: the command was refused."""

    accepted: bool = True


class Failed(Answer, frozen=True):
    """The request could not be done; `what` is one sentence."""

    what: str


AnyRequest = Hello | Take | Read | Write | Hold | Enable
AnyAnswer = Welcome | State | Done | Failed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(tuple[int, AnyRequest]).decode
decode_answer = msgspec.msgpack.Decoder(tuple[int, AnyAnswer]).decode
