"""The episode log: wire packets of one episode in a file, each framed and checked. Owns its layout.

Magic, then records of [length u32, CRC-32 u32, body]; a body is [parts u8, part lengths u32.., parts].
Written to "<name>.part" and renamed when it is whole and synced, so a file under its final name is
finished. A reader stops at the first torn or corrupt record and says so: what came before it is good.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from contracts import wire
from contracts.errors import WireError
from contracts.files import atomic

MAGIC = b"ENTRLOG1"
PART_SUFFIX = ".part"
MAX_RECORD_BYTES = wire.MAX_BUFFER_BYTES
MAX_LOG_BYTES = 8 * 1024 * 1024 * 1024
_FRAME = struct.Struct("<II")


@dataclass(frozen=True)
class LogFile:
    """A finished log: what an `EpisodeOffer` says of it."""

    path: Path
    nbytes: int
    sha256: str


class EpisodeLogWriter:
    """Appends packets to `path`.part; `finish` makes it `path`. One writer at a time.

    Every packet is handed to the system before `append` returns: it outlives a kill of this process (a
    power cut may tear it). Nothing waits for the disk before `finish`.
    """

    def __init__(self, path: Path) -> None:
        atomic.make_directory(path.parent)
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX)
        self._digest = hashlib.sha256()
        self.nbytes = 0
        self._doubtful = False
        self._file = self.part.open("w+b", buffering=0)
        self._write([MAGIC])

    @classmethod
    def resume(cls, path: Path) -> EpisodeLogWriter:
        """Go on with the ".part" that a killed writer left; what is torn is cut off. The packets so far are
        there to be read from `part`, one at a time: they may be gigabytes. Raises `WireError` if it is no
        episode log."""
        part = path.with_name(path.name + PART_SUFFIX)
        reader = EpisodeLogReader(part)
        for _ in reader:
            pass
        writer = cls.__new__(cls)
        writer.path, writer.part, writer._digest = path, part, hashlib.sha256()
        writer._doubtful = False
        writer._file = part.open("r+b", buffering=0)
        writer._file.truncate(reader.good_bytes)
        while block := writer._file.read(1024 * 1024):
            writer._digest.update(block)
        writer.nbytes = reader.good_bytes
        return writer

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Add one packet (`wire.pack`'s parts), whole or not at all. Raises `WireError` if it breaks a cap,
        `OSError` where the disk can't take it: it may be tried again."""
        if not 1 <= len(parts) <= wire.MAX_PARTS:
            raise WireError(
                "wrong number of parts", expected=f"1 to {wire.MAX_PARTS}", found=len(parts)
            )
        sizes = [len(part) for part in parts]
        head = struct.pack(f"<B{len(parts)}I", len(parts), *sizes)
        size = len(head) + sum(sizes)
        if size > MAX_RECORD_BYTES or self.nbytes + size > MAX_LOG_BYTES:
            raise WireError(
                "packet too large for the log", expected=f"<= {MAX_RECORD_BYTES} bytes", found=size
            )
        crc = zlib.crc32(head)
        for part in parts:
            crc = zlib.crc32(part, crc)
        self._write([_FRAME.pack(size, crc), head, *parts])

    def finish(self) -> LogFile:
        """Sync, rename to the final name, sync the folder: from here on the episode is durable. Raises
        `OSError` where the disk can't take it: it may be tried again."""
        if not self._file.closed:
            self._sync()
            self._file.close()
        if self.part.exists():
            os.replace(self.part, self.path)
        atomic.sync(self.path.parent)
        return LogFile(self.path, self.nbytes, self._digest.hexdigest())

    def abandon(self) -> None:
        """Close and delete the unfinished file."""
        self._file.close()
        self.part.unlink(missing_ok=True)

    def _sync(self) -> None:
        """A sync that failed is not believed when it is repeated: the system may have dropped what it could
        not write, and calls the rest written. So all of it is written again, as it is read; if that is
        something else by now, its reader says where."""
        if self._doubtful:
            self._file.seek(0)
            self._digest = hashlib.sha256()
            while block := self._file.read(1024 * 1024):
                self._file.seek(-len(block), os.SEEK_CUR)
                if self._file.write(block) != len(block):
                    raise OSError(errno.ENOSPC, f"disk did not take {self.part.name}")
                self._digest.update(block)
        self._doubtful = True
        os.fsync(self._file.fileno())
        self._doubtful = False

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        size = sum(len(piece) for piece in pieces)
        descriptor = self._file.fileno()
        try:
            written = os.writev(descriptor, pieces)
            if written != size:
                raise OSError(
                    errno.ENOSPC, f"disk took {written} of {size} bytes of {self.part.name}"
                )
        except OSError:
            # As if it had not been tried: there may be room later.
            os.ftruncate(descriptor, self.nbytes)
            os.lseek(descriptor, self.nbytes, os.SEEK_SET)
            raise
        for piece in pieces:
            self._digest.update(piece)
        self.nbytes += size


class EpisodeLogReader:
    """Iterates over the packets' parts of a log. After the iteration `torn` says why it ended early
    ("" if it didn't) and `good_bytes` where the last whole record ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = ""
        self.good_bytes = 0

    def __iter__(self) -> Iterator[list[bytes]]:
        """Raises `WireError` only if the file is no episode log at all."""
        with self.path.open("rb") as file:
            total = os.fstat(file.fileno()).st_size
            if total > MAX_LOG_BYTES or file.read(len(MAGIC)) != MAGIC:
                raise WireError(
                    f"{self.path.name} is not an episode log", expected=MAGIC.decode(), found=total
                )
            self.torn, self.good_bytes = "", len(MAGIC)
            while self.good_bytes < total:
                body = self._body(file.read(_FRAME.size), file, total)
                if body is None:
                    return
                try:
                    parts = _split(body)
                except WireError as error:
                    self.torn = str(error)
                    return
                yield parts
                self.good_bytes += _FRAME.size + len(body)

    def packets(self) -> Iterator[wire.Packet]:
        """The same, decoded. Raises `WireError` on a packet that is whole and yet malformed."""
        for parts in self:
            yield wire.unpack(parts, oldest=wire.OLDEST_ON_DISK)

    def _body(self, frame: bytes, file: BinaryIO, total: int) -> bytes | None:
        if len(frame) < _FRAME.size:
            self.torn = f"torn in a frame header at byte {self.good_bytes}"
            return None
        size, crc = _FRAME.unpack(frame)
        left = total - self.good_bytes - _FRAME.size
        if not 0 < size <= MAX_RECORD_BYTES:
            self.torn = f"record of {size} bytes at byte {self.good_bytes} breaks the cap"
            return None
        if size > left:
            self.torn = f"torn in a record at byte {self.good_bytes}: {left} of {size} bytes"
            return None
        body = file.read(size)
        if zlib.crc32(body) != crc:
            self.torn = f"corrupt record at byte {self.good_bytes}"
            return None
        return body


def _split(body: bytes) -> list[bytes]:
    count = body[0]
    head = 1 + 4 * count
    if not 1 <= count <= wire.MAX_PARTS or len(body) < head:
        raise WireError("record with a wrong number of parts", found=count)
    sizes = struct.unpack_from(f"<{count}I", body, 1)
    if head + sum(sizes) != len(body):
        raise WireError("record's parts do not fill it", expected=len(body), found=sum(sizes))
    parts, at = [], head
    for size in sizes:
        parts.append(body[at : at + size])
        at += size
    return parts


def describe(path: Path) -> LogFile:
    """Size and hash of a finished log on disk."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1024 * 1024):
            digest.update(block)
        return LogFile(path, file.tell(), digest.hexdigest())
