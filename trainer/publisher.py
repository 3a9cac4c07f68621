"""Publishes refined weights: signs, numbers, keeps, hands out. Owns the signing key and the releases on disk.

`prepare` writes a release that nobody is offered yet; `commit` makes it the newest. Between the two the
daemon writes its own state, so a crash anywhere neither repeats a publish_seq nor offers half a release.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from contracts import wire
from contracts.errors import ConfigError, PackageError, WireError
from contracts.files import atomic
from contracts.files.packages import safetensors_bytes
from contracts.messages import ReleaseChunk, ReleaseNone, ReleaseOffer, ReleaseQuery, ReleaseWant
from contracts.package import PackageManifest, check_tensors, package_id, weights_id
from contracts.release import MAX_WEIGHTS_BYTES, ReleaseManifest, sign
from trainer.interfaces import Update

MAX_CHUNK_BYTES = 4 * 1024 * 1024
KEY_FILE = "trainer.key"
PUBLIC_KEY_FILE = "trainer.pub"


class Publisher:
    """Releases of one target for one package."""

    def __init__(
        self,
        root: Path,
        package: PackageManifest,
        *,
        target: str = "policy",
        trainer: str = "trainer",
        robot_ids: Sequence[str] = (),
        valid_s: float = 7 * 86400.0,
        keep: int = 40,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`root`: folder of releases; the key pair is beside them."""
        self.target, self._package = target, package
        self._package_id = package_id(package)
        self._trainer, self._robot_ids = trainer, tuple(robot_ids)
        self._valid_s, self._keep, self._unix_clock = valid_s, keep, unix_clock
        self._folder = root / target
        atomic.make_directory(self._folder)
        self._key = open_key(root)
        self._newest: tuple[ReleaseManifest, ReleaseOffer, bytes] | None = None
        self.bytes_sent = 0

    @property
    def newest_seq(self) -> int:
        """publish_seq of what is offered, 0 before the first."""
        return self._newest[0].publish_seq if self._newest else 0

    @property
    def newest(self) -> ReleaseManifest | None:
        return self._newest[0] if self._newest else None

    def prepare(self, update: Update, iteration: int) -> ReleaseManifest:
        """Check, number, sign and write a release, synced. Raises `PackageError` if the tensors aren't
        finite values of exactly the package's refinable ones."""
        problems = check_tensors(self._package.refinable, update.tensors)
        if problems:
            raise PackageError(f"refiner's update can't be released: {'; '.join(problems[:5])}")
        data = safetensors_bytes(update.tensors)
        # Above everything that was ever on disk here, committed or not: a number is never used twice.
        seq = max([self.newest_seq, *(int(p.name) for p in self._folder.iterdir())], default=0) + 1
        now = self._unix_clock()
        manifest = ReleaseManifest(
            target=self.target,
            package_id=self._package_id,
            publish_seq=seq,
            parent=self.newest_seq,
            iteration=iteration,
            weights_id=weights_id(update.tensors),
            sha256=hashlib.sha256(data).hexdigest(),
            nbytes=len(data),
            tensors=self._package.refinable,
            samples=update.samples,
            robot_ids=self._robot_ids,
            calibration_id=self._package.observation.calibration_id,
            created_unix_s=now,
            expires_unix_s=now + self._valid_s,
            trainer=self._trainer,
            settings=dict(update.settings),
        )
        text, signature = sign(manifest, self._key)
        folder = self._folder / f"{seq:08d}"
        folder.mkdir()
        atomic.write_bytes(folder / "weights.safetensors", data)
        atomic.write_bytes(folder / "manifest.json", text)
        atomic.write_bytes(folder / "signature", signature)
        atomic.sync(self._folder)
        return manifest

    def commit(self, publish_seq: int) -> ReleaseOffer:
        """Offer that release from now on."""
        folder = self._folder / f"{publish_seq:08d}"
        text = atomic.read_bytes(folder / "manifest.json", wire.MAX_HEADER_BYTES)
        signature = atomic.read_bytes(folder / "signature", 64)
        data = atomic.read_bytes(folder / "weights.safetensors", MAX_WEIGHTS_BYTES)
        manifest = msgspec.json.decode(text, type=ReleaseManifest)
        offer = ReleaseOffer(self.target, text, signature)
        self._newest = (manifest, offer, data)
        for old in sorted(self._folder.iterdir())[: -self._keep]:
            if int(old.name) < publish_seq:
                shutil.rmtree(old, ignore_errors=True)
        return offer

    def load_weights(self, publish_seq: int) -> bytes:
        """The safetensors bytes of a release that is still on disk."""
        path = self._folder / f"{publish_seq:08d}" / "weights.safetensors"
        return atomic.read_bytes(path, MAX_WEIGHTS_BYTES)

    def answer_query(
        self, query: ReleaseQuery, iteration: int, note: str = ""
    ) -> ReleaseOffer | ReleaseNone:
        if query.target != self.target or query.package_id != self._package_id:
            return ReleaseNone(query.target, iteration, "this trainer refines another package")
        if self._newest is None or self.newest_seq <= query.have_seq:
            return ReleaseNone(query.target, iteration, note)
        return self._newest[1]

    def answer_want(self, want: ReleaseWant) -> list[bytes | memoryview]:
        """Parts of a `ReleaseChunk`. Raises `WireError` for what isn't offered or out of range."""
        if self._newest is None or want.publish_seq != self.newest_seq:
            raise WireError("release is not the newest", expected=self.newest_seq, found=want)
        data = self._newest[2]
        if not 0 <= want.offset < len(data) or not 0 < want.length <= MAX_CHUNK_BYTES:
            raise WireError("range of a release", expected=f"within {len(data)} bytes", found=want)
        part = np.frombuffer(data, np.uint8)[want.offset : want.offset + want.length]
        self.bytes_sent += part.nbytes
        chunk = ReleaseChunk(self.target, want.publish_seq, want.offset)
        return wire.pack(chunk, [wire.raw("data", part)])


def open_key(root: Path) -> Ed25519PrivateKey:
    """The trainer's signing key; made on first use, readable by its owner only. Its public half lies
    beside it as hex, for the robot (`link.trainer_key`)."""
    atomic.make_directory(root)
    path = root.parent / KEY_FILE
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        data = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        temporary = path.with_name(f".{KEY_FILE}.{os.getpid()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
        atomic.sync(path.parent)
    data = atomic.read_bytes(path, 1024)
    if len(data) != 32:
        raise ConfigError(f"{path} is not a signing key", expected="32 bytes", found=len(data))
    key = Ed25519PrivateKey.from_private_bytes(data)
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    atomic.write_bytes(path.with_name(PUBLIC_KEY_FILE), public.encode() + b"\n")
    return key
