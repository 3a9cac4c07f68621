"""A trainer's new keys, announced before they are used. Pure: keys and bytes in, verdict out.

A new signing key is announced by the old one. A statement is signed twice: by the key that robots have (so
that they may believe it) and by the new one (so that nobody can announce a key that they don't hold).
Statements form a chain, and a robot that was away walks it.

The CURVE key that is to follow the present one is announced by the signing key: who stole the present one
can't announce another. That the trainer holds it is proven by the first connection that is made with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contracts.errors import ReleaseRejected
from contracts.messages import KeyStatement, NextKey

PURPOSE = "entracte signing key 1"
MAX_STATEMENT_BYTES = 4096
MAX_CHAIN = 64
NEXT_KEY = "next_key"
"""The feature by which a robot says in its greeting that it keeps its trainer's next CURVE key."""
SERVER_PURPOSE = "entracte server key 1"
MAX_NUMBER = 1 << 53


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed. Keys are 32 bytes in hex. `purpose` keeps these bytes apart from a release's manifest,
    which the same key signs."""

    purpose: str
    trainer: str
    old: str
    new: str
    created_unix_s: float


class NextServerKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed: `new` is to follow `old` (CURVE public keys, Z85). Of several that are to follow the
    same one that with the highest `number` counts. `purpose` as in `NewKey`."""

    purpose: str
    trainer: str
    number: int
    old: str
    new: str
    created_unix_s: float


def announce(
    old: Ed25519PrivateKey, new: Ed25519PrivateKey, *, trainer: str, now_unix_s: float
) -> KeyStatement:
    """The statement that moves every robot from `old` to `new`."""
    said = NewKey(
        purpose=PURPOSE,
        trainer=trainer,
        old=hex_of(old.public_key()),
        new=hex_of(new.public_key()),
        created_unix_s=now_unix_s,
    )
    data = msgspec.json.encode(said)
    return KeyStatement(data, old.sign(data), new.sign(data))


def follow(pinned: str, chain: Sequence[KeyStatement]) -> str:
    """The key (hex) that the chain leads to from `pinned`; `pinned` itself where nothing starts there.

    Raises `ReleaseRejected` ("key") for a statement that is signed wrongly, malformed or goes in a circle:
    nothing of such a chain is believed.
    """
    if len(chain) > MAX_CHAIN:
        raise _refused("too many statements", expected=f"<= {MAX_CHAIN}", found=len(chain))
    now, seen = pinned, {pinned}
    for statement in chain:
        said = _verified(statement)
        if said.old != now:
            continue  # from before this robot was enrolled
        if said.new in seen:
            raise _refused("a statement goes back to a key that was given up", found=said.new[:16])
        now = said.new
        seen.add(now)
    return now


def _verified(statement: KeyStatement) -> NewKey:
    """The content, if it is signed by both keys that it names."""
    if len(statement.statement) > MAX_STATEMENT_BYTES:
        raise _refused("statement too large", found=len(statement.statement))
    try:
        said = msgspec.json.decode(statement.statement, type=NewKey)
        old, new = public_key(said.old), public_key(said.new)
        old.verify(statement.by_old, statement.statement)
        new.verify(statement.by_new, statement.statement)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _refused("statement is malformed", found=str(error)) from error
    except InvalidSignature:
        raise _refused("statement is not signed by both keys") from None
    if said.purpose != PURPOSE:
        raise _refused("statement of another kind", expected=PURPOSE, found=said.purpose)
    return said


def announce_next(said: NextServerKey, signing: Ed25519PrivateKey) -> NextKey:
    """The message that has robots keep that CURVE key."""
    data = msgspec.json.encode(said)
    return NextKey(data, signing.sign(data))


def read_next(message: NextKey, *, signing_key: str, present: str) -> NextServerKey:
    """The content, if it is signed by `signing_key` (hex) and follows the CURVE key `present`. Whether it is
    older than one heard before is for the store of keys to say.

    Raises `ReleaseRejected`: "signature", "key" (malformed), or "foreign" (it follows another key).
    """
    if len(message.statement) > MAX_STATEMENT_BYTES:
        raise _next_refused("key", "statement too large", found=len(message.statement))
    try:
        public_key(signing_key).verify(message.signature, message.statement)
    except (InvalidSignature, ValueError):
        raise _next_refused(
            "signature",
            "not signed by this trainer's key",
            remedy="somebody else speaks with its CURVE key, or its signing key was replaced: enroll again",
        ) from None
    try:
        said = msgspec.json.decode(message.statement, type=NextServerKey)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _next_refused("key", "statement is malformed", found=str(error)) from error
    if said.purpose != SERVER_PURPOSE:
        raise _next_refused(
            "key", "statement of another kind", expected=SERVER_PURPOSE, found=said.purpose
        )
    if not 0 < said.number <= MAX_NUMBER:
        # Taken, it would be the last one that this robot ever takes.
        raise _next_refused("key", "its number is out of bounds", found=said.number)
    if said.old != present:
        raise _next_refused("foreign", "it follows a key that is not this trainer's now")
    return said


def public_key(hexed: str) -> Ed25519PublicKey:
    """Raises `ValueError` for anything but 64 lower-case hex digits: keys are compared as text."""
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(hexed))
    if hex_of(key) != hexed:
        raise ValueError("a key is 64 lower-case hex digits without spaces")
    return key


def hex_of(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _refused(what: str, **evidence: object) -> ReleaseRejected:
    return ReleaseRejected("key", f"new signing key refused: {what}", **evidence)


def _next_refused(reason: str, what: str, **evidence: object) -> ReleaseRejected:
    return ReleaseRejected(reason, f"the trainer's next CURVE key is refused: {what}", **evidence)
