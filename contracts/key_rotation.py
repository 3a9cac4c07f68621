"""A trainer's new signing key, announced by its old one. Pure: keys and bytes in, verdict out.

A statement is signed twice: by the key that robots have (so that they may believe it) and by the new one
(so that nobody can announce a key that they don't hold). Statements form a chain, and a robot that was away
walks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from contracts.errors import ReleaseRejected
from contracts.messages import KeyStatement

PURPOSE = "entracte signing key 1"
MAX_STATEMENT_BYTES = 4096
MAX_CHAIN = 64


class NewKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is signed. Keys are 32 bytes in hex. `purpose` keeps these bytes apart from a release's manifest,
    which the same key signs."""

    purpose: str
    trainer: str
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


def public_key(hexed: str) -> Ed25519PublicKey:
    """Raises `ValueError` for anything but 64 hex digits."""
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(hexed))


def hex_of(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _refused(what: str, **evidence: object) -> ReleaseRejected:
    return ReleaseRejected("key", f"new signing key refused: {what}", **evidence)
