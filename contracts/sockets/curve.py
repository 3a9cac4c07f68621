"""CURVE keys (X25519 as Z85 text, https://rfc.zeromq.org/spec/26/) and what a client needs of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import zmq
from zmq.utils import z85

from contracts.errors import ConfigError

KEY_CHARACTERS = 40


@dataclass(frozen=True)
class KeyPair:
    """Both halves as 40 characters of Z85; the secret one is never printed."""

    public: str
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Client:
    """Security of a socket that connects: its own pair, and the one public key that it will talk to."""

    mine: KeyPair
    server: str


def new_pair() -> KeyPair:
    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def pair_of(secret: str) -> KeyPair:
    """Raises `ConfigError` if that is no secret key."""
    checked(secret)
    return KeyPair(zmq.curve_public(secret.encode("ascii")).decode("ascii"), secret)


def checked(key: str) -> str:
    """The key, if it is one. Raises `ConfigError`, without the key in its sentence: it may be a secret."""
    try:
        whole = len(key) == KEY_CHARACTERS and len(z85.decode(key)) == 32
    except (KeyError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise ConfigError("not a CURVE key", expected="40 characters of Z85")
    return key
