"""Two ends that have never met exchange public keys, and a person compares a code. Pure: messages in and out.

Commit, then reveal, as numeric comparison in Bluetooth (Core Specification 5.4, Vol 2, Part H, 7.2.1): the
trainer commits itself to a random number before it sees the robot's, so that nobody in between can choose
keys whose code is the same. One try in a million succeeds, and each try is a code that a person looks at.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

import msgspec

from contracts.errors import EntracteError

PROTOCOL = 1
NONCE_BYTES = 32
CODE_DIGITS = 6
MAX_MESSAGE_BYTES = 4096
MAX_FIELD = 200
PURPOSE = b"entracte enrolment 1"


class EnrolmentFailed(EntracteError):
    """No key was exchanged; the sentence says who broke it off."""


class _Word(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """Base of what the two ends say."""


class Ask(_Word, frozen=True, tag="ask"):
    """Robot -> trainer: who I am (`key`: CURVE public key, Z85)."""

    protocol: int
    robot_id: str
    key: str


class Commitment(_Word, frozen=True, tag="commitment"):
    """Trainer -> robot: who I am, and what binds me to the number that I reveal later."""

    protocol: int
    trainer_id: str
    key: str
    signing_key: str
    commitment: bytes


class Number(_Word, frozen=True, tag="number"):
    """Each end's random number; the trainer's after the robot's."""

    number: bytes


class Verdict(_Word, frozen=True, tag="verdict"):
    """What the person at this end said. Only a courtesy: each end believes its own person alone."""

    yes: bool


class Refused(_Word, frozen=True, tag="refused"):
    reason: str


Word = Ask | Commitment | Number | Verdict | Refused
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


def encode(word: Word) -> bytes:
    return _encoder.encode(word)


def decode(data: bytes) -> Word:
    """Raises `EnrolmentFailed` for anything that is not one of the words, or too large."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise EnrolmentFailed("message too large", found=len(data))
    try:
        word = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise EnrolmentFailed("message is not of an enrolment", found=str(error)[:200]) from error
    fields = (getattr(word, name) for name in word.__struct_fields__)
    if any(isinstance(one, str | bytes) and len(one) > MAX_FIELD for one in fields):
        raise EnrolmentFailed("a field is too long", expected=f"<= {MAX_FIELD}")
    return word


def new_number() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


def commit(trainer_number: bytes, ask: Ask, trainer_id: str, key: str, signing_key: str) -> bytes:
    """What the trainer sends first: binds its number and every name and key. 32 bytes."""
    fields = (PURPOSE, ask.robot_id, ask.key, trainer_id, key, signing_key)
    return hmac.new(trainer_number, _joined(*fields), hashlib.sha256).digest()


def check_revealed(ask: Ask, said: Commitment, trainer_number: bytes) -> None:
    """Raises `EnrolmentFailed` if the number is not the one that was committed to."""
    expected = commit(trainer_number, ask, said.trainer_id, said.key, said.signing_key)
    if len(trainer_number) != NONCE_BYTES or not hmac.compare_digest(expected, said.commitment):
        raise EnrolmentFailed(
            "the trainer revealed another number than it had committed to",
            remedy="somebody is in between: use another network, and enroll again",
        )


def code(ask: Ask, said: Commitment, robot_number: bytes, trainer_number: bytes) -> str:
    """Six digits over everything that was said; both ends show them, a person compares."""
    fields = (ask.robot_id, ask.key, said.trainer_id, said.key, said.signing_key)
    digest = hashlib.sha256(_joined(PURPOSE, *fields, robot_number, trainer_number)).digest()
    # 256 bits modulo a million: no digit is likelier by more than 1e-71.
    return f"{int.from_bytes(digest, 'big') % 10**CODE_DIGITS:0{CODE_DIGITS}d}"


def check_protocol(found: int) -> None:
    if found != PROTOCOL:
        raise EnrolmentFailed(
            "the two ends enroll differently",
            expected=f"protocol {PROTOCOL} (this end)",
            found=f"{found} (other end)",
            remedy="install the same release of entracte on both",
        )


def _joined(*fields: str | bytes) -> bytes:
    """Lengths before contents: no two lists of fields give the same bytes."""
    raw = [field.encode() if isinstance(field, str) else field for field in fields]
    return b"".join(len(field).to_bytes(4, "big") + field for field in raw)
