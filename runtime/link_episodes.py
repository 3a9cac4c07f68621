"""Episodes through the link: pictures encoded, packets logged in the spool, streamed live, uploaded.

Three small classes without sockets: `Recorder` (ring packets → spool and live stream), `LiveStream`
(newest wins) and `Uploader` (spool → trainer, resumable, acknowledged). Sending is injected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np

from contracts import images, wire
from contracts.errors import EntracteError, WireError
from contracts.files import atomic
from contracts.files.episode_log import EpisodeLogWriter
from contracts.messages import (
    EpisodeChunk,
    EpisodeEnd,
    EpisodeOffer,
    EpisodeStart,
    EpisodeStored,
    EpisodeWant,
    SessionStart,
    Step,
)
from runtime.spool import Spool

Parts: TypeAlias = list[bytes | memoryview]
Send: TypeAlias = Callable[[Parts], bool]
"""Hands parts to a socket without waiting; False when it has no room."""

MAX_CHUNK_BYTES = 4 * 1024 * 1024
OFFER_AGAIN_S = 1.0


class LiveStream:
    """Packets for whoever watches: at most `capacity` wait, the oldest goes first, and is counted."""

    def __init__(self, send: Send, capacity: int) -> None:
        self._send, self._waiting = send, deque[Parts](maxlen=max(1, capacity))
        self.sent = self.dropped = self.bytes_sent = 0

    def push(self, parts: Parts) -> None:
        if len(self._waiting) == self._waiting.maxlen:
            self.dropped += 1
        self._waiting.append(parts)
        self.flush()

    def flush(self) -> None:
        while self._waiting and self._send(self._waiting[0]):
            self.sent += 1
            self.bytes_sent += sum(len(part) for part in self._waiting.popleft())


def encode_step(packet: wire.Packet, quality: int) -> Parts:
    """The same step with raw colour as JPEG and raw depth packed losslessly; copies out of the ring."""
    buffers: list[tuple[wire.Buffer, bytes | np.ndarray]] = []
    for name, descriptor in packet.descriptors.items():
        if descriptor.codec == "raw" and name.endswith(".colour"):
            array = packet.array(name)
            data = images.encode_jpeg(array, quality)
            buffers.append(wire.encoded(name, images.JPEG, data, array.shape, "uint8"))
        elif descriptor.codec == "raw" and name.endswith(".depth"):
            array = packet.array(name)
            data = images.encode_depth(array)
            buffers.append(wire.encoded(name, images.DEPTH_VZS_ZSTD, data, array.shape, "uint16"))
        else:
            buffers.append((descriptor, bytes(packet.data[name])))
    return wire.pack(packet.message, buffers)


class Recorder:
    """Takes control's packets in order and makes one log an episode of them.

    Goes on after a kill of the link: the ring holds what was not taken, the open log what was; a packet
    that is in both (killed between writing and releasing it) is taken once.
    """

    def __init__(self, spool: Spool, live: LiveStream | None, jpeg_quality: int) -> None:
        self.spool, self._live, self._quality = spool, live, jpeg_quality
        self._session: SessionStart | None = None
        self._log: EpisodeLogWriter | None = None
        self._start: EpisodeStart | None = None
        self._steps, self._last_index = 0, -1
        self.error = ""
        """Why the last episode could not be kept; "" while all is well."""
        self.lost_records = 0
        self._session_path = spool.folder / "session.wire"
        self._resume()

    def take(self, packet: wire.Packet) -> None:
        """One packet from the ring; nothing of it is referred to afterwards."""
        message = packet.message
        if isinstance(message, SessionStart):
            self._begin_session(message)
        elif isinstance(message, EpisodeStart):
            self._begin(message)
        elif isinstance(message, Step):
            if message.index <= self._last_index:
                return
            self._steps, self._last_index = self._steps + 1, message.index
            self._add(encode_step(packet, self._quality))
        elif isinstance(message, EpisodeEnd):
            if self._start is not None:
                self._add(wire.pack(message))
                self._finish()
        else:
            raise WireError("message that control does not send", found=type(message).__name__)

    def close(self) -> None:
        """Finish an episode that control left open (it died): what there is is kept."""
        if self._start is not None:
            why = "control ended before the episode did"
            end = EpisodeEnd(self._start.episode_seq, self._steps, "aborted", None, why)
            self._add(wire.pack(end))
            self._finish()

    def _begin_session(self, message: SessionStart) -> None:
        if self._session is not None and self._session.session_id != message.session_id:
            self.close()
        self._session = msgspec.structs.replace(
            message, colour_codec=images.JPEG, depth_codec=images.DEPTH_VZS_ZSTD
        )
        atomic.write_bytes(self._session_path, bytes(wire.pack(self._session)[0]))

    def _begin(self, start: EpisodeStart) -> None:
        if start == self._start:
            return
        self.close()
        self._start, self._steps, self._last_index = start, 0, -1
        session = self._session
        try:
            if session is None or session.session_id != start.session_id:
                raise EntracteError("episode before its session's start", found=start.session_id)
            self._log = self.spool.begin(start.session_id, start.episode_seq)
            self.error = ""
            self._add(wire.pack(session))
        except (EntracteError, OSError) as error:
            self.error = str(error)
        self._add(wire.pack(start))

    def _add(self, parts: Parts) -> None:
        """The same packet to the log and to the live stream."""
        if self._live is not None:
            self._live.push(parts)
        if self._log is None:
            self.lost_records += 1
            return
        try:
            self._log.append(parts)
        except (EntracteError, OSError) as error:
            # A full disk must not take the stream or the loop with it; the torn log is kept as far as
            # it got and finished at the next start.
            self.error = str(error)
            self._log = None

    def _finish(self) -> None:
        log, start, self._log, self._start = self._log, self._start, None, None
        if log is None or start is None:
            return
        try:
            self.spool.finished(start.session_id, start.episode_seq, log.finish())
        except OSError as error:
            self.error = str(error)

    def _resume(self) -> None:
        if self._session_path.exists():
            data = atomic.read_bytes(self._session_path, wire.MAX_HEADER_BYTES)
            message = wire.unpack([data]).message
            self._session = message if isinstance(message, SessionStart) else None
        for log, packets in self.spool.interrupted():
            self.close()  # only the newest can still be running
            messages = [wire.unpack(parts).message for parts in packets]
            starts = [message for message in messages if isinstance(message, EpisodeStart)]
            steps = [message for message in messages if isinstance(message, Step)]
            if not starts:
                log.abandon()
                continue
            self._log, self._start = log, starts[0]
            self._steps, self._last_index = len(steps), steps[-1].index if steps else -1
            if isinstance(messages[-1], EpisodeEnd):
                self._finish()


class Uploader:
    """Offers finished episodes one at a time, oldest first, until each is acknowledged."""

    def __init__(self, spool: Spool, robot_id: str, send: Send) -> None:
        self._spool, self._robot_id, self._send = spool, robot_id, send
        self._current: tuple[str, int] | None = None
        self._active_s = 0.0
        self.delivered = self.bytes_sent = 0

    def tick(self, now_s: float) -> None:
        """Offer the next episode, or the same again when nothing was heard of it for a while."""
        if self._current is not None and now_s - self._active_s < OFFER_AGAIN_S:
            return
        waiting = self._spool.waiting
        if not waiting:
            self._current = None
            return
        item = waiting[0]
        offer = EpisodeOffer(
            self._robot_id, item.session_id, item.episode_seq, item.log.nbytes, item.log.sha256
        )
        self._current, self._active_s = (item.session_id, item.episode_seq), now_s
        self._send(wire.pack(offer))

    def on_want(self, want: EpisodeWant, now_s: float) -> None:
        item = self._spool.find(want.session_id, want.episode_seq)
        if item is None or not 0 <= want.offset < item.log.nbytes or want.length <= 0:
            return
        self._active_s = now_s
        with item.log.path.open("rb") as file:
            file.seek(want.offset)
            data = np.frombuffer(file.read(min(want.length, MAX_CHUNK_BYTES)), np.uint8)
        chunk = EpisodeChunk(self._robot_id, want.session_id, want.episode_seq, want.offset)
        if self._send(wire.pack(chunk, [wire.raw("data", data)])):
            self.bytes_sent += data.nbytes

    def on_stored(self, stored: EpisodeStored, now_s: float) -> None:
        if self._spool.drop(stored.session_id, stored.episode_seq):
            self.delivered += 1
        if self._current == (stored.session_id, stored.episode_seq):
            self._current = None
            self.tick(now_s)
