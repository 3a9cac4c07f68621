"""Publishes refined weights: numbers, signs, encodes and hands out. Owns the releases on disk, not the key.

`prepare` writes a release that nobody is offered yet; `commit` makes it the newest. Between the two the
daemon writes its own state, so a crash anywhere neither repeats a publish_seq nor offers half a release.
Weights are served from the disk: whatever their size, the trainer holds none of them in memory.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts import wire
from contracts.encodings import sha256_hex
from contracts.errors import EntracteError, PackageError, WireError
from contracts.files import atomic
from contracts.files.packages import safetensors_bytes
from contracts.messages import (
    ReleaseChunk,
    ReleaseEncoding,
    ReleaseNone,
    ReleaseOffer,
    ReleaseQuery,
    ReleaseWant,
)
from contracts.package import PackageManifest, check_tensors, package_id, weights_id
from contracts.release import MAX_MANIFEST_BYTES, MAX_WEIGHTS_BYTES, ReleaseManifest, sign
from contracts.specs import spec_hash
from contracts.weights import read_tensors
from trainer.encoder import Encoder, EncodingOptions
from trainer.interfaces import Update
from trainer.served_files import ServedFiles
from trainer.signing import KEY_FILE, PUBLIC_KEY_FILE, SigningKey

__all__ = ["KEY_FILE", "PUBLIC_KEY_FILE", "Publisher"]

MAX_CHUNK_BYTES = 4 * 1024 * 1024
WANTED_S, MAX_WANTED = 60.0, 8
"""A release that a robot has wanted within so long is served on, and how many at most: a fetch over a slow
wire comes to its end, however often we publish."""
WEIGHTS, MANIFEST, SIGNATURE = "weights.safetensors", "manifest.json", "signature"


@dataclass(frozen=True)
class _Offered:
    """`signed_by`: the key of the offer's signature."""

    manifest: ReleaseManifest
    offer: ReleaseOffer
    signed_by: Ed25519PrivateKey


class Publisher:
    """Releases of one target for one package. One thread prepares and commits, another answers."""

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
        keep_mib: int = 4096,
        above: int = 0,
        own: Path | None = None,
        encodings: EncodingOptions | None = None,
        unix_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`root`: folder of releases; the key pair is beside it. `own`: the package's folder, for deltas
        against its own weights. The oldest releases go beyond `keep` of them or `keep_mib`. Numbers begin
        above `above`: those up to it were used."""
        self.target, self._package = target, package
        self._package_id = package_id(package)
        self._trainer, self._robot_ids = trainer, tuple(robot_ids)
        self._valid_s, self._keep, self._unix_clock = valid_s, keep, unix_clock
        self._keep_bytes, self._above, self._clock = keep_mib << 20, above, clock
        self._folder = root / target
        atomic.make_directory(self._folder)
        self._key = SigningKey(root)
        self._encoder = Encoder(self._folder, package, own, encodings or EncodingOptions())
        self._files = ServedFiles()
        self._lock = threading.Lock()
        """Of what is offered."""
        self._newest: _Offered | None = None
        self._serving: dict[int, _Offered] = {}
        self._wanted_s: dict[int, float] = {}
        """When each of those was wanted last."""
        self.bytes_sent = 0

    @property
    def newest_seq(self) -> int:
        """publish_seq of what is offered, 0 before the first."""
        return self._newest.manifest.publish_seq if self._newest else 0

    @property
    def newest(self) -> ReleaseManifest | None:
        return self._newest.manifest if self._newest else None

    @property
    def lapsed(self) -> bool:
        """Whether what was released last has expired: no robot takes it any more."""
        newest = self.newest
        return newest is not None and self._unix_clock() > newest.expires_unix_s

    def update_of(self, publish_seq: int) -> Update:
        """What that release holds, as an update that would release it anew. Raises `EntracteError` or
        `OSError`: it is gone, damaged, or of another package."""
        folder = self._release(publish_seq)
        data = self.load_weights(publish_seq)
        text = atomic.read_bytes(folder / MANIFEST, MAX_MANIFEST_BYTES)
        try:
            was = msgspec.json.decode(text, type=ReleaseManifest)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise PackageError(f"{folder} is damaged", found=str(error)) from error
        whole = was.package_id, was.sha256
        if whole != (found := (self._package_id, sha256_hex(data))):
            raise PackageError(f"{folder} is damaged or another's", expected=found, found=whole)
        tensors = {name: np.array(tensor) for name, tensor in read_tensors(data).items()}
        return Update(tensors, was.samples, {}, dict(was.settings), answers=was.answers)

    def last_update(self) -> Update | None:
        """Of the newest release that is still here and whole, as `update_of`; None where there is none."""
        offered = max(self.newest_seq, self._above)
        for seq in (int(folder.name) for folder in reversed(self._releases())):
            with contextlib.suppress(EntracteError, OSError):
                if seq <= offered:
                    return self.update_of(seq)
        return None

    def prepare(self, update: Update, iteration: int) -> ReleaseManifest:
        """Check, number, sign and write a release, synced. Raises `PackageError` if the tensors aren't
        finite values of exactly the package's refinable ones."""
        problems = check_tensors(self._package.refinable, update.tensors)
        if problems:
            raise PackageError(f"refiner's update can't be released: {'; '.join(problems[:5])}")
        data = safetensors_bytes(update.tensors)
        seq = self._highest() + 1
        now = self._unix_clock()
        action = self._package.action
        manifest = ReleaseManifest(
            target=self.target,
            package_id=self._package_id,
            publish_seq=seq,
            parent=self.newest_seq,
            iteration=iteration,
            weights_id=weights_id(update.tensors),
            sha256=sha256_hex(data),
            nbytes=len(data),
            tensors=self._package.refinable,
            samples=update.samples,
            robot_ids=self._robot_ids,
            calibration_id=self._package.observation.calibration_id,
            created_unix_s=now,
            expires_unix_s=now + self._valid_s,
            trainer=self._trainer,
            settings=dict(update.settings),
            observation=spec_hash(self._package.observation),
            action=spec_hash(action) if action else "",
            answers=update.answers,
        )
        text, signature = sign(manifest, self._key.private())
        folder = self._release(seq)
        folder.mkdir()
        try:
            atomic.write_bytes(folder / WEIGHTS, data)
            atomic.write_bytes(folder / MANIFEST, text)
            atomic.write_bytes(folder / SIGNATURE, signature)
            self._encoder.write(folder, data)
            atomic.sync(self._folder)
        except BaseException:
            # Its number stays taken, its bytes don't: each try would fill the disk further.
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            raise
        return manifest

    def commit(self, publish_seq: int) -> ReleaseOffer:
        """Offer that release from now on."""
        folder = self._release(publish_seq)
        text = atomic.read_bytes(folder / MANIFEST, MAX_MANIFEST_BYTES)
        manifest = msgspec.json.decode(text, type=ReleaseManifest)
        size = (folder / WEIGHTS).stat().st_size
        if size != manifest.nbytes:
            raise PackageError(f"{folder} is damaged", expected=manifest.nbytes, found=size)
        signed_by = self._key.private()
        signature = self._key.signature_of(text, folder / SIGNATURE)
        offer = ReleaseOffer(self.target, text, signature, self._encoder.offered(folder))
        offered = _Offered(manifest, offer, signed_by)
        with self._lock:
            # The one before, too: it was offered just now, and a robot's first want may be on its way.
            before = {self.newest_seq, *self._under_way()}
            self._serving = {seq: each for seq, each in self._serving.items() if seq in before}
            self._serving[publish_seq] = self._newest = offered
            self._wanted_s = {seq: at for seq, at in self._wanted_s.items() if seq in before}
        self._drop_old(publish_seq)
        return offer

    def holds(self, publish_seq: int) -> bool:
        """Whether that release is still on disk."""
        return self._release(publish_seq).is_dir()

    def load_weights(self, publish_seq: int) -> bytes:
        """The safetensors bytes of a release that is still on disk."""
        return atomic.read_bytes(self._release(publish_seq) / WEIGHTS, MAX_WEIGHTS_BYTES)

    def is_asked(self, query: ReleaseQuery) -> bool:
        """Whether it is a release of ours that is asked for, and not of another package."""
        return query.target == self.target and query.package_id == self._package_id

    def answer_query(
        self,
        query: ReleaseQuery,
        iteration: int,
        note: str = "",
        features: Collection[str] = wire.FEATURES,
    ) -> ReleaseOffer | ReleaseNone:
        """`features`: those that the robot's greeting named."""
        if not self.is_asked(query):
            return ReleaseNone(query.target, iteration, "this trainer refines another package")
        self._encoder.heard(query.robot_id, query.have)
        with self._lock:
            if self._newest is None or self.newest_seq <= query.have_seq or self.lapsed:
                return ReleaseNone(query.target, iteration, note)
            key = self._key.private()
            if key is not self._newest.signed_by:  # robots that know the new key trust no other
                self._newest = _signed_anew(self._newest, key)
            if wire.ANSWERS not in features and self._newest.manifest.answers:
                return _without_answers(self._newest)
            return self._newest.offer

    def outrun_by(self, query: ReleaseQuery) -> int | None:
        """The highest number known here, where that robot has seen a higher one of this package: it takes
        none up to that. None where it has not."""
        if not self.is_asked(query):
            return None
        if query.have_seq <= max(self._above, self.newest_seq):
            return None
        highest = self._highest()
        return highest if query.have_seq > highest else None

    def answer_want(self, want: ReleaseWant) -> list[bytes | memoryview]:
        """Parts of a `ReleaseChunk`. Raises `WireError` for what isn't offered or out of range."""
        with self._lock:
            offered = self._serving.get(want.publish_seq)
            if offered is None:
                raise WireError(
                    "release is not offered", expected=sorted(self._serving), found=want.publish_seq
                )
            self._wanted_s[want.publish_seq] = self._clock()
        folder = self._release(want.publish_seq)
        path, size = folder / WEIGHTS, offered.manifest.nbytes
        if want.encoding:
            encoding = _named(offered.offer.encodings, want.encoding)
            path, size = self._encoder.path(folder, encoding.id), encoding.nbytes
        if not 0 <= want.offset < size or not 0 < want.length <= MAX_CHUNK_BYTES:
            raise WireError("range of a release", expected=f"within {size} bytes", found=want)
        data = self._files.read(path, want.offset, min(want.length, size - want.offset))
        self.bytes_sent += len(data)
        chunk = ReleaseChunk(self.target, want.publish_seq, want.offset, want.encoding)
        return wire.pack(chunk, [wire.raw("data", np.frombuffer(data, np.uint8))])

    def _under_way(self) -> list[int]:
        """What robots have wanted within `WANTED_S`, the latest wanted if those are too many."""
        since_s = self._clock() - WANTED_S
        lately = sorted(self._wanted_s, key=self._wanted_s.__getitem__, reverse=True)
        return [seq for seq in lately[:MAX_WANTED] if self._wanted_s[seq] >= since_s]

    def close(self) -> None:
        self._files.close()

    def _highest(self) -> int:
        """Of everything that was ever on disk here, committed or not: a number is never used twice."""
        on_disk = (int(path.name) for path in self._releases())
        return max([self._above, self.newest_seq, *on_disk])

    def _release(self, publish_seq: int) -> Path:
        return self._folder / f"{publish_seq:08d}"

    def _releases(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.name.isdigit())

    def _drop_old(self, publish_seq: int) -> None:
        """Beyond the number or the bytes that are kept, the oldest first, and what could not be written; of
        those that aren't served any more, the encoded files too. Never the newest or one that is served."""
        served = {self._release(seq) for seq in self._serving}
        kept, room = 0, self._keep_bytes
        for folder in reversed(self._releases()):
            if folder not in served:
                self._encoder.drop(folder)
            nbytes = sum(path.stat().st_size for path in folder.iterdir())
            kept, room = kept + bool(nbytes), room - nbytes
            beyond = kept > self._keep or room < 0 or not nbytes
            if beyond and folder not in served and int(folder.name) < publish_seq:
                shutil.rmtree(folder, ignore_errors=True)


def _signed_anew(offered: _Offered, key: Ed25519PrivateKey) -> _Offered:
    """The same release by another key; on disk it is signed anew at the next start."""
    signature = key.sign(offered.offer.manifest)
    return replace(
        offered,
        offer=msgspec.structs.replace(offered.offer, signature=signature),
        signed_by=key,
    )


def _without_answers(offered: _Offered) -> ReleaseOffer:
    """The same release for a robot of before they were, which would take its manifest for none."""
    bare = msgspec.structs.replace(offered.manifest, answers=b"")
    text, signature = sign(bare, offered.signed_by)
    return msgspec.structs.replace(offered.offer, manifest=text, signature=signature)


def _named(encodings: Sequence[ReleaseEncoding], name: str) -> ReleaseEncoding:
    for encoding in encodings:
        if encoding.id == name:
            return encoding
    raise WireError("no such encoding", expected=[e.id for e in encodings], found=name[:80])
