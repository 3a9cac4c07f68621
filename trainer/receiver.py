"""Receives finished episodes: offers in, wants out, bytes to disk; each episode exactly once.

Owns the inbox folder of partial logs. No sockets: messages in, messages out. A log counts as received
when its hash holds and it is synced under its final name; only then is it acknowledged.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import WireError
from contracts.files import atomic
from contracts.messages import EpisodeChunk, EpisodeOffer, EpisodeStored, EpisodeWant
from contracts.wire import Packet
from trainer.interfaces import EpisodeKey

CHUNK_BYTES = 512 * 1024
CREDIT = 4
MAX_PARTIAL = 32
SILENCE_S = 0.9
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")


@dataclass
class _Incoming:
    offer: EpisodeOffer
    received: int
    asked: int
    heard_s: float


class Receiver:
    """Partial logs of all robots. `have` says whether an episode is already stored; `accept` takes a
    whole, synced log under its temporary name and stores it."""

    def __init__(
        self,
        inbox: Path,
        have: Callable[[EpisodeKey], bool],
        accept: Callable[[EpisodeKey, Path, str], None],
        max_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox, self._have, self._accept = inbox, have, accept
        self._max_bytes, self._clock = max_bytes, clock
        self._incoming: dict[EpisodeKey, _Incoming] = {}
        self.received_bytes = self.corrupt = 0
        atomic.make_directory(inbox)

    def on_offer(self, offer: EpisodeOffer) -> list[EpisodeWant | EpisodeStored]:
        """What to answer. Raises `WireError` on an offer that can't be honoured."""
        key = check_key(offer.robot_id, offer.session_id, offer.episode_seq)
        if self._have(key):
            return [EpisodeStored(key.session_id, key.episode_seq)]
        if not 0 < offer.nbytes <= self._max_bytes:
            raise WireError(
                "episode of that size", expected=f"<= {self._max_bytes} bytes", found=offer.nbytes
            )
        if not re.fullmatch(r"[0-9a-f]{64}", offer.sha256):
            raise WireError("sha256 of an offer", found=offer.sha256[:80])
        now_s = self._clock()
        known = self._incoming.get(key)
        if known is not None and known.offer == offer and now_s - known.heard_s < SILENCE_S:
            return []  # its chunks are on their way
        if known is None and len(self._incoming) >= MAX_PARTIAL:
            oldest = min(self._incoming, key=lambda k: self._incoming[k].heard_s)
            del self._incoming[oldest]  # its bytes stay on disk, the next offer goes on with them
        partial = self._partial(key, offer.sha256)
        received = partial.stat().st_size if partial.exists() else 0
        if received >= offer.nbytes:
            partial.unlink()
            received = 0
        incoming = _Incoming(offer, received, received, now_s)
        self._incoming[key] = incoming
        return self._wants(incoming)

    def on_chunk(self, chunk: EpisodeChunk, packet: Packet) -> list[EpisodeWant | EpisodeStored]:
        key = check_key(chunk.robot_id, chunk.session_id, chunk.episode_seq)
        incoming = self._incoming.get(key)
        if incoming is None or chunk.offset != incoming.received:
            return []  # of a fetch that was given up, or one before it was lost: the next offer mends it
        data = packet.array("data")
        if data.dtype != "uint8" or not 0 < data.nbytes <= incoming.asked - incoming.received:
            raise WireError("episode chunk of another size than asked for", found=data.nbytes)
        with self._partial(key, incoming.offer.sha256).open("ab") as file:
            file.write(data.data)
        incoming.received += data.nbytes
        incoming.heard_s = self._clock()
        self.received_bytes += data.nbytes
        if incoming.received < incoming.offer.nbytes:
            return self._wants(incoming)
        del self._incoming[key]
        return self._complete(key, incoming.offer)

    def _wants(self, incoming: _Incoming) -> list[EpisodeWant | EpisodeStored]:
        offer = incoming.offer
        wants: list[EpisodeWant | EpisodeStored] = []
        while incoming.asked < offer.nbytes and (
            incoming.asked - incoming.received < CREDIT * CHUNK_BYTES
        ):
            length = min(CHUNK_BYTES, offer.nbytes - incoming.asked)
            wants.append(EpisodeWant(offer.session_id, offer.episode_seq, incoming.asked, length))
            incoming.asked += length
        return wants

    def _complete(self, key: EpisodeKey, offer: EpisodeOffer) -> list[EpisodeWant | EpisodeStored]:
        partial = self._partial(key, offer.sha256)
        digest = hashlib.sha256()
        with partial.open("rb") as file:
            while block := file.read(1024 * 1024):
                digest.update(block)
            os.fsync(file.fileno())
        if digest.hexdigest() != offer.sha256:
            # Bytes from before a crash that never reached the disk, or a broken sender: from the start.
            self.corrupt += 1
            partial.unlink()
            return []
        self._accept(key, partial, offer.sha256)
        return [EpisodeStored(key.session_id, key.episode_seq)]

    def _partial(self, key: EpisodeKey, sha256: str) -> Path:
        return self._inbox / f"{key}.{sha256[:8]}.part"


def check_key(robot_id: str, session_id: str, episode_seq: int) -> EpisodeKey:
    """The key, if its parts may become a file name. Raises `WireError`."""
    for part in (robot_id, session_id):
        if not _NAME.fullmatch(part):
            raise WireError("id on the wire", expected="letters, digits, '.', '-'", found=part[:80])
    if not 0 <= episode_seq < 10**8:
        raise WireError("episode_seq", found=episode_seq)
    return EpisodeKey(robot_id, session_id, episode_seq)
