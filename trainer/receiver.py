"""Receives finished episodes: offers in, wants out, bytes to disk; each episode exactly once.

Owns the inbox folder of partial logs and who may send how much when. No sockets, no threads: messages in,
messages out through an injected `send`. A log is acknowledged only when it is stored (`kept`).
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from contracts.errors import WireError
from contracts.files import atomic
from contracts.messages import (
    ROBOT_ID,
    EpisodeChunk,
    EpisodeOffer,
    EpisodeStored,
    EpisodeWait,
    EpisodeWant,
)
from contracts.pace import LARGEST_BYTES, Pace
from contracts.wire import Packet
from trainer.interfaces import EpisodeKey

CHUNK_BYTES = LARGEST_BYTES
CREDIT = 4
"""Chunks of one episode that may be under way."""
IN_FLIGHT_BYTES = 16 * 1024 * 1024
"""Of all robots together: what may lie in this process's sockets. Given out in turn, robot by robot."""
MAX_PARTIAL = 1024
FORGET_S = 60.0
KEPT_S, SWEEP_S = 7 * 86400.0, 3600.0
"""So long a part of a log lies here that nobody goes on with; how often that is looked at."""

Answer = EpisodeWant | EpisodeStored | EpisodeWait
Send = Callable[[bytes, Answer], None]


@dataclass
class _Incoming:
    """`asked`: bytes asked for so far, from the start. `lapsed`: the same before a silence; chunks up to
    there are late, not unasked."""

    offer: EpisodeOffer
    peer: bytes
    received: int
    asked: int
    heard_s: float
    lapsed: int = 0
    pace: Pace = field(default_factory=Pace)
    keeping: bool = False
    silent: bool = False
    """It did not answer in time, and is asked for nothing until it is heard again."""

    @property
    def under_way(self) -> int:
        return self.asked - self.received


class Receiver:
    """Partial logs of all robots. `stored` gives the SHA-256 of an episode that is stored, else None; `keep`
    is given a log that is complete and answered by a call of `kept`, now or later. `room` says why so many
    more bytes may not be taken in, "" where they may."""

    def __init__(
        self,
        inbox: Path,
        stored: Callable[[EpisodeKey], str | None],
        keep: Callable[[EpisodeKey, Path, str], None],
        send: Send,
        max_bytes: int,
        *,
        room: Callable[[int], str] = lambda nbytes: "",
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self._inbox, self._stored, self._keep, self._send = inbox, stored, keep, send
        self._max_bytes, self._room = max_bytes, room
        self._clock, self._unix_clock, self._swept_s = clock, unix_clock, -SWEEP_S
        self._incoming: dict[EpisodeKey, _Incoming] = {}
        self._turns: deque[str] = deque()
        """Robots in the order in which they are given credit."""
        self.received_bytes = self.corrupt = self.unasked = 0
        atomic.make_directory(inbox)

    @property
    def pending_bytes(self) -> int:
        """What was promised room and has not arrived."""
        return sum(i.offer.nbytes - i.received for i in self._incoming.values())

    @property
    def in_flight_bytes(self) -> int:
        return sum(i.under_way for i in self._incoming.values())

    def on_offer(self, peer: bytes, offer: EpisodeOffer) -> None:
        """Raises `WireError` on an offer that can't be honoured."""
        key = check_key(offer.robot_id, offer.session_id, offer.episode_seq)
        sha256 = self._stored(key)
        if sha256 is not None:
            self._send(peer, EpisodeStored(key.session_id, key.episode_seq, sha256))
            return
        _check(offer)
        if offer.nbytes > self._max_bytes:
            size, most = -(-offer.nbytes >> 20), self._max_bytes >> 20
            why = f"the episode has {size} MiB (store.max_episode_mib {most})"
            self._send(peer, EpisodeWait(key.session_id, key.episode_seq, why, never=True))
            return
        now_s = self._clock()
        known = self._incoming.get(key)
        if known is not None and known.offer == offer:
            known.peer = peer  # it may have connected anew
            if known.keeping or (known.under_way and now_s - known.heard_s < known.pace.patience_s):
                return
            self._lapse(known)
            known.heard_s, known.silent = now_s, False
        elif (why := self._begin(key, peer, offer, now_s)) != "":
            self._send(peer, EpisodeWait(key.session_id, key.episode_seq, why))
            return
        self._grant(now_s)

    def on_chunk(self, chunk: EpisodeChunk, packet: Packet) -> None:
        """Raises `WireError` on a chunk that does not fit what was asked for, `OSError` where the disk can't
        take it: then it is asked for again."""
        key = EpisodeKey(chunk.robot_id, chunk.session_id, chunk.episode_seq)
        incoming = self._incoming.get(key)
        if incoming is None or incoming.keeping or chunk.offset != incoming.received:
            self.unasked += 1
            return  # of an episode that is stored, or one before it was lost: silence brings it back
        data = packet.array("data")
        most = max(incoming.asked, incoming.lapsed) - incoming.received
        if data.dtype != "uint8" or data.ndim != 1:
            found = f"{data.dtype}{list(data.shape)}"
            raise WireError("episode chunk is not plain bytes", expected="uint8[N]", found=found)
        if not 0 < data.nbytes <= most:
            raise WireError("episode chunk of another size than asked for", found=data.nbytes)
        _write_at(self._partial(key, incoming.offer.sha256), incoming.received, data.data)
        now_s = self._clock()
        incoming.received += data.nbytes
        incoming.asked = max(incoming.asked, incoming.received)
        self.received_bytes += data.nbytes
        incoming.heard_s, incoming.silent = now_s, False
        incoming.pace.came(now_s)
        if incoming.received == incoming.offer.nbytes:
            incoming.keeping = True
            self._keep(key, self._partial(key, incoming.offer.sha256), incoming.offer.sha256)
        self._grant(now_s)

    def kept(self, key: EpisodeKey, sha256: str | None, problem: str = "") -> None:
        """What became of a log given to `keep`: stored with that hash, or None. With a `problem` the disk
        failed, and the next offer goes on with what is there of it; without one its bytes were not those of
        the offer. They may be so on the robot's disk: it is told, or would send them for ever."""
        incoming = self._incoming.pop(key, None)
        self.corrupt += sha256 is None
        if incoming is not None and sha256 is not None:
            self._send(incoming.peer, EpisodeStored(key.session_id, key.episode_seq, sha256))
        elif incoming is not None and not problem:
            why = "what arrives of it has another hash than was offered"
            answer = EpisodeWait(key.session_id, key.episode_seq, why, never=True)
            self._send(incoming.peer, answer)
        self._grant(self._clock())

    def tick(self) -> None:
        """Take back credit that nobody used, and give it to who waits."""
        now_s = self._clock()
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            self._sweep()
        freed = False
        for key, incoming in list(self._incoming.items()):
            silent_s = now_s - incoming.heard_s
            if incoming.keeping:
                continue
            if silent_s > max(FORGET_S, incoming.pace.patience_s):
                del self._incoming[key]  # its bytes stay on disk, the next offer goes on with them
                freed = True
            elif incoming.under_way and silent_s > incoming.pace.patience_s:
                self._lapse(incoming)
                incoming.silent = freed = True
        if freed:
            self._grant(now_s)

    def _sweep(self) -> None:
        """Remove parts of logs that were given up (their robots are gone, or have another in their place). A
        clock that jumped costs no more than having them sent again; what the disk does not do now, it may the
        next time."""
        known = {self._partial(key, each.offer.sha256) for key, each in self._incoming.items()}
        with contextlib.suppress(OSError):
            for path in self._inbox.iterdir():
                with contextlib.suppress(OSError):  # stored just now, say
                    if path not in known and self._unix_clock() - path.stat().st_mtime > KEPT_S:
                        path.unlink()

    def _begin(self, key: EpisodeKey, peer: bytes, offer: EpisodeOffer, now_s: float) -> str:
        """Take the offer on; else why not now."""
        self._incoming.pop(key, None)
        for other in [k for k in self._incoming if k.robot_id == key.robot_id]:
            # One at a time, as links offer them, so that they are stored in order.
            known = self._incoming[other]
            if known.keeping or (known.under_way and now_s - known.heard_s < known.pace.patience_s):
                return f"episode {other.episode_seq} of this robot is under way"
            del self._incoming[other]
        if len(self._incoming) >= MAX_PARTIAL:
            return f"{len(self._incoming)} robots are served already"
        partial = self._partial(key, offer.sha256)
        received = partial.stat().st_size if partial.exists() else 0
        if received >= offer.nbytes:
            partial.unlink()
            received = 0
        if why := self._room(self.pending_bytes + offer.nbytes - received):
            return why
        self._incoming[key] = _Incoming(offer, peer, received, received, now_s)
        if key.robot_id not in self._turns:
            self._turns.append(key.robot_id)
        return ""

    def _lapse(self, incoming: _Incoming) -> None:
        """What was asked for counts as lost; ask for less next time, and wait longer for it."""
        if not incoming.under_way:
            return
        incoming.lapsed = max(incoming.lapsed, incoming.asked)
        incoming.asked = incoming.received
        incoming.pace.forget()
        incoming.pace.late()

    def _grant(self, now_s: float) -> None:
        """One chunk a robot in turn, as long as there is credit and somebody wants it."""
        free = IN_FLIGHT_BYTES - self.in_flight_bytes
        of_robot: dict[str, list[EpisodeKey]] = {}
        for key in self._incoming:
            of_robot.setdefault(key.robot_id, []).append(key)
        idle = 0
        while self._turns and idle < len(self._turns) and free > 0:
            robot_id = self._turns.popleft()
            mine = of_robot.get(robot_id)
            if not mine:
                continue
            self._turns.append(robot_id)
            asks = (self._ask(key, self._incoming[key], now_s) for key in mine)
            asked = next((nbytes for nbytes in asks if nbytes), 0)
            free -= asked
            idle = 0 if asked else idle + 1

    def _ask(self, key: EpisodeKey, incoming: _Incoming, now_s: float) -> int:
        """Ask for the next chunk of that episode; its bytes, 0 if enough is under way."""
        size = min(incoming.pace.piece_bytes, CHUNK_BYTES)
        if incoming.keeping or incoming.silent or incoming.under_way >= CREDIT * size:
            return 0
        length = min(size, incoming.offer.nbytes - incoming.asked)
        if length:
            want = EpisodeWant(key.session_id, key.episode_seq, incoming.asked, length)
            if not incoming.under_way:
                incoming.heard_s = max(incoming.heard_s, now_s)  # waiting for credit is no silence
            incoming.asked += length
            incoming.pace.asked(now_s)
            self._send(incoming.peer, want)
        return length

    def _partial(self, key: EpisodeKey, sha256: str) -> Path:
        return self._inbox / f"{key}.{sha256[:8]}.part"


def _write_at(path: Path, offset: int, data: memoryview) -> None:
    """Append at `offset`, cutting off what a write that failed half-way left behind it."""
    with path.open("r+b" if offset else "wb", buffering=0) as file:
        file.truncate(offset)
        file.seek(offset)
        if file.write(data) != data.nbytes:
            file.truncate(offset)
            raise OSError(f"disk did not take {data.nbytes} bytes of {path.name}")


def _check(offer: EpisodeOffer) -> None:
    if offer.nbytes <= 0:
        raise WireError("episode of that size", expected="some bytes", found=offer.nbytes)
    if not re.fullmatch(r"[0-9a-f]{64}", offer.sha256):
        raise WireError("sha256 of an offer", found=offer.sha256[:80])


def check_key(robot_id: str, session_id: str, episode_seq: int) -> EpisodeKey:
    """The key, if its parts may become a file name. Raises `WireError`."""
    for part in (robot_id, session_id):
        if not ROBOT_ID.fullmatch(part):
            raise WireError("id on the wire", expected="letters, digits, '.', '-'", found=part[:80])
    if not 0 <= episode_seq < 10**8:
        raise WireError("episode_seq", found=episode_seq)
    return EpisodeKey(robot_id, session_id, episode_seq)
