"""The one exchange in clear: public keys and a code, on a socket that is open only while a person waits.

Owns the order of the words and the sockets; what they mean is `contracts.enrolment`'s. Nothing of the other
end is believed until `decide` (a person) has said that both show the same code.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import zmq

from contracts import enrolment
from contracts.enrolment import Ask, Commitment, EnrolmentFailed, Number, Refused, Verdict, Word
from contracts.errors import EntracteError
from contracts.sockets.addresses import bindable
from contracts.sockets.admission import Limits
from contracts.sockets.doorman import Doorman

ANSWER_S = 10.0
"""How soon a program answers; people have `patience_s`."""
LIMITS = Limits(messages_per_s=20.0, bytes_per_s=65536.0, held_bytes=1 << 20, silent=16)
W = TypeVar("W", bound=Word)

Decide = Callable[[str, str], bool]
"""(code, name of the other end) -> whether a person says that both ends show this code."""


class _Line:
    """Words to and from one other end."""

    def __init__(self, socket: zmq.Socket[bytes], peer: list[bytes]) -> None:
        self._socket, self._peer = socket, peer

    def say(self, word: Word) -> None:
        with contextlib.suppress(zmq.Again):  # it has left: hearing nothing says so
            self._socket.send_multipart([*self._peer, enrolment.encode(word)])

    def hear(self, kind: type[W], seconds: float, otherwise: str = "start both ends again") -> W:
        """The next word of the other end. Raises `EnrolmentFailed` for another one, a refusal, or silence;
        `otherwise`: what to do then."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            if not self._socket.poll(int(min(200, 1 + 1000 * left_s))):
                continue
            *peer, data = self._socket.recv_multipart()
            if peer != self._peer:
                self._socket.send_multipart([*peer, enrolment.encode(Refused("busy"))], zmq.NOBLOCK)
                continue
            word = enrolment.decode(data)
            if isinstance(word, Refused):
                raise EnrolmentFailed("the other end broke off", found=word.reason)
            if not isinstance(word, kind):
                raise EnrolmentFailed(
                    "the other end lost its place",
                    expected=kind.__name__,
                    found=type(word).__name__,
                )
            return word
        raise EnrolmentFailed(f"the other end said nothing for {seconds:.0f} s", remedy=otherwise)

    def settle(self, yes: bool, patience_s: float) -> None:
        """Tell what our person said, hear what theirs did. Raises `EnrolmentFailed` unless both said yes."""
        self.say(Verdict(yes))
        if not yes:
            raise EnrolmentFailed(
                "refused here: the codes were not said to be the same",
                remedy="if they differ somebody is in between: use another network",
            )
        if not self.hear(Verdict, patience_s).yes:
            raise EnrolmentFailed("refused by the person at the other end")


def enrol_with_trainer(
    address: str, ask: Ask, decide: Decide, *, patience_s: float = 300.0
) -> Commitment:
    """The robot's end: who the trainer is. Raises `EnrolmentFailed`; nothing may be kept then."""
    with _open(zmq.DEALER, connect=address) as (socket, _):
        line = _Line(socket, [])
        line.say(ask)
        said = line.hear(
            Commitment,
            patience_s,
            f"does robot-trainer enroll wait at {address}, and can this robot reach that?",
        )
        enrolment.check_protocol(said.protocol)
        number = enrolment.new_number()
        line.say(Number(number))
        trainers = line.hear(Number, ANSWER_S).number
        enrolment.check_revealed(ask, said, trainers)
        yes = decide(enrolment.code(ask, said, number, trainers), said.trainer_id)
        line.settle(yes, patience_s)
    return said


def enrol_robot(
    address: str,
    trainer_id: str,
    key: str,
    signing_key: str,
    decide: Decide,
    *,
    patience_s: float = 300.0,
    listening: Callable[[str], None] = lambda endpoint: None,
) -> Ask:
    """The trainer's end: takes the first robot that asks, and no other. Raises `EnrolmentFailed`."""
    with _open(zmq.ROUTER, bind=address) as (socket, door):
        listening(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        peer, ask = _first(socket, door, patience_s)
        line = _Line(socket, [peer])
        try:
            enrolment.check_protocol(ask.protocol)
        except EnrolmentFailed as error:
            line.say(Refused(str(error)[: enrolment.MAX_FIELD]))
            raise
        number = enrolment.new_number()
        said = Commitment(
            enrolment.PROTOCOL,
            trainer_id,
            key,
            signing_key,
            enrolment.commit(number, ask, trainer_id, key, signing_key),
        )
        line.say(said)
        robots = line.hear(Number, ANSWER_S).number
        if len(robots) != enrolment.NONCE_BYTES:
            raise EnrolmentFailed("the robot's number has another size", found=len(robots))
        line.say(Number(number))
        line.settle(decide(enrolment.code(ask, said, robots, number), ask.robot_id), patience_s)
    return ask


def _first(socket: zmq.Socket[bytes], door: Doorman, patience_s: float) -> tuple[bytes, Ask]:
    until_s = time.monotonic() + patience_s
    while (left_s := until_s - time.monotonic()) > 0:
        if not socket.poll(int(min(200, 1 + 1000 * left_s))):
            continue
        frames = socket.recv_multipart(copy=False)
        if door.admit(frames) is None or len(frames) != 2:
            continue
        with contextlib.suppress(EnrolmentFailed):  # a stranger's noise; the robot may come yet
            word = enrolment.decode(frames[1].bytes)
            if isinstance(word, Ask):
                return frames[0].bytes, word
    raise EnrolmentFailed(
        f"no robot asked within {patience_s:.0f} s",
        remedy="run robot-run enroll with this end's address while this command waits",
    )


@contextlib.contextmanager
def _open(
    kind: int, *, bind: str = "", connect: str = ""
) -> Iterator[tuple[zmq.Socket[bytes], Doorman]]:
    """A plain socket, on any one address: this is how keys come to be. Small parts, few of them."""
    address = bindable(bind) if bind else connect
    context: zmq.Context[Any] = zmq.Context(io_threads=1)
    door = Doorman(context, limits=LIMITS)
    socket = context.socket(kind)
    try:
        socket.maxmsgsize = enrolment.MAX_MESSAGE_BYTES
        socket.sndhwm = socket.rcvhwm = 16
        socket.sndtimeo = int(1000 * ANSWER_S)
        try:
            if bind:
                door.guard(socket)
                socket.bind(address)
                door.start()
            else:
                socket.connect(address)
        except zmq.ZMQError as error:
            raise EntracteError(
                f"cannot {'bind' if bind else 'connect to'} {address}",
                found=str(error),
                remedy="is the address right, and free?",
            ) from error
        yield socket, door
    finally:
        socket.close(linger=1000)
        door.close()
        context.term()
