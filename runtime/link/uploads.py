"""Episodes from the spool to the trainer: offered one at a time, given in pieces, kept until acknowledged.

No sockets: messages in, messages out through an injected `send`. Whatever holds an episode up for ever, a
trainer that will not take it or a disk that does not give it, must not hold up those that come after it.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from contracts import wire
from contracts.messages import (
    EpisodeChunk,
    EpisodeOffer,
    EpisodeStored,
    EpisodeWait,
    EpisodeWant,
)
from runtime.link.background import Background, at_once
from runtime.link.episodes import Send
from runtime.link.spool import Spool, Spooled

MAX_CHUNK_BYTES = 4 * 1024 * 1024
OFFER_AGAIN_S = 1.0
WAIT_AGAIN_S = 3.0
REFUSED_TIMES = 3
"""So often in a row the trainer must say that it has another log in an episode's place, or will never take
it, or the disk that it can't be read: once may be a bit."""


class Uploader:
    """Offers finished episodes one at a time, oldest first, until each is acknowledged."""

    def __init__(
        self, spool: Spool, robot_id: str, send: Send, background: Background = at_once
    ) -> None:
        """`background`: where episodes of an earlier start are hashed before they are offered."""
        self._spool, self._robot_id, self._send = spool, robot_id, send
        self._background = background
        self._current: tuple[str, int] | None = None
        self._again_s = -math.inf
        self._refusals: deque[str] = deque(maxlen=REFUSED_TIMES)
        self._reading: tuple[Spooled, Future[None]] | None = None
        self.delivered = self.bytes_sent = 0
        self.waits_for = ""
        """Why the trainer takes nothing in now, in its words; "" while it does."""

    @property
    def aside(self) -> dict[Path, str]:
        """Episodes that are kept here and not offered again, and why."""
        return self._spool.aside

    def tick(self, now_s: float) -> None:
        """Offer the next episode, or the same again when nothing was heard of it for a while."""
        if self._current is not None and now_s < self._again_s:
            return
        waiting = self._spool.waiting
        if not waiting:
            self._current = None
            return
        item = waiting[0]
        if not item.is_read and not self._read(item, now_s):
            return
        key, log = (item.session_id, item.episode_seq), item.log
        self._current, self._again_s = key, now_s + OFFER_AGAIN_S
        if not log.nbytes:  # the trainer asks for nothing of it: it would be offered for ever
            self._refused(key, "it is empty")
            return
        self._send(wire.pack(EpisodeOffer(self._robot_id, *key, log.nbytes, log.sha256)))

    def _read(self, item: Spooled, now_s: float) -> bool:
        """Whether it is known what to say of it: not while it is read, nor where the disk fails."""
        if self._reading is None or self._reading[0] is not item:
            self._reading = item, self._background(item.read)
        reading = self._reading[1]
        if not reading.done():
            return False
        self._reading = None
        error = reading.exception()
        if isinstance(error, OSError):
            key = (item.session_id, item.episode_seq)
            self._current, self._again_s = key, now_s + OFFER_AGAIN_S
            self._refused(key, f"it can't be read: {error}")
            return False
        reading.result()
        return True

    def on_want(self, want: EpisodeWant, now_s: float) -> None:
        """Raises `OSError` where the disk does not give it: then it is read anew before it is offered."""
        item = self._spool.find(want.session_id, want.episode_seq)
        if item is None or not 0 <= want.offset < item.nbytes or want.length <= 0:
            return
        self._again_s, self.waits_for = now_s + OFFER_AGAIN_S, ""
        try:
            with item.path.open("rb") as file:
                file.seek(want.offset)
                data = np.frombuffer(file.read(min(want.length, MAX_CHUNK_BYTES)), np.uint8)
        except OSError:
            item.doubt()
            raise
        if not data.nbytes:  # hashed anew: what is left is offered
            item.doubt()
            raise OSError(errno.EIO, f"{item.path.name} has lost its end")
        chunk = EpisodeChunk(self._robot_id, want.session_id, want.episode_seq, want.offset)
        if self._send(wire.pack(chunk, [wire.raw("data", data)])):
            self.bytes_sent += data.nbytes

    def on_wait(self, wait: EpisodeWait, now_s: float) -> None:
        """The trainer has no room: ask less often. What it will never take must not hold up the rest."""
        key = (wait.session_id, wait.episode_seq)
        if self._current != key:
            return
        self.waits_for, self._again_s = wait.reason, now_s + WAIT_AGAIN_S
        if wait.never:
            self._refused(key, f"the trainer will not take it: {wait.reason}")

    def on_stored(self, stored: EpisodeStored, now_s: float) -> None:
        """Drop what is stored, if it is what we have: what was acknowledged in error is kept."""
        key = (stored.session_id, stored.episode_seq)
        item = self._spool.find(*key)
        if item is None or not item.is_read:
            return
        if item.log.sha256 != stored.sha256:
            self._refused(key, f"the trainer has another one in its place ({stored.sha256})")
            return
        self._spool.drop(*key)
        self.delivered += 1
        self.waits_for = ""
        if self._current == key:
            self._current = None
            self.tick(now_s)

    def _refused(self, key: tuple[str, int], why: str) -> None:
        self._refusals.append(f"{key} {why}")
        if self._refusals.count(self._refusals[-1]) < REFUSED_TIMES:
            return
        self._spool.set_aside(*key, why)
        if self._current == key:
            self._current, self.waits_for = None, ""
