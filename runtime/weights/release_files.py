"""The files that a release arrives in and may be a difference from. Owns their names and their unpacking.

Under a slot's folder: what came so far, one file per encoding, so that a fetch goes on after any restart with
the very bytes that it began with. Runs beside the link's loop; slots own what state a file is in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.encodings import DELTA, KINDS, decode, is_sha256, kind_of, sha256_hex
from contracts.errors import ReleaseRejected
from contracts.files import atomic
from contracts.files.own_weights import own_weights
from contracts.messages import ReleaseEncoding
from contracts.package import PackageManifest, check_tensors
from contracts.release import MAX_WEIGHTS_BYTES, ReleaseManifest, verify_weights
from contracts.weights import read_tensors
from runtime.weights.slot_state import next_place
from runtime.weights.slots import SlotStore

MAX_OFFERED = 16
"""Encodings of one offer that are looked at."""


class EncodingRefused(ReleaseRejected):
    """An encoding, not the release, is at fault: the weights can still be had as they are."""


@dataclass(frozen=True)
class Way:
    """How a release is fetched: into `path`, `nbytes` in all, `received` of them there already."""

    encoding: ReleaseEncoding | None
    path: Path
    nbytes: int
    received: int

    @property
    def name(self) -> str:
        """As a `ReleaseWant` has it."""
        return self.encoding.id if self.encoding else ""


class ReleaseFiles:
    """Of one target's slots."""

    def __init__(self, slots: SlotStore, own: tuple[str, Path] | None = None) -> None:
        """`own`: SHA-256 and path of the package's own refinable weights (`contracts.files.own_weights`)."""
        self._slots, self._own = slots, own

    def held(self) -> dict[str, Path]:
        """SHA-256 -> file of what a delta may be against, the newest first. Not what the next fetch would
        write over."""
        state = self._slots.state()
        slots, victim = state.slots, next_place(state)
        found = {}
        for name, slot in sorted(slots.items(), key=lambda item: -item[1].publish_seq):
            path = self._slots.weights_path(name)
            if name != victim and slot.manifest is not None and path.is_file():
                found[slot.manifest.sha256] = path
        if self._own is not None:
            found.setdefault(*self._own)
        return found

    def choose(
        self,
        manifest: ReleaseManifest,
        slot: str,
        offered: Sequence[ReleaseEncoding],
        refused: Collection[str] = (),
    ) -> Way:
        """The way with the fewest bytes still to come. Ways that were `refused`, unknown ones, ones
        whose base this robot lacks and ones larger than the weights are passed over."""
        raw = self._slots.partial_path(slot)
        best = Way(None, raw, manifest.nbytes, _size(raw))
        if best.received > manifest.nbytes:
            raw.unlink()
            best = Way(None, raw, manifest.nbytes, 0)
        held = self.held()
        for encoding in offered[:MAX_OFFERED]:
            kind = kind_of(encoding.id)
            usable = kind in KINDS and (kind == DELTA) == bool(encoding.base)
            if not usable or encoding.id in refused or not is_sha256(encoding.sha256):
                continue
            if not 0 < encoding.nbytes < manifest.nbytes or encoding.base not in {"", *held}:
                continue
            path = raw.with_name(f"{kind}-{encoding.sha256[:32]}.part")
            there = min(_size(path), encoding.nbytes)
            if encoding.nbytes - there < best.nbytes - best.received:
                best = Way(encoding, path, encoding.nbytes, there)
        return best

    def unpack(
        self, manifest: ReleaseManifest, slot: str, way: Way, package: PackageManifest
    ) -> None:
        """What arrived becomes the slot's partial weights, synced and checked to the last byte. Raises
        `EncodingRefused` where the way was at fault and `ReleaseRejected` where the release is."""
        raw = self._slots.partial_path(slot)
        if way.encoding is not None:
            try:
                self._decode(manifest, raw, way, way.encoding)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    raw.unlink()  # or what is wrong would be taken for a fetch to go on with
                raise
        data = atomic.read_bytes(raw, MAX_WEIGHTS_BYTES)
        try:
            verify_weights(manifest, data)
        except ReleaseRejected as error:
            if way.encoding is None:
                raise
            raw.unlink()
            raise EncodingRefused(
                "encoding", f"{way.name} gave other weights than were signed", found=str(error)
            ) from error
        tensors = read_tensors(data)
        problems = check_tensors(package.refinable, tensors)
        if problems:
            as_named = {(n, str(t.dtype), t.shape) for n, t in tensors.items()} == {
                (spec.name, spec.dtype, spec.shape) for spec in package.refinable
            }
            reason = "non_finite" if as_named else "tensors"
            raise ReleaseRejected(reason, f"weights do not fit: {'; '.join(problems[:3])}")
        atomic.sync(raw)

    def forget(self, slot: str) -> None:
        """Drop what arrived encoded in that slot: it is unpacked, or of another release."""
        for path in self._slots.partial_path(slot).parent.glob("*-*.part"):
            path.unlink(missing_ok=True)

    def _decode(
        self, manifest: ReleaseManifest, raw: Path, way: Way, encoding: ReleaseEncoding
    ) -> None:
        encoded = atomic.read_bytes(way.path, MAX_WEIGHTS_BYTES)
        if sha256_hex(encoded) != encoding.sha256:
            raise EncodingRefused(
                "encoding", f"{encoding.id} arrived with other bytes than offered"
            )
        base = None
        if encoding.base:
            path = self.held().get(encoding.base)
            if path is None:
                raise EncodingRefused(
                    "base", f"the base of {encoding.id} is not held", expected=encoding.base[:16]
                )
            try:
                base = np.memmap(path, np.uint8, mode="r").data
            except (OSError, ValueError) as error:
                raise EncodingRefused("base", f"can't read {path}", found=str(error)) from error
        try:
            with raw.open("wb") as file:
                for part in decode(encoded, manifest.nbytes, base):
                    file.write(part.data)
        except ReleaseRejected as error:
            raise EncodingRefused(error.reason, f"{encoding.id}: {error}") from error


def write_own(package: Path, manifest: PackageManifest, slots: SlotStore) -> tuple[str, Path]:
    """`own_weights` beside the slots. The link alone calls it: what one that was killed at it left goes.
    Raises `PackageError`."""
    for left in slots.folder.glob(f".own-*{atomic.TEMPORARY_SUFFIX}"):
        left.unlink(missing_ok=True)
    return own_weights(package, manifest, slots.folder)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
