"""Episodes through the link: packets logged in the spool and streamed live; `link_uploads` has the rest.

Two small classes without sockets: `Recorder` (ring packets → spool and live stream) and `LiveStream`
(newest wins). Sending is injected.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from contracts import images, wire
from contracts.age_histogram import AgeHistogram
from contracts.errors import EntracteError, WireError
from contracts.files import atomic
from contracts.files.episode_log import EpisodeLogReader, EpisodeLogWriter
from contracts.messages import (
    ABORTED,
    EpisodeEnd,
    EpisodeStart,
    SessionStart,
    Step,
)
from runtime.link.pictures import Buffers, LiveColour, encoded_buffers
from runtime.link.spool import Spool, SpoolFull

Parts: TypeAlias = list[bytes | memoryview]
Send: TypeAlias = Callable[[Parts], bool]
"""Hands parts to a socket without waiting; False when it has no room."""

REALTIME = "realtime"


class LiveStream:
    """Packets for whoever watches: at most `capacity` wait, the oldest steps go first, and are counted. What
    says which session or episode they are of stays: without it they would say nothing. With a step go those
    whose pictures are changes to its own: they would say nothing either."""

    def __init__(self, send: Send, capacity: int) -> None:
        self._send, self._capacity = send, max(1, capacity)
        self._waiting: deque[tuple[Parts, bool, bool | None]] = deque()
        self.sent = self.dropped = self.bytes_sent = 0
        self.broken = False
        """What is pushed next must not need what was pushed last; whoever obeys it takes it back."""

    @property
    def waiting(self) -> int:
        """Packets that found no room in the socket yet."""
        return len(self._waiting)

    def push(self, parts: Parts, *, step: bool = True, follows: bool | None = False) -> None:
        """`follows`: whether the pictures of a step need those pushed before; None: it has none."""
        self._waiting.append((parts, step, follows))
        if len(self._waiting) > self._capacity:
            self._drop()
        self.flush()

    def flush(self) -> None:
        while self._waiting and self._send(self._waiting[0][0]):
            self.sent += 1
            self.bytes_sent += sum(len(part) for part in self._waiting.popleft()[0])

    def _drop(self) -> None:
        at = next((n for n, (_, step, _) in enumerate(self._waiting) if step), 0)
        del self._waiting[at]
        self.dropped += 1
        while at < len(self._waiting):
            _, step, follows = self._waiting[at]
            if step and follows is False:
                return
            if step and follows:
                del self._waiting[at]
                self.dropped += 1
            else:
                at += 1
        self.broken = True


class Stalled(EntracteError):
    """The disk can't take a record now. It is still in the ring, and nothing of it was written."""


@contextlib.contextmanager
def _stalling(waits: bool) -> Iterator[None]:
    """Where `waits`, a disk or spool without room means `Stalled`."""
    try:
        yield
    except (SpoolFull, OSError) as error:
        if not waits:
            raise
        raise Stalled(str(error)) from error


class Recorder:
    """Takes control's packets in order and makes one log an episode of them.

    Goes on after a kill of the link: the ring holds what was not taken, the open log what was; a packet
    that is in both (killed between writing and releasing it) is taken once.
    """

    def __init__(
        self,
        spool: Spool,
        live: LiveStream | None,
        jpeg_quality: int,
        *,
        waits: bool = True,
        colour: LiveColour | None = None,
    ) -> None:
        """`waits`: whether a full disk is waited for (`Stalled`), or the episode goes on unrecorded.
        `colour`: what makes video of the live stream's pictures; None: they are those of the log."""
        self.spool, self._live, self._quality, self._colour = spool, live, jpeg_quality, colour
        self._waits, self._ended = waits, False
        self._session: SessionStart | None = None
        self._log: EpisodeLogWriter | None = None
        self._start: EpisodeStart | None = None
        self._steps, self._last_index = 0, -1
        self.error = ""
        """Why the last episode could not be kept; "" while all is well."""
        self.lost_records = self.unkept = 0
        """Records, and episodes, that are not on the disk or not whole."""
        self.ages = AgeHistogram()
        """Seconds from capture to the file, of the last steps; none in simulated time."""
        self._session_path = spool.folder / "session.wire"
        self._resume()

    def take(self, packet: wire.Packet) -> None:
        """One packet from the ring; nothing of it is referred to afterwards. Raises `Stalled` where the disk
        can't take it: then nothing has changed, and it must be offered again."""
        message = packet.message
        if isinstance(message, SessionStart):
            self._begin_session(message)
        elif isinstance(message, EpisodeStart):
            self._begin(message)
        elif isinstance(message, Step):
            if message.index <= self._last_index:
                return
            buffers = encoded_buffers(packet, self._quality)
            parts = wire.pack(message, buffers)
            self._add(parts)
            self._show_step(packet, buffers, parts)
            self._steps, self._last_index = self._steps + 1, message.index
            if message.captured_s and self._session is not None and self._session.pace == REALTIME:
                self.ages.add(time.monotonic() - min(message.captured_s.values()))
        elif isinstance(message, EpisodeEnd):
            if self._start is not None:
                self._end(message)
        else:
            raise WireError("message that control does not send", found=type(message).__name__)

    def close(self) -> None:
        """Finish an episode that control left open (it died): what there is is kept. Raises `Stalled`."""
        if self._start is not None:
            why = "control ended before the episode did"
            self._end(EpisodeEnd(self._start.episode_seq, self._steps, ABORTED, None, why))

    def _begin_session(self, message: SessionStart) -> None:
        if self._session is not None and self._session.session_id != message.session_id:
            self.close()
        session = msgspec.structs.replace(
            message, colour_codec=images.JPEG, depth_codec=images.DEPTH_VZS_ZSTD
        )
        try:
            with _stalling(self._waits):
                atomic.write_bytes(self._session_path, bytes(wire.pack(session)[0]))
        except OSError as error:  # a link that is started again in this session won't know it
            self.error = str(error)
        self._session = session

    def _begin(self, start: EpisodeStart) -> None:
        if start == self._start:
            return
        self.close()
        session = self._session
        if session is None or session.session_id != start.session_id:
            self.error = (
                f"episode {start.episode_seq} before the start of session {start.session_id}"
            )
        else:
            self.error = ""
            try:
                with _stalling(self._waits):
                    self._log = self._open_log(session, start)
            except (SpoolFull, OSError) as error:
                self.error = str(error)
        self.unkept += self._log is None
        self._start, self._steps, self._last_index = start, 0, -1
        if session is not None:
            self._show(wire.pack(session))
        self._show(wire.pack(start))
        if self._colour is not None:
            self._colour.begin()

    def _open_log(self, session: SessionStart, start: EpisodeStart) -> EpisodeLogWriter:
        log = self.spool.begin(start.session_id, start.episode_seq, under_way=self._waits)
        try:
            log.append(wire.pack(session))
            log.append(wire.pack(start))
        except OSError:
            log.abandon()
            raise
        return log

    def _show(self, parts: Parts) -> None:
        if self._live is not None:
            self._live.push(parts, step=False)

    def _show_step(self, packet: wire.Packet, buffers: Buffers, parts: Parts) -> None:
        """After the log has it: a step that is offered again must not be in the video twice."""
        if self._live is None:
            return
        follows: bool | None = False
        if self._colour is not None:
            if self._live.broken:
                self._colour.begin()
                self._live.broken = False
            shown, follows = self._colour.instead(packet, buffers)
            parts = wire.pack(packet.message, shown) if shown is not buffers else parts
        self._live.push(parts, follows=follows)

    def _add(self, parts: Parts) -> None:
        """To the log."""
        if self._log is None:
            self.lost_records += 1
        else:
            try:
                with _stalling(self._waits):
                    self._log.append(parts)
            except WireError as error:
                self.error = str(error)
                self.lost_records += 1
            except OSError as error:
                # A full disk must not take the stream or the loop with it: what there is is kept.
                self.error = str(error)
                self.lost_records += 1
                self._keep_torn(self._log)

    def _keep_torn(self, log: EpisodeLogWriter) -> None:
        """An episode that goes on without being recorded: its log ends here."""
        self._log = None
        self.unkept += 1
        with contextlib.suppress(OSError):  # else the next start finds it
            self.spool.finish_unread(log)

    def _end(self, end: EpisodeEnd) -> None:
        """Write the end once and finish; after `Stalled` it goes on where it was."""
        if not self._ended:
            parts = wire.pack(end)
            self._add(parts)
            self._show(parts)
            self._ended = True
        self._finish(keep=end.reason != "rerecord")

    def _finish(self, *, keep: bool = True) -> None:
        log, start = self._log, self._start
        if log is not None and start is not None:
            try:
                with _stalling(self._waits):
                    if keep:
                        self.spool.finished(start.session_id, start.episode_seq, log.finish())
                    else:
                        log.abandon()
            except OSError as error:
                self.error = str(error)
        self._log, self._start, self._ended = None, None, False

    def _resume(self) -> None:
        self._session = self._read_session()
        for log in self.spool.interrupted():
            with contextlib.suppress(Stalled):  # it is found again at the next start
                self.close()  # only the newest can still be running
            start: EpisodeStart | None = None
            steps, last_index, last = 0, -1, None
            try:
                for packet in EpisodeLogReader(log.part).packets():
                    last = packet.message
                    if isinstance(last, EpisodeStart):
                        start = start or last
                    elif isinstance(last, Step):
                        steps, last_index = steps + 1, last.index
            except OSError as error:
                self.spool.aside[log.part] = f"it can't be read: {error}"
                continue
            except WireError as error:
                # Not ours to judge, no reason not to start: the trainer keeps it and says why it's no use.
                self.error = str(error)
                with contextlib.suppress(OSError):  # it is found again at the next start
                    self.spool.finish_unread(log)
                continue
            if start is None:
                log.abandon()
                continue
            self._log, self._start = log, start
            self._steps, self._last_index = steps, last_index
            if isinstance(last, EpisodeEnd):
                self._ended = True
                with contextlib.suppress(
                    Stalled
                ):  # the next record from the ring brings it back here
                    self._end(last)

    def _read_session(self) -> SessionStart | None:
        """None where there is none that can be read: control tells it again at its next start."""
        try:
            data = atomic.read_bytes(self._session_path, wire.MAX_HEADER_BYTES)
            message = wire.unpack([data], oldest=wire.OLDEST_ON_DISK).message
        except (atomic.FileError, WireError):
            return None
        return message if isinstance(message, SessionStart) else None
