"""Keys: words of an enrolment, passes on disk, statements of a new signing key and of a next CURVE key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from zmq.utils import z85

from contracts import enrolment
from contracts.enrolment import Ask, Commitment, Number, Refused, Verdict
from contracts.files.keys import PASSES, KeyStore, make_private
from contracts.key_rotation import (
    SERVER_PURPOSE,
    NextServerKey,
    announce,
    announce_next,
    follow,
    hex_of,
    read_next,
)
from contracts.messages import KeyStatement, NextKey
from contracts.sockets.admission import Pass
from tests.faults.fuzz.mutation import Rng, frame, mutate_bytes, of_tree, unframe
from tests.faults.fuzz.release_targets import KEY
from tests.faults.fuzz.target import Feed, Target, plain

NEW_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
CURVE, OTHER = (z85.encode(bytes(range(at, at + 32))).decode() for at in (0, 64))
ASK = Ask(enrolment.PROTOCOL, "bench-0", CURVE)
NUMBER = bytes(enrolment.NONCE_BYTES)
BOUND = enrolment.commit(NUMBER, ASK, "t", CURVE, hex_of(KEY.public_key()))
SAID = Commitment(enrolment.PROTOCOL, "t", CURVE, hex_of(KEY.public_key()), BOUND)


def _words() -> list[bytes]:
    words = (ASK, SAID, Number(NUMBER), Verdict(True), Refused("no"))
    return [enrolment.encode(word) for word in words]


def _hear(data: bytes) -> None:
    """What either end makes of a word before a person is asked."""
    word = enrolment.decode(data)
    if isinstance(word, Ask | Commitment):
        enrolment.check_protocol(word.protocol)
    if isinstance(word, Commitment):
        assert len(enrolment.code(ASK, word, bytes(32), bytes(32))) == enrolment.CODE_DIGITS
        enrolment.check_revealed(ASK, word, NUMBER)
    if isinstance(word, Number):
        enrolment.check_revealed(ASK, SAID, word.number)


def _passes() -> list[bytes]:
    first = Pass(name="arm-1", key=ASK.key, enrolled_unix_s=1.0)
    second = Pass(name="arm-1", key=OTHER, enrolled_unix_s=2.0, replaces=ASK.key)
    third = Pass(name="lab", key=CURVE, enrolled_unix_s=1.0, next_key=OTHER, next_number=3)
    return [msgspec.json.encode((first, second)), msgspec.json.encode((third,))]


@contextmanager
def _reading_passes(folder: Path) -> Iterator[Feed]:
    keys = KeyStore(folder / "keys")
    make_private(folder / "keys")
    path = folder / "keys" / PASSES
    path.touch(0o600)

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        for one in keys.passes():
            keys.allow_list().problem(one.key, 10.0)

    yield feed


def _statements() -> list[bytes]:
    """Statement, signature by the old key, signature by the new one."""
    said = announce(KEY, NEW_KEY, trainer="t", now_unix_s=1.0)
    return [frame([said.statement, said.by_old, said.by_new])]


def _mutate_statement(rng: Rng, data: bytes) -> bytes:
    """Often signed anew, as one could who has both keys; else whatever comes of it."""
    parts = unframe(data)
    if len(parts) != 3 or rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = of_tree(msgspec.json.decode, msgspec.json.encode)(rng, parts[0])
    return frame([text, KEY.sign(text), NEW_KEY.sign(text)])


def _follow(data: bytes) -> None:
    text, by_old, by_new, *_ = [*unframe(data), b"", b"", b""]
    pinned = hex_of(KEY.public_key())
    found = follow(pinned, [KeyStatement(text, by_old, by_new)])
    assert found in (pinned, hex_of(NEW_KEY.public_key()))


SAID_NEXT = NextServerKey(
    purpose=SERVER_PURPOSE, trainer="t", number=3, old=CURVE, new=OTHER, created_unix_s=1.0
)


def _next_keys() -> list[bytes]:
    """Statement and signature."""
    said = announce_next(SAID_NEXT, KEY)
    return [frame([said.statement, said.signature])]


def _mutate_next(rng: Rng, data: bytes) -> bytes:
    """Often signed anew, as a trainer gone bad would; else whatever comes of it."""
    parts = unframe(data)
    if len(parts) != 2 or rng.random() < 0.2:
        return mutate_bytes(rng, data)
    text = of_tree(msgspec.json.decode, msgspec.json.encode)(rng, parts[0])
    return frame([text, KEY.sign(text)])


@contextmanager
def _expecting(folder: Path) -> Iterator[Feed]:
    keys = KeyStore(folder / "keys")
    signs = hex_of(KEY.public_key())

    def feed(data: bytes) -> None:
        text, signature, *_ = [*unframe(data), b"", b""]
        said = read_next(NextKey(text, signature), signing_key=signs, present=CURVE)
        keys.add(Pass(name="t", key=CURVE, enrolled_unix_s=1.0))
        keys.expect(said, 10.0)
        (kept,) = keys.passes()
        assert (kept.key, kept.next_key) == (CURVE, said.new)

    yield feed


def targets() -> list[Target]:
    words = of_tree(msgspec.msgpack.decode, msgspec.msgpack.encode)
    json = of_tree(msgspec.json.decode, msgspec.json.encode)
    return [
        Target("enrolment", _words, words, plain(_hear), 12),
        Target("passes", _passes, json, _reading_passes, 4),
        Target("new key", _statements, _mutate_statement, plain(_follow), 4),
        Target("next key", _next_keys, _mutate_next, _expecting, 2),
    ]
