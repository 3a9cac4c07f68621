"""Releases through the link: asks, verifies, fetches with credit, checks the content, stages.

One `ReleaseFetcher` a target, without sockets: messages in, messages out through an injected `send`.
Whether a release may act is decided later, by the swapper in control; here only what can be known
without an engine. A refused release never disturbs what is active.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contracts import wire
from contracts.errors import ReleaseRejected, WireError
from contracts.files import atomic
from contracts.messages import (
    ReleaseChunk,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
)
from contracts.package import PackageManifest, check_tensors, package_id
from contracts.release import MAX_WEIGHTS_BYTES, ReleaseManifest, verify, verify_weights
from contracts.weights import read_tensors
from runtime.link_episodes import Send
from runtime.slots import SlotStore

CHUNK_BYTES = 512 * 1024
CREDIT = 4
"""Chunks asked for ahead: bounds what waits in the sockets, so that heartbeats are not held up."""
SILENCE_S = 1.0
BACK_OFF_S = 1.0


@dataclass
class _Fetch:
    manifest: ReleaseManifest
    slot: str
    offered_s: float
    received: int
    asked: int
    heard_s: float
    bytes_on_wire: int = 0


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
        poll_s: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        """`key_path`: hex of the trainer's public key; read when first needed, since enrolment may come
        after the start. `report` takes what the trainer must hear of, durably. `on_staged` is called with
        the publish_seq of each newly staged release, `on_refused` with that of each signed one whose
        content is not sound."""
        self.target, self._package, self._slots = target, package, slots
        self._package_id = package_id(package)
        self._robot_id, self._session_id = robot_id, session_id
        self._key_path, self._send = key_path, send
        self._report, self._poll_s = report, poll_s
        self._on_staged, self._on_refused = on_staged, on_refused
        self._clock, self._unix_clock = clock, unix_clock
        self._fetch: _Fetch | None = None
        self._next_query_s = 0.0
        self._refused: set[str] = set()
        self._newest_seq = slots.state().newest_seq
        self.rejected = self.bytes_fetched = 0
        self.trainer_iteration = -1
        staged = slots.find("staged")
        if staged is not None:
            on_staged(staged[1].publish_seq)

    def tick(self, now_s: float) -> None:
        fetch = self._fetch
        if fetch is not None:
            if now_s - fetch.heard_s > SILENCE_S:
                # The trainer may have restarted: ask anew; the same offer goes on where this stopped.
                self._fetch = None
                self._next_query_s = now_s
            else:
                return
        if now_s >= self._next_query_s:
            self._next_query_s = now_s + self._poll_s
            query = ReleaseQuery(self._robot_id, self.target, self._package_id, self._newest_seq)
            self._send(wire.pack(query))

    def on_none(self, none: ReleaseNone) -> None:
        self.trainer_iteration = none.iteration

    def on_offer(self, offer: ReleaseOffer) -> None:
        now_s = self._clock()
        if self._fetch is not None:
            return  # one at a time; a newer one is offered again when this one is staged
        try:
            manifest = verify(
                offer.manifest,
                offer.signature,
                self._public_key(),
                target=self.target,
                package_id=self._package_id,
                robot_id=self._robot_id,
                newest_seq=self._newest_seq,
                now_unix_s=self._unix_clock(),
            )
            if {t.name: t for t in manifest.tensors} != {
                t.name: t for t in self._package.refinable
            }:
                raise ReleaseRejected("tensors", "tensors are not the package's refinable ones")
        except ReleaseRejected as error:
            if error.reason == "replay" and self._known(offer):
                return  # the answer to a question asked before the first answer came
            self._refuse(offer, error)
            self._next_query_s = now_s + BACK_OFF_S
            return
        slot, received = self._slots.begin_fetch(manifest, now_s)
        if received > manifest.nbytes:
            self._slots.partial_path(slot).unlink()
            received = 0
        self._fetch = _Fetch(manifest, slot, now_s, received, received, now_s)
        self._go_on()

    def on_chunk(self, chunk: ReleaseChunk, packet: wire.Packet) -> None:
        """Raises `WireError` on a chunk that was not asked for like that."""
        fetch = self._fetch
        if fetch is None or chunk.publish_seq != fetch.manifest.publish_seq:
            return  # of a fetch that was given up
        if chunk.offset != fetch.received:
            return  # one before it was lost: silence brings it back
        data = packet.array("data")
        if data.dtype != "uint8" or not 0 < data.nbytes <= fetch.asked - fetch.received:
            raise WireError("release chunk of another size than asked for", found=data.nbytes)
        with self._slots.partial_path(fetch.slot).open("ab") as file:
            file.write(data.data)
        fetch.received += data.nbytes
        fetch.bytes_on_wire += data.nbytes
        fetch.heard_s = self._clock()
        self.bytes_fetched += data.nbytes
        self._go_on()

    def report(self, outcome: ReleaseOutcome) -> None:
        """Pass on what control made of a release."""
        self.rejected += outcome.outcome == "rejected"
        self._report(outcome)

    def _go_on(self) -> None:
        fetch = self._fetch
        assert fetch is not None
        if fetch.received == fetch.manifest.nbytes:
            self._fetch = None
            self._stage(fetch)
            return
        while fetch.asked < fetch.manifest.nbytes and (
            fetch.asked - fetch.received < CREDIT * CHUNK_BYTES
        ):
            length = min(CHUNK_BYTES, fetch.manifest.nbytes - fetch.asked)
            want = ReleaseWant(
                self._robot_id, self.target, fetch.manifest.publish_seq, fetch.asked, length
            )
            if not self._send(wire.pack(want)):
                return
            fetch.asked += length

    def _stage(self, fetch: _Fetch) -> None:
        """Complete: check every byte before it gets a name, then let control have it."""
        try:
            data = atomic.read_bytes(self._slots.partial_path(fetch.slot), MAX_WEIGHTS_BYTES)
            verify_weights(fetch.manifest, data)
            problems = check_tensors(self._package.refinable, read_tensors(data))
            if problems:
                raise ReleaseRejected("tensors", f"weights do not fit: {'; '.join(problems[:3])}")
        except ReleaseRejected as error:
            # Told before it is done: killed in between, the same is found and told again.
            seq = fetch.manifest.publish_seq
            self._reject(f"{self.target}-{seq}", seq, str(error), fetch.bytes_on_wire)
            self._slots.quarantine(fetch.slot, f"{error.reason}: {error}")
            self._newest_seq = self._slots.state().newest_seq
            self._on_refused(seq)
            return
        finally:
            self._next_query_s = self._clock()
        verified_s = self._clock() - fetch.offered_s
        self._slots.mark_verified(fetch.slot, verified_s, fetch.bytes_on_wire)
        self._slots.mark_staged(fetch.slot, self._clock() - fetch.offered_s)
        self._newest_seq = fetch.manifest.publish_seq
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
            self._refused.add(digest)
            self._reject(f"offer-{digest[:16]}", 0, str(error), 0)

    def _reject(self, what: str, publish_seq: int, reason: str, bytes_on_wire: int) -> None:
        self.report(
            ReleaseOutcome(
                self._robot_id,
                self.target,
                publish_seq,
                "rejected",
                reason,
                -1,
                bytes_on_wire,
                math.nan,
                math.nan,
                math.nan,
                f"{self._session_id}.{what}",
            )
        )

    def _public_key(self) -> Ed25519PublicKey:
        try:
            text = atomic.read_bytes(self._key_path, 1024).decode("ascii").strip()
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        except (atomic.FileError, OSError, ValueError) as error:
            raise ReleaseRejected(
                "key",
                "no usable public key of the trainer",
                found=str(error),
                remedy=f"copy the trainer's trainer.pub to {self._key_path}",
            ) from error
