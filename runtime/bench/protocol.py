"""What the bench process is asked and answers, over a Unix socket. Data only.

The robot's side (read, write, hold) is what an arm's bus would be; the experimenter's side (reset,
advance, expert, finish) is what people do around a robot. Truth leaves the bench only as `finished`
in evaluation, as labels in recordings, and where the config says `label: truth`.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from contracts.errors import DeviceError
from runtime.system.unix_socket import connect

_A = TypeVar("_A", bound="Answer")
MAX_MESSAGE_BYTES = 64 * 1024


class Request(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all requests."""


class Hello(Request, frozen=True):
    """Who is calling, for error messages."""

    caller: str


class Read(Request, frozen=True):
    """Joint positions now."""


class Write(Request, frozen=True):
    """Position targets under a lease's epoch; an older epoch is refused (fencing)."""

    epoch: int
    targets: tuple[float, ...]


class Hold(Request, frozen=True):
    """Keep the present pose."""

    epoch: int


class Advance(Request, frozen=True):
    """Simulated time goes on to `to_s` (asap), and every camera that is due takes a picture."""

    to_s: float


class Reset(Request, frozen=True):
    """The next scene. `purpose` as in `EpisodeStart`; `style` of the expert in recordings. `at_s`: simulated
    time that it begins at (asap), unless that is past."""

    task: str
    seed: int
    split: str
    episode_seq: int
    purpose: str
    style: str = ""
    at_s: float = 0.0


class Expert(Request, frozen=True):
    """What the teleoperator does next."""


class Finish(Request, frozen=True):
    """The episode ended: write its truth."""

    episode_seq: int
    reason: str
    steps: int
    policy_version: int
    detail: str = ""


class Answer(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all answers."""


class Welcome(Answer, frozen=True):
    """`intrinsics`: fx, fy, cx, cy by camera at the configured size."""

    now_s: float
    cameras: dict[str, tuple[float, float, float, float]]
    tasks: tuple[str, ...]


class Joints(Answer, frozen=True):
    """`targets`: the servos' goal positions as they are."""

    positions: tuple[float, ...]
    at_s: float
    velocities: tuple[float, ...] = ()
    targets: tuple[float, ...] = ()


class Done(Answer, frozen=True):
    """`accepted` False: fenced off. `finished`: only ever set in evaluation or with `label: truth`;
    `progress`: only in refinement with `label: truth`."""

    now_s: float
    accepted: bool = True
    finished: bool = False
    progress: float = math.nan


class SceneReady(Answer, frozen=True):
    instruction: str
    time_limit_s: float
    now_s: float


class ExpertMove(Answer, frozen=True):
    """`progress` and `success` label the step; NaN and None where the plan does not ask for labels."""

    targets: tuple[float, ...]
    done: bool
    progress: float
    success: bool | None


class Finished(Answer, frozen=True):
    """`success`: None unless this bench may tell (recordings, `label: truth`)."""

    success: bool | None


class Failed(Answer, frozen=True):
    """The request could not be done; `what` is one sentence."""

    what: str


AnyRequest = Hello | Read | Write | Hold | Advance | Reset | Expert | Finish
AnyAnswer = Welcome | Joints | Done | SceneReady | ExpertMove | Finished | Failed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(AnyRequest).decode
_decode_answer = msgspec.msgpack.Decoder(AnyAnswer).decode


class BenchClient:
    """One caller's connection. Not for two threads at once."""

    def __init__(
        self, address: Path, caller: str, timeout_s: float = 20.0, patience_s: float = 60.0
    ) -> None:
        """Tries for `patience_s`: the bench may still be starting (an environment of other people's renders
        first). Raises `DeviceError`."""
        self._socket = connect(address, time.monotonic() + patience_s, "the bench")
        self._socket.settimeout(timeout_s)
        self._owed = 0
        self.welcome = self.ask(Hello(caller), Welcome)

    def ask(self, request: AnyRequest, kind: type[_A]) -> _A:
        """Send and wait for the answer of that kind. Raises `DeviceError`."""
        try:
            self._socket.send(encode(request))
            self._owed += 1
            data = b""
            while self._owed:  # answers that came too late for whom they were for go first
                data = self._socket.recv(MAX_MESSAGE_BYTES)
                self._owed -= 1
        except OSError as error:
            raise DeviceError("the bench stopped answering", found=str(error)) from error
        if not data:
            raise DeviceError("the bench closed the connection")
        answer = _decode_answer(data)
        if isinstance(answer, Failed):
            raise DeviceError(answer.what)
        if not isinstance(answer, kind):
            raise DeviceError("the bench answered something else", found=type(answer).__name__)
        return answer

    def close(self) -> None:
        self._socket.close()
