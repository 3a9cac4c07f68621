"""The trainer's signing key on disk: made on first use, changed by a statement that its old key signs.

Owns the key files beside the releases; whom robots believe is theirs to say (`contracts.key_rotation`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.files.keys import read_secret, write_secret
from contracts.key_rotation import NewKey, announce, hex_of, public_key
from contracts.messages import KeyStatement

KEY_FILE = "trainer.key"
NEXT_FILE = "trainer.key.next"
PUBLIC_KEY_FILE = "trainer.pub"
CHAIN_FILE = "trainer.chain"
LOOK_AGAIN_S = 0.1


class SigningKey:
    """The key pair beside the folder of releases; its public half as hex, for robots' enrolment."""

    def __init__(self, releases: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`releases`: <trainer's folder>/releases. Raises `ConfigError` for a key that is none or that
        others may read."""
        self._folder, self._clock = releases.parent, clock
        atomic.make_directory(self._folder)
        self._finish_rotation()
        path = self._folder / KEY_FILE
        if not path.exists():
            write_secret(path, Ed25519PrivateKey.generate().private_bytes_raw())
        self._stamp: object = None
        self._looked_s = -LOOK_AGAIN_S
        self._key = self._load()
        self._write_public()

    @property
    def public(self) -> str:
        """Hex of the public half."""
        return hex_of(self._key.public_key())

    def private(self) -> Ed25519PrivateKey:
        """The key to sign with now, which a command may have changed since the start."""
        if self._file_stamp() != self._stamp:
            self._key = self._load()
        return self._key

    def changed(self) -> bool:
        """True once after the key on disk was replaced by another; looks at most every `LOOK_AGAIN_S`."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_AGAIN_S:
            return False
        self._looked_s = now_s
        if self._file_stamp() == self._stamp:
            return False
        before, self._key = self.public, self._load()
        return self.public != before

    def chain(self) -> tuple[KeyStatement, ...]:
        """Every statement so far, oldest first: what a robot that was away follows."""
        path = self._folder / CHAIN_FILE
        if not path.exists():
            return ()
        data = atomic.read_bytes(path, atomic.MAX_JSON_BYTES)
        try:
            return msgspec.json.decode(data, type=tuple[KeyStatement, ...])
        except msgspec.MsgspecError as error:
            raise ConfigError(
                f"{path} is malformed", found=str(error), remedy="enroll the robots again"
            ) from error

    def rotate(self, trainer: str, now_unix_s: float) -> KeyStatement:
        """A new key from now on. A crash at any point leaves either the old one or the new one and its
        statement: the statement is on disk before the key takes its place."""
        old, new = self.private(), Ed25519PrivateKey.generate()
        statement = announce(old, new, trainer=trainer, now_unix_s=now_unix_s)
        write_secret(self._folder / NEXT_FILE, new.private_bytes_raw())
        chain = msgspec.json.encode((*self.chain(), statement))
        atomic.write_bytes(self._folder / CHAIN_FILE, chain)
        self._finish_rotation()
        self._key = self._load()
        self._write_public()
        return statement

    def signature_of(self, text: bytes, path: Path) -> bytes:
        """The signature of `text` in the file `path`; one by a key that was given up is made anew. Raises
        `ConfigError` for any other."""
        signature = atomic.read_bytes(path, 64)
        key = self.private()
        if _signed(text, signature, key.public_key()):
            return signature
        former = (msgspec.json.decode(each.statement, type=NewKey).old for each in self.chain())
        if not any(_signed(text, signature, public_key(hexed)) for hexed in former):
            raise ConfigError(
                f"{path} is not by this trainer",
                remedy="the trainer's key was replaced: delete its releases, or put the key back",
            )
        signature = key.sign(text)
        atomic.write_bytes(path, signature)
        return signature

    def _finish_rotation(self) -> None:
        path = self._folder / NEXT_FILE
        if not path.exists():
            return
        chain = self.chain()
        announced = msgspec.json.decode(chain[-1].statement, type=NewKey).new if chain else ""
        if hex_of(_private(path).public_key()) == announced:
            os.replace(path, self._folder / KEY_FILE)
        else:
            path.unlink()  # it was never announced
        atomic.sync(self._folder)

    def _load(self) -> Ed25519PrivateKey:
        self._stamp = self._file_stamp()
        return _private(self._folder / KEY_FILE)

    def _file_stamp(self) -> object:
        found = (self._folder / KEY_FILE).stat()
        return found.st_mtime_ns, found.st_ino

    def _write_public(self) -> None:
        atomic.write_bytes(self._folder / PUBLIC_KEY_FILE, self.public.encode() + b"\n")


def _private(path: Path) -> Ed25519PrivateKey:
    data = read_secret(path)
    if len(data) != 32:
        raise ConfigError(f"{path} is not a signing key", expected="32 bytes", found=len(data))
    return Ed25519PrivateKey.from_private_bytes(data)


def _signed(text: bytes, signature: bytes, key: Ed25519PublicKey) -> bool:
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True
