"""A robot follows the signing key from the one it has, by steps that both keys of a step have signed; the
CURVE key that is to come it takes on the signing key's word alone."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.errors import ReleaseRejected
from contracts.key_rotation import (
    MAX_CHAIN,
    MAX_NUMBER,
    SERVER_PURPOSE,
    NewKey,
    NextServerKey,
    announce,
    announce_next,
    follow,
    hex_of,
    read_next,
)
from contracts.messages import KeyStatement, NextKey
from contracts.sockets.curve import new_pair

KEYS = [Ed25519PrivateKey.generate() for _ in range(4)]
HEX = [hex_of(key.public_key()) for key in KEYS]


def step(old: int, new: int) -> KeyStatement:
    return announce(KEYS[old], KEYS[new], trainer="lab", now_unix_s=1.0)


CHAIN = (step(0, 1), step(1, 2))


@pytest.mark.parametrize("start", [0, 1, 2])
def test_whoever_was_away_ends_at_the_newest_key(start: int) -> None:
    assert follow(HEX[start], CHAIN) == HEX[2]


def test_a_chain_of_somebody_elses_keys_changes_nothing() -> None:
    assert follow(HEX[3], CHAIN) == HEX[3]


def forged(**changed: str) -> bytes:
    said = msgspec.json.decode(step(0, 1).statement, type=NewKey)
    return msgspec.json.encode(msgspec.structs.replace(said, **changed))


def by(*keys: int, statement: bytes) -> KeyStatement:
    return KeyStatement(statement, *(KEYS[key].sign(statement) for key in keys))


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (by(3, 1, statement=forged()), "signed by both"),  # not by the old key
        (by(0, 3, statement=forged()), "signed by both"),  # by one that does not hold the new key
        (by(0, 1, statement=forged(purpose="release")), "another kind"),
        (KeyStatement(forged(new=HEX[3]), step(0, 1).by_old, step(0, 1).by_new), "signed by both"),
        (by(0, 1, statement=forged(new="zz")), "malformed"),
        (by(0, 1, statement=b"{}"), "malformed"),
        (by(0, 1, statement=b"[" * 3000), "malformed"),
        (by(0, 1, statement=bytes(5000)), "too large"),
    ],
)
def test_nothing_of_a_chain_with_a_false_statement_is_believed(
    statement: KeyStatement, why: str
) -> None:
    with pytest.raises(ReleaseRejected, match=why) as error:
        follow(HEX[0], (step(0, 1), statement, step(1, 2)))
    assert error.value.reason == "key"


def test_a_chain_never_goes_back_to_a_key_that_was_given_up() -> None:
    with pytest.raises(ReleaseRejected, match="given up"):
        follow(HEX[0], (step(0, 1), step(1, 0)))


@pytest.mark.parametrize(
    "spell", [str.upper, lambda key: f"{key[:6]} {key[6:]}"], ids=["large-letters", "a-space"]
)
def test_nor_where_that_key_is_spelled_otherwise(spell: Callable[[str], str]) -> None:
    """Signed by both keys: found by fuzzing, since `bytes.fromhex` passes over case and spaces."""
    text = step(1, 0).statement.replace(HEX[0].encode(), spell(HEX[0]).encode())
    back = KeyStatement(text, KEYS[1].sign(text), KEYS[0].sign(text))
    with pytest.raises(ReleaseRejected, match="malformed"):
        follow(HEX[0], (step(0, 1), back))


def test_a_chain_has_an_end() -> None:
    with pytest.raises(ReleaseRejected, match="too many"):
        follow(HEX[0], CHAIN * MAX_CHAIN)


PRESENT, NEXT = new_pair().public, new_pair().public
SAID = NextServerKey(
    purpose=SERVER_PURPOSE, trainer="lab", number=7, old=PRESENT, new=NEXT, created_unix_s=1.0
)


def test_a_next_curve_key_is_taken_on_the_signing_keys_word() -> None:
    message = announce_next(SAID, KEYS[0])
    assert read_next(message, signing_key=HEX[0], present=PRESENT) == SAID


def signed(key: int, **changed: object) -> NextKey:
    return announce_next(msgspec.structs.replace(SAID, **changed), KEYS[key])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (signed(1), "signature"),
        (NextKey(signed(0).statement, b""), "signature"),
        (NextKey(signed(0, new=PRESENT).statement, signed(0).signature), "signature"),
        (NextKey(step(0, 1).statement, step(0, 1).by_old), "key"),  # signed, but for something else
        (signed(0, purpose="entracte signing key 1"), "key"),
        (signed(0, number=0), "key"),
        (signed(0, number=MAX_NUMBER + 1), "key"),
        (signed(0, old=NEXT), "foreign"),
        (NextKey(bytes(5000), KEYS[0].sign(bytes(5000))), "key"),
        (NextKey(b"[" * 3000, KEYS[0].sign(b"[" * 3000)), "key"),
    ],
)
def test_an_announcement_that_is_not_to_be_believed_says_why(message: NextKey, reason: str) -> None:
    with pytest.raises(ReleaseRejected, match="next CURVE key is refused") as error:
        read_next(message, signing_key=HEX[0], present=PRESENT)
    assert error.value.reason == reason


def test_of_a_trainer_whose_signing_key_is_not_known_no_next_key_is_taken() -> None:
    with pytest.raises(ReleaseRejected) as error:
        read_next(signed(0), signing_key="", present=PRESENT)
    assert error.value.reason == "signature"
