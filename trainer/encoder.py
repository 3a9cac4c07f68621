"""Which encodings of a release are made, against which files. Owns the encoded files beside the weights.

A delta is worth what robots hold: they say so in every query, and the files that they name and that are still
here are the candidates. Until one was heard from, the last release and the package's own weights stand in.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from contracts.encodings import ZSTD, delta_id, encode, is_sha256, sha256_hex
from contracts.files import atomic
from contracts.files.own_weights import own_weights
from contracts.messages import ReleaseEncoding
from contracts.package import PackageManifest
from contracts.release import MAX_MANIFEST_BYTES
from trainer.config import ReleaseSection

INDEX = "encodings.json"
MAX_ROBOTS = 256
MAX_NAMED = 8
"""Files that count of those that one robot names: it has five at most."""
THREADS_FROM = 16 * 1024 * 1024


@dataclass(frozen=True)
class EncodingOptions:
    """`enabled`: make any at all. `worth`: only ones of at most this share of the file are kept. `bases`:
    deltas made for one release, each costs its time and its disk. `threads`: for files of 16 MiB and more."""

    enabled: bool = True
    worth: float = 0.95
    bases: int = 2
    threads: int = 2


def encodings_of(section: ReleaseSection) -> EncodingOptions:
    """As the config says."""
    return EncodingOptions(section.encode, bases=section.bases, threads=section.threads)


class Encoder:
    """Of one target's releases."""

    def __init__(
        self, folder: Path, package: PackageManifest, own: Path | None, options: EncodingOptions
    ) -> None:
        """`folder`: of the target's releases. `own`: the package's folder, None: its weights are no base."""
        self._folder, self._package, self._own, self._options = folder, package, own, options
        self._held: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._own_file: tuple[str, Path] | None = None

    def heard(self, robot_id: str, have: tuple[str, ...]) -> None:
        """A robot's word of what it holds (of the I/O thread, while another one encodes)."""
        if not have:
            return  # as before
        self._held[robot_id] = tuple(name for name in have[:MAX_NAMED] if is_sha256(name))
        self._held.move_to_end(robot_id)
        if len(self._held) > MAX_ROBOTS:
            self._held.popitem(last=False)

    def write(self, release: Path, data: bytes) -> None:
        """Encodings of `data`, the weights of `release`, into its folder, synced."""
        if not self._options.enabled:
            return
        found: list[ReleaseEncoding] = []
        many = len(data) >= THREADS_FROM and self._options.threads > 1
        with ThreadPoolExecutor(self._options.threads) if many else nullcontext() as pool:
            run = pool.map if pool else map
            bases, all_have_one = self._bases(release, len(data))
            for sha256, path in bases:
                base = np.memmap(path, np.uint8, mode="r")
                encoded = b"".join(encode(data, base.data, run))
                found += self._keep(release, delta_id(sha256), sha256, encoded, len(data))
            if not all_have_one or not found:
                encoded = b"".join(encode(data, None, run))
                found += self._keep(release, ZSTD, "", encoded, len(data))
        atomic.write_bytes(release / INDEX, msgspec.json.encode(found))

    def offered(self, release: Path) -> tuple[ReleaseEncoding, ...]:
        """The encodings that `release` has on disk, the smallest first; an index that can't be read counts
        as none, since the weights themselves can always be had."""
        try:
            data = atomic.read_bytes(release / INDEX, atomic.MAX_JSON_BYTES)
            listed = msgspec.json.decode(data, type=list[ReleaseEncoding])
        except (atomic.FileError, OSError, msgspec.MsgspecError):
            return ()
        there = [e for e in listed if _size(self.path(release, e.id)) == e.nbytes]
        return tuple(sorted(there, key=lambda encoding: encoding.nbytes))

    def path(self, release: Path, encoding_id: str) -> Path:
        return release / f"{encoding_id.replace(':', '-')}.encoded"

    def drop(self, release: Path) -> None:
        """Of a release that is not served any more."""
        (release / INDEX).unlink(missing_ok=True)
        for path in release.glob("*.encoded"):
            path.unlink(missing_ok=True)

    def _keep(
        self, release: Path, name: str, base: str, encoded: bytes, nbytes: int
    ) -> Iterator[ReleaseEncoding]:
        if len(encoded) <= self._options.worth * nbytes:
            atomic.write_bytes(self.path(release, name), encoded)
            yield ReleaseEncoding(name, base, len(encoded), sha256_hex(encoded))

    def _bases(self, release: Path, nbytes: int) -> tuple[list[tuple[str, Path]], bool]:
        """Files to make deltas against, and whether every known robot has one of them."""
        here = self._here(release, nbytes)
        robots = [have for have in list(self._held.values()) if have]
        if not robots:
            return list(here.items())[: min(1, self._options.bases)], False
        chosen: list[str] = []
        waiting = robots
        while waiting and len(chosen) < self._options.bases:
            # For each robot the newest of ours that it has; of those the one that most of them have.
            best = [next((sha for sha in here if sha in have), "") for have in waiting]
            votes = [sha for sha in best if sha]
            if not votes:
                break
            chosen.append(max(votes, key=votes.count))
            waiting = [have for have in waiting if chosen[-1] not in have]
        return [(sha, here[sha]) for sha in chosen], not waiting

    def _here(self, release: Path, nbytes: int) -> dict[str, Path]:
        """SHA-256 -> file, the newest release first, the package's own weights last; of that size only."""
        found: dict[str, Path] = {}
        others = (path for path in self._folder.iterdir() if path.name.isdigit())
        for folder in sorted(others, reverse=True):
            path = folder / "weights.safetensors"
            if folder != release and _size(path) == nbytes:
                found.setdefault(_signed_hash(folder), path)
        if self._own is not None:
            if self._own_file is None:
                self._own_file = own_weights(self._own, self._package, self._folder)
            sha256, path = self._own_file
            if _size(path) == nbytes:
                found.setdefault(sha256, path)
        found.pop("", None)
        return found


class _Hash(msgspec.Struct):
    sha256: str


def _signed_hash(release: Path) -> str:
    """What the manifest says; a base that is not it gives a delta that no robot takes."""
    try:
        data = atomic.read_bytes(release / "manifest.json", MAX_MANIFEST_BYTES)
        return msgspec.json.decode(data, type=_Hash).sha256
    except (atomic.FileError, OSError, msgspec.MsgspecError):
        return ""


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
