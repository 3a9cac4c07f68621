"""Releases through the link: asks, verifies, fetches with credit, checks the content, stages.

One `ReleaseFetcher` a target, without sockets: messages in, messages out through an injected `send`.
Whether a release may act is decided later, by the swapper in control; here only what can be known
without an engine. A refused release never disturbs what is active.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contracts import wire
from contracts.encodings import KINDS, kind_of
from contracts.errors import ReleaseRejected, WireError
from contracts.files import atomic
from contracts.key_rotation import public_key
from contracts.messages import (
    ReleaseChunk,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
)
from contracts.pace import LARGEST_BYTES, Pace
from contracts.package import PackageManifest, package_id
from contracts.release import Expected, ReleaseManifest, verify
from contracts.specs import spec_hash
from runtime.link.background import Background, at_once
from runtime.link.episodes import Send
from runtime.weights.release_files import EncodingRefused, ReleaseFiles, Way
from runtime.weights.slots import SlotError, SlotStore

CHUNK_BYTES = LARGEST_BYTES
CREDIT = 4
"""Chunks asked for ahead: bounds what waits in the sockets, so that heartbeats are not held up."""
MAX_SILENCE_S = 4.0
"""A fetch that hears nothing asks what is offered, then again after twice as long, up to this."""
BACK_OFF_S = 1.0
TELL_AGAIN_S = 2.0
"""What is held is said again so often, for a trainer that was restarted; queries between don't repeat it."""


@dataclass
class _Fetch:
    """`asked`: bytes asked for so far, from the start; `most_asked`: the same, before some of it was lost.
    `silent`: nothing came for longer than `pace` says, and it was asked what is offered."""

    offer: ReleaseOffer
    manifest: ReleaseManifest
    slot: str
    offered_s: float
    way: Way
    received: int
    asked: int
    heard_s: float
    pace: Pace
    bytes_on_wire: int = 0
    most_asked: int = 0
    silent: bool = False
    unpacking: Future[None] | None = None
    stage_again_s: float = -math.inf


class ReleaseFetcher:
    """Keeps one target's slots up to date with the trainer."""

    def __init__(
        self,
        target: str,
        package: PackageManifest,
        slots: SlotStore,
        *,
        robot_id: str,
        session_id: str,
        key_path: Path,
        send: Send,
        report: Callable[[ReleaseOutcome], None],
        on_staged: Callable[[int], None],
        on_refused: Callable[[int], None] = lambda seq: None,
        own: tuple[str, Path] | None = None,
        calibration_id: str = "",
        features: Callable[[], Collection[str]] = lambda: KINDS,
        background: Background = at_once,
        poll_s: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`key_path`: hex of the trainer's public key; read when first needed, since enrolment may come
        after the start. `report` takes what the trainer must hear of, durably. `on_staged` is called with
        the publish_seq of each newly staged release, `on_refused` with that of each signed one whose
        content is not sound. `own`: the package's own refinable weights, a delta's first base.
        `calibration_id`: this robot's own, "" for none. `features`: what both ends can do, encodings among
        them. `background`: where what arrived is unpacked and checked, which takes long for
        large weights."""
        self.target, self._package, self._slots = target, package, slots
        self._package_id = package_id(package)
        self._robot_id, self._session_id = robot_id, session_id
        self._key_path, self._send = key_path, send
        self._report, self._poll_s = report, poll_s
        self._on_staged, self._on_refused = on_staged, on_refused
        self._features = features
        self._background, self._clock, self._unix_clock = background, clock, unix_clock
        self._calibration_id = calibration_id
        self._files = ReleaseFiles(slots, own)
        self._have = tuple(self._files.held())
        self._told: tuple[tuple[str, ...], float] = ((), -math.inf)
        self._fetch: _Fetch | None = None
        self._next_query_s = 0.0
        self._refused: set[str] = set()
        self._refused_ways: tuple[int, set[str]] = (0, set())
        self._newest_seq = slots.state().newest_seq
        """What is asked for must be above it; whether an offer is, is for the disk to say."""
        self.rejected = self.bytes_fetched = 0
        self.reasons: Counter[str] = Counter()
        """Refusals by their reason: of offers, of ways to have one ("encoding", "base"), of contents."""
        self.trainer_iteration = -1
        if staged := slots.finish_staging():
            on_staged(staged)

    def tick(self, now_s: float) -> None:
        fetch = self._fetch
        if fetch is not None:
            if fetch.unpacking is not None:
                if now_s >= fetch.stage_again_s:
                    self._end_unpacking(fetch)
                return
            if now_s - fetch.heard_s > fetch.pace.patience_s:
                # A slow wire, or the trainer restarted. Answers come in the order of questions: what was
                # asked for comes before this answer, or not at all.
                fetch.pace.late()
                fetch.heard_s, fetch.silent = now_s, True
                self._query(now_s)
            return
        if now_s >= self._next_query_s:
            self._next_query_s = now_s + self._poll_s
            self._query(now_s)

    def _query(self, now_s: float) -> None:
        news = self._have != self._told[0] or now_s - self._told[1] > TELL_AGAIN_S
        have = self._have if news else ()
        query = ReleaseQuery(self._robot_id, self.target, self._package_id, self._newest_seq, have)
        if self._send(wire.pack(query)) and news:
            self._told = (self._have, now_s)

    def on_none(self, none: ReleaseNone) -> None:
        self.trainer_iteration = none.iteration
        if self._fetch is not None and self._fetch.silent:
            self._fetch = None  # it is offered no more; what came of it stays

    def on_offer(self, offer: ReleaseOffer) -> None:
        now_s, fetch = self._clock(), self._fetch
        if fetch is not None:
            if not fetch.silent or fetch.unpacking is not None:
                return  # one at a time; a newer one is offered again when this one is staged
            still = fetch.way.encoding is None or fetch.way.encoding in offer.encodings
            if still and offer.manifest == fetch.offer.manifest:
                fetch.asked, fetch.heard_s, fetch.silent = fetch.received, now_s, False
                fetch.pace.forget()
                self._go_on()
                return
        self._newest_seq = self._slots.state().newest_seq
        action = self._package.action
        expected = Expected(
            target=self.target,
            package_id=self._package_id,
            robot_id=self._robot_id,
            newest_seq=self._newest_seq,
            calibration_id=self._calibration_id,
            observation=spec_hash(self._package.observation),
            action=spec_hash(action) if action else "",
        )
        try:
            manifest = verify(
                offer.manifest,
                offer.signature,
                self._public_key(),
                expected,
                now_unix_s=self._unix_clock(),
            )
            if sorted(t.name for t in manifest.tensors) != sorted(
                t.name for t in self._package.refinable
            ) or set(manifest.tensors) != set(self._package.refinable):
                raise ReleaseRejected("tensors", "tensors are not the package's refinable ones")
            try:
                slot, _ = self._slots.begin_fetch(manifest, now_s)
            except SlotError as error:  # there may be a place later
                raise ReleaseRejected("slots", str(error)) from error
        except ReleaseRejected as error:
            if error.reason == "replay" and self._known(offer):
                return  # the answer to a question asked before the first answer came
            self._next_query_s = now_s + BACK_OFF_S
            self._refuse(offer, error)
            return
        if self._refused_ways[0] != manifest.publish_seq:
            self._refused_ways = (manifest.publish_seq, set())
        self._have = tuple(self._files.held())
        self._begin(offer, manifest, slot, now_s)

    def _begin(
        self,
        offer: ReleaseOffer,
        manifest: ReleaseManifest,
        slot: str,
        offered_s: float,
        wasted: int = 0,
        pace: Pace | None = None,
    ) -> None:
        features = self._features()
        known = [each for each in offer.encodings if kind_of(each.id) in features]
        way = self._files.choose(manifest, slot, known, self._refused_ways[1])
        self._fetch = _Fetch(
            offer,
            manifest,
            slot,
            offered_s,
            way,
            received=way.received,
            asked=way.received,
            heard_s=self._clock(),
            pace=pace or Pace(MAX_SILENCE_S),
            bytes_on_wire=wasted + way.received,
        )
        self._go_on()

    def on_chunk(self, chunk: ReleaseChunk, packet: wire.Packet) -> None:
        """Raises `WireError` on a chunk that was not asked for like that."""
        fetch = self._fetch
        if fetch is None or chunk.publish_seq != fetch.manifest.publish_seq:
            return  # of a fetch that was given up
        if chunk.offset != fetch.received or chunk.encoding != fetch.way.name:
            return  # come twice, or one before it was lost (silence brings it back), or of another way
        data, now_s = packet.array("data"), self._clock()
        if data.dtype != "uint8" or data.ndim != 1:
            raise WireError("release chunk is not plain bytes", found=list(data.shape))
        if not 0 < data.nbytes <= fetch.most_asked - fetch.received:
            raise WireError("release chunk of another size than asked for", found=data.nbytes)
        try:
            with fetch.way.path.open("ab") as file:
                file.write(data.data)
        except OSError:
            self._fetch = None  # how much the disk took is seen when it is offered again
            self._next_query_s = now_s + BACK_OFF_S
            raise
        fetch.received += data.nbytes
        fetch.asked = max(fetch.asked, fetch.received)
        fetch.bytes_on_wire += data.nbytes
        fetch.heard_s, fetch.silent = now_s, False
        fetch.pace.came(now_s)
        self.bytes_fetched += data.nbytes
        self._go_on()

    def report(self, outcome: ReleaseOutcome) -> None:
        """Pass on what became of a release; what the slots owed the trainer is then on this end's disk."""
        self._report(outcome)
        self.rejected += outcome.outcome == "rejected"
        self._slots.told(outcome.report_id)

    def _go_on(self) -> None:
        fetch = self._fetch
        assert fetch is not None
        if fetch.received == fetch.way.nbytes:
            fetch.unpacking = self._background(
                lambda: self._files.unpack(fetch.manifest, fetch.slot, fetch.way, self._package)
            )
            self._end_unpacking(fetch)
            return
        size = min(fetch.pace.piece_bytes, CHUNK_BYTES)
        while fetch.asked < min(fetch.way.nbytes, fetch.received + CREDIT * size):
            want = ReleaseWant(
                self._robot_id,
                self.target,
                fetch.manifest.publish_seq,
                fetch.asked,
                min(size, fetch.way.nbytes - fetch.asked),
                fetch.way.name,
            )
            if not self._send(wire.pack(want)):
                return
            fetch.asked += want.length
            fetch.most_asked = max(fetch.most_asked, fetch.asked)
            fetch.pace.asked(self._clock())

    def _end_unpacking(self, fetch: _Fetch) -> None:
        """Complete and checked to the last byte: it gets its name, and control may have it."""
        assert fetch.unpacking is not None
        if not fetch.unpacking.done():
            return
        error, state = fetch.unpacking.exception(), self._slots.state()
        if state.slots[fetch.slot].state == "quarantined":  # a person gave up its key meanwhile
            self._fetch, self._newest_seq = None, state.newest_seq
            return
        if isinstance(error, EncodingRefused):
            self._another_way(fetch, error)
            return
        if error is None:
            self._stage(fetch)
            return
        self._fetch = None
        self._next_query_s = self._clock()
        if isinstance(error, ReleaseRejected):
            # Told before it is done: killed in between, the same is found and told again.
            seq = fetch.manifest.publish_seq
            self._reject(f"{self.target}-{seq}", seq, error, fetch.bytes_on_wire)
            self._slots.quarantine(fetch.slot, f"{error.reason}: {error}")
            self._newest_seq = self._slots.state().newest_seq
            self._on_refused(seq)
            return
        if isinstance(error, OSError | atomic.FileError):
            self.reasons["disk"] += 1  # full or failing: what arrived stays for the next try
            self._next_query_s += BACK_OFF_S
            return
        raise error

    def _another_way(self, fetch: _Fetch, error: EncodingRefused) -> None:
        """The release may be sound although this encoding of it is not: fetch it without that one."""
        fetch.way.path.unlink(missing_ok=True)
        self.reasons[error.reason] += 1
        self._refused_ways[1].add(fetch.way.name)
        told = fetch.offer, fetch.manifest, fetch.slot, fetch.offered_s, fetch.bytes_on_wire
        self._begin(*told, fetch.pace)

    def _stage(self, fetch: _Fetch) -> None:
        """Done again until it is done: what the disk took of it by then is found there."""
        verified_s = self._clock() - fetch.offered_s
        try:
            self._slots.mark_verified(fetch.slot, verified_s, fetch.bytes_on_wire)
            self._files.forget(fetch.slot)
            self._slots.mark_staged(fetch.slot, self._clock() - fetch.offered_s)
            self._newest_seq = self._slots.state().newest_seq
            self._have = tuple(self._files.held())
        except OSError:
            self.reasons["disk"] += 1
            fetch.stage_again_s = self._clock() + BACK_OFF_S
            return
        self._fetch = None
        self._next_query_s = self._clock()
        self._on_staged(fetch.manifest.publish_seq)

    def _known(self, offer: ReleaseOffer) -> bool:
        """Whether this is just the newest release that a slot holds; its signature is known to be good."""
        manifest = msgspec.json.decode(offer.manifest, type=ReleaseManifest)
        if manifest.publish_seq != self._newest_seq:
            return False
        return any(slot.manifest == manifest for slot in self._slots.state().slots.values())

    def _refuse(self, offer: ReleaseOffer, error: ReleaseRejected) -> None:
        """Say so once per offer: a trainer that goes on offering the same must not flood us."""
        digest = hashlib.sha256(offer.manifest + offer.signature).hexdigest()
        if digest not in self._refused:
            if len(self._refused) > 1000:
                self._refused.clear()
            # In this order: what the disk did not take is told when it is offered again.
            self._reject(f"offer-{digest[:16]}", 0, error, 0)
            self._refused.add(digest)

    def _reject(
        self, what: str, publish_seq: int, error: ReleaseRejected, bytes_on_wire: int
    ) -> None:
        self.report(
            ReleaseOutcome(
                self._robot_id,
                self.target,
                publish_seq,
                "rejected",
                str(error),
                -1,
                bytes_on_wire,
                math.nan,
                math.nan,
                math.nan,
                f"{self._session_id}.{what}",
            )
        )
        self.reasons[error.reason] += 1

    def _public_key(self) -> Ed25519PublicKey:
        try:
            text = atomic.read_bytes(self._key_path, 1024).decode("ascii").strip()
            return public_key(text)
        except (atomic.FileError, OSError, ValueError) as error:
            raise ReleaseRejected(
                "key",
                "no usable public key of the trainer",
                found=str(error),
                remedy=f"enroll, or copy the trainer's trainer.pub to {self._key_path}",
            ) from error
