"""The trainer's signing key on disk: made on first use, changed by a statement that its old key signs.

Owns the key files beside the releases; whom robots believe is theirs to say (`contracts.key_rotation`). Every
change is made under a lock, since commands change what a running daemon signs with; looking changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.files.keys import read_secret, write_secret
from contracts.files.lock import locked
from contracts.key_rotation import MAX_CHAIN, NewKey, announce, hex_of, public_key
from contracts.messages import KeyStatement

KEY_FILE = "trainer.key"
NEXT_FILE = "trainer.key.next"
PUBLIC_KEY_FILE = "trainer.pub"
CHAIN_FILE = "trainer.chain"
FORMER_FILE = "trainer.former"
LOCK_FILE = "trainer.key.lock"
REPLACE = "robot-trainer keys replace --run-dir"


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


def told(root: Path) -> tuple[KeyStatement, ...]:
    """As much of the chain as a robot takes at once, its end. Raises `ConfigError` as `read_chain`."""
    return read_chain(root)[-MAX_CHAIN:]


def left_behind_since(root: Path) -> float:
    """Unix time of the step that falls out of what robots are told when the key is rotated once more: who was
    not here since then does not follow. 0.0 where none does."""
    chain = read_chain(root)
    if len(chain) < MAX_CHAIN:
        return 0.0
    return msgspec.json.decode(chain[-MAX_CHAIN].statement, type=NewKey).created_unix_s


def replace(root: Path) -> str:
    """A new key in the trainer's folder that nothing of the old one leads to, as that one may have leaked or
    is lost; hex of its public half. No statement is followed any more: robots must be enrolled again. What is
    on disk by the keys before counts as this trainer's (`SigningKey.signature_of`). Raises `ConfigError` for
    a folder that no key was ever made in."""
    if not any((root / name).exists() for name in (KEY_FILE, PUBLIC_KEY_FILE)):
        raise ConfigError(
            f"{root} holds no signing key", remedy="name the --run-dir of robot-trainer serve"
        )
    with locked(root / LOCK_FILE):
        _finish_rotation(root)
        chain = [msgspec.json.decode(one.statement, type=NewKey).old for one in read_chain(root)]
        public = root / PUBLIC_KEY_FILE
        lost = _checked(public) if public.exists() else ""
        known = dict.fromkeys([*_read_former(root), *chain, lost, read_public(root)])
        # In this order: broken off anywhere it may be said again, and no key is forgotten.
        atomic.write_bytes(root / FORMER_FILE, msgspec.json.encode([one for one in known if one]))
        write_secret(root / KEY_FILE, Ed25519PrivateKey.generate().private_bytes_raw())
        (root / CHAIN_FILE).unlink(missing_ok=True)
        _write_public(root)
        return read_public(root)


class SigningKey:
    """The key pair beside the folder of releases; its public half as hex, for robots' enrolment."""

    def __init__(self, releases: Path) -> None:
        """`releases`: <trainer's folder>/releases. Makes a key where there never was one. Raises
        `ConfigError` for a key that is none or that others may read, and for one that is gone."""
        self._folder = releases.parent
        atomic.make_directory(self._folder)
        with locked(self._folder / LOCK_FILE):
            _finish_rotation(self._folder)
            path, public = self._folder / KEY_FILE, self._folder / PUBLIC_KEY_FILE
            if not path.exists() and public.exists():
                raise ConfigError(
                    f"{path} is gone",
                    expected=f"the key of {public.name}, which robots trust",
                    remedy=f"put it back, or if it is lost: {REPLACE} {self._folder}",
                )
            if not path.exists():
                write_secret(path, Ed25519PrivateKey.generate().private_bytes_raw())
            self._stamp: object = None
            self._key = self._load()
            _write_public(self._folder)

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

    def chain(self) -> tuple[KeyStatement, ...]:
        """Every statement so far, oldest first: what a robot that was away follows."""
        return read_chain(self._folder)

    def rotate(self, trainer: str, now_unix_s: float) -> KeyStatement:
        """A new key from now on. A crash at any point leaves either the old one or the new one and its
        statement: the statement is on disk before the key takes its place."""
        with locked(self._folder / LOCK_FILE):
            _finish_rotation(self._folder)
            old, new = self._load(), Ed25519PrivateKey.generate()
            statement = announce(old, new, trainer=trainer, now_unix_s=now_unix_s)
            write_secret(self._folder / NEXT_FILE, new.private_bytes_raw())
            chain = msgspec.json.encode((*self.chain(), statement))
            atomic.write_bytes(self._folder / CHAIN_FILE, chain)
            _finish_rotation(self._folder)
            self._key = self._load()
            _write_public(self._folder)
        return statement

    def signature_of(self, text: bytes, path: Path) -> bytes:
        """The signature of `text` in the file `path`; one by a key that was given up is made anew. Raises
        `ConfigError` for any other."""
        signature = atomic.read_bytes(path, 64)
        key = self.private()
        if _signed(text, signature, key.public_key()):
            return signature
        former = [msgspec.json.decode(each.statement, type=NewKey).old for each in self.chain()]
        known = [*former, *_read_former(self._folder)]
        if not any(_signed(text, signature, public_key(hexed)) for hexed in known):
            raise ConfigError(
                f"{path} is not by this trainer",
                expected="a signature by its key, or by one that it replaced",
                remedy=f"put the right {KEY_FILE} back, or remove {path.parent}: its number is kept",
            )
        signature = key.sign(text)
        atomic.write_bytes(path, signature)
        return signature

    def _end_broken_rotation(self) -> None:
        """After a rotation that was killed: robots may follow its statement already. One that is under way
        ends by itself, and is not waited for."""
        if (self._folder / NEXT_FILE).exists():
            with contextlib.suppress(BlockingIOError), locked(self._folder / LOCK_FILE, wait=False):
                _finish_rotation(self._folder)
                _write_public(self._folder)

    def _load(self) -> Ed25519PrivateKey:
        self._stamp = self._file_stamp()
        return _private(self._folder / KEY_FILE)

    def _file_stamp(self) -> object:
        found = (self._folder / KEY_FILE).stat()
        return found.st_mtime_ns, found.st_ino


def _finish_rotation(root: Path) -> None:
    """Under the lock: a key that waits takes its place if it was announced, else nobody knows it."""
    path = root / NEXT_FILE
    if not path.exists():
        return
    chain = read_chain(root)
    announced = msgspec.json.decode(chain[-1].statement, type=NewKey).new if chain else ""
    if hex_of(_private(path).public_key()) == announced:
        os.replace(path, root / KEY_FILE)
    else:
        path.unlink()
    atomic.sync(root)


def _write_public(root: Path) -> None:
    path, said = root / PUBLIC_KEY_FILE, read_public(root).encode() + b"\n"
    if not path.exists() or path.read_bytes() != said:
        atomic.write_bytes(path, said)


def _checked(path: Path) -> str:
    text = atomic.read_bytes(path, 1024).decode("ascii", "replace").strip()
    try:
        public_key(text)
    except ValueError as error:
        raise ConfigError(
            f"{path} is not a public key", expected="64 hex digits", remedy=f"remove {path}"
        ) from error
    return text


def _read_former(root: Path) -> list[str]:
    """Keys (hex) that were replaced without a statement."""
    path = root / FORMER_FILE
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(atomic.read_bytes(path, atomic.MAX_JSON_BYTES), type=list[str])
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path} is malformed", found=str(error)) from error


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
