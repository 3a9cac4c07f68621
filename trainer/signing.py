"""The trainer's signing key on disk: made on first use, changed by a statement that its old key signs.

Owns the key files beside the releases; whom robots believe is theirs to say (`contracts.key_rotation`). Every
change is made under a lock, since commands change what a running daemon signs with; looking changes nothing.
"""

from __future__ import annotations

import contextlib
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
from contracts.files.lock import locked
from contracts.key_rotation import NewKey, announce, hex_of, public_key
from contracts.messages import KeyStatement

KEY_FILE = "trainer.key"
NEXT_FILE = "trainer.key.next"
PUBLIC_KEY_FILE = "trainer.pub"
CHAIN_FILE = "trainer.chain"
LOCK_FILE = "trainer.key.lock"
LOOK_AGAIN_S = 0.1


def read_public(root: Path) -> str:
    """Hex of the public half of the key in the trainer's folder, "" where there is none yet. Raises
    `ConfigError` for one that is none or that others may read."""
    path = root / KEY_FILE
    return hex_of(_private(path).public_key()) if path.exists() else ""


def read_chain(root: Path) -> tuple[KeyStatement, ...]:
    """Every statement in the trainer's folder, oldest first. Raises `ConfigError` if they can't be read."""
    path = root / CHAIN_FILE
    if not path.exists():
        return ()
    data = atomic.read_bytes(path, atomic.MAX_JSON_BYTES)
    try:
        return msgspec.json.decode(data, type=tuple[KeyStatement, ...])
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{path} is malformed", found=str(error), remedy="enroll the robots again"
        ) from error


class SigningKey:
    """The key pair beside the folder of releases; its public half as hex, for robots' enrolment."""

    def __init__(self, releases: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """`releases`: <trainer's folder>/releases. Makes a key where there is none. Raises `ConfigError` for
        a key that is none or that others may read."""
        self._folder, self._clock = releases.parent, clock
        atomic.make_directory(self._folder)
        with locked(self._folder / LOCK_FILE):
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
        self._end_broken_rotation()
        if self._file_stamp() != self._stamp:
            self._key = self._load()
        return self._key

    def changed(self) -> bool:
        """True once after the key on disk was replaced by another; looks at most every `LOOK_AGAIN_S`."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_AGAIN_S:
            return False
        self._looked_s = now_s
        self._end_broken_rotation()
        if self._file_stamp() == self._stamp:
            return False
        before, self._key = self.public, self._load()
        return self.public != before

    def chain(self) -> tuple[KeyStatement, ...]:
        """Every statement so far, oldest first: what a robot that was away follows."""
        return read_chain(self._folder)

    def rotate(self, trainer: str, now_unix_s: float) -> KeyStatement:
        """A new key from now on. A crash at any point leaves either the old one or the new one and its
        statement: the statement is on disk before the key takes its place."""
        with locked(self._folder / LOCK_FILE):
            self._finish_rotation()
            old, new = self._load(), Ed25519PrivateKey.generate()
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

    def _end_broken_rotation(self) -> None:
        """After a rotation that was killed: robots may follow its statement already. One that is under way
        ends by itself, and is not waited for."""
        if (self._folder / NEXT_FILE).exists():
            with contextlib.suppress(BlockingIOError), locked(self._folder / LOCK_FILE, wait=False):
                self._finish_rotation()
                self._write_public()

    def _finish_rotation(self) -> None:
        """Under the lock: a key that waits takes its place if it was announced, else nobody knows it."""
        path = self._folder / NEXT_FILE
        if not path.exists():
            return
        chain = self.chain()
        announced = msgspec.json.decode(chain[-1].statement, type=NewKey).new if chain else ""
        if hex_of(_private(path).public_key()) == announced:
            os.replace(path, self._folder / KEY_FILE)
        else:
            path.unlink()
        atomic.sync(self._folder)

    def _load(self) -> Ed25519PrivateKey:
        self._stamp = self._file_stamp()
        return _private(self._folder / KEY_FILE)

    def _file_stamp(self) -> object:
        found = (self._folder / KEY_FILE).stat()
        return found.st_mtime_ns, found.st_ino

    def _write_public(self) -> None:
        path, said = self._folder / PUBLIC_KEY_FILE, read_public(self._folder).encode() + b"\n"
        if not path.exists() or path.read_bytes() != said:
            atomic.write_bytes(path, said)


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
