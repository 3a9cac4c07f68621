"""Releases at the trainer's counter: answers queries and wants, sends offers, records what became of them.

Of the I/O thread. No sockets: `send` hands a packet's parts to one peer of the weights socket.
"""

from __future__ import annotations

import contextlib
import math
import queue
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec

from contracts import wire
from contracts.encodings import kind_of
from contracts.errors import WireError
from contracts.messages import (
    OutcomeStored,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
)
from contracts.sockets import Limits
from contracts.sockets.admission import Allowance
from trainer.keeper import caught
from trainer.metrics import Metrics, records_of
from trainer.publisher import Publisher
from trainer.work import Work

Aside: TypeAlias = Callable[[Callable[[], None], Callable[[Exception | None], None]], None]
"""Runs the first where it may wait for the disk, then calls the second with None or what that raised."""

Report: TypeAlias = tuple[str, str]
"""(robot_id, report_id)"""

MAX_REPORT_ID = 200
MAX_TEXT = 500
"""Letters kept of what a robot says in its own words."""
OUTCOMES = Limits(messages_per_s=5.0)
"""Of one robot; a release has three at most. What comes faster is told again later."""
MAX_ROBOTS = 1024
MAX_REMEMBERED = 10_000
"""Reports and times kept; the oldest go. A robot tells its reports one at a time and in order, so that only
its last ones can come again."""


def _at_once(task: Callable[[], None], then: Callable[[Exception | None], None]) -> None:
    then(caught(task))


class ReleaseDesk:
    """`work` is asked for publishers; `published` may be called from its thread, all else from one, what
    `aside` calls included."""

    def __init__(
        self,
        metrics_path: Path,
        metrics: Metrics,
        send: Callable[[bytes, list[bytes | memoryview]], None],
        wake: Callable[[], None] = lambda: None,
        aside: Aside = _at_once,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics, self._send, self._wake = metrics, send, wake
        self._aside, self._clock = aside, clock
        self._reports = _known_reports(metrics_path)
        if self._reports:
            metrics.sync()  # written by a process that was killed before it could
        self._unsynced: dict[Report, bytes] = {}
        """What is written and not yet synced -> who is to be told."""
        self._syncing = False
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()
        self._fresh: queue.SimpleQueue[tuple[float, int, ReleaseOffer]] = queue.SimpleQueue()
        self._peers: OrderedDict[bytes, tuple[str, frozenset[str]]] = OrderedDict()
        self._asked: dict[bytes, frozenset[str]] = {}
        """Targets of which those peers take our releases: they hold the package."""
        self._outran: set[tuple[str, str]] = set()
        """(robot_id, target) of those that have seen higher numbers than there are here."""
        self._published: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._offered: OrderedDict[tuple[str, str, int], float] = OrderedDict()
        """When each robot was last offered a release before it asked for it: its own times begin there. What
        was sent to one that was away does not count."""
        self._begun: OrderedDict[tuple[str, str, int], None] = OrderedDict()

    def published(self, publish_seq: int, offer: ReleaseOffer) -> None:
        """A new release (of the worker's thread)."""
        self._fresh.put((self._clock(), publish_seq, offer))
        self._wake()

    def send_offers(self) -> None:
        """A new release goes at once to every known robot that holds its package and knows all of a manifest;
        queries are the fallback."""
        while not self._fresh.empty():
            published_s, publish_seq, offer = self._fresh.get()
            _remember(self._published, (offer.target, publish_seq), published_s)
            for peer, (robot_id, features) in self._peers.items():
                if wire.ANSWERS not in features or offer.target not in self._asked.get(peer, ()):
                    continue
                self._note_offer(robot_id, publish_seq, offer)
                self._send(peer, wire.pack(_understood(offer, features)))

    def on_query(
        self,
        peer: bytes,
        query: ReleaseQuery,
        work: Work,
        features: frozenset[str] = frozenset(wire.FEATURES),
    ) -> None:
        """`features`: what that robot's greeting named; encodings of other kinds are not offered to it."""
        self._peers[peer] = query.robot_id, features
        self._peers.move_to_end(peer)
        if len(self._peers) > MAX_ROBOTS:
            self._asked.pop(self._peers.popitem(last=False)[0], None)
        publisher = work.publisher_of(query.target)
        if publisher is not None and publisher.is_asked(query):
            self._asked[peer] = self._asked.get(peer, frozenset()) | {query.target}
        answer: ReleaseOffer | ReleaseNone = ReleaseNone(query.target, work.iteration)
        if publisher is not None:
            answer = publisher.answer_query(query, work.iteration, work.note, features)
            self._say_outrun(query, publisher)
        if isinstance(answer, ReleaseOffer) and publisher is not None:
            self._note_offer(query.robot_id, publisher.newest_seq, answer)
            answer = _understood(answer, features)
        self._send(peer, wire.pack(answer))

    def _say_outrun(self, query: ReleaseQuery, publisher: Publisher) -> None:
        """Once of each robot: what is released takes no effect there until the numbers are above."""
        who = query.robot_id, query.target
        if who in self._outran or len(self._outran) >= MAX_ROBOTS:
            return
        if (known := publisher.outrun_by(query)) is None:
            return
        self._outran.add(who)
        seen = query.have_seq
        self._metrics.add(
            "outrun", robot_id=query.robot_id[:80], target=query.target, seen=seen, known=known
        )
        with contextlib.suppress(OSError):  # what it is printed to may be gone
            print(
                f"robot-trainer: robot {query.robot_id[:80]!r} has seen {query.target} release {seen} of this"
                f" package, the highest number here is {known}: it takes none up to {seen}. Was this folder"
                f" put back from a copy? Start with --set release.above={seen}",
                file=sys.stderr,
                flush=True,
            )

    def on_want(self, peer: bytes, want: ReleaseWant, work: Work) -> None:
        """Raises `WireError` on a want that can't be honoured."""
        publisher = work.publisher_of(want.target)
        if publisher is None:
            raise WireError("nothing is released for that target", found=want.target)
        _remember(self._begun, (want.robot_id, want.target, want.publish_seq), None)
        self._send(peer, publisher.answer_want(want))

    def on_outcome(self, peer: bytes, outcome: ReleaseOutcome) -> None:
        """Recorded once, however often it is told, and synced before it is acknowledged. Raises `OSError`
        where it can't be written, `WireError` where it comes too fast: the robot tells it again."""
        if len(outcome.report_id) > MAX_REPORT_ID:
            raise WireError("report_id too long", found=len(outcome.report_id))
        report = (outcome.robot_id, outcome.report_id)
        if report in self._reports and report not in self._unsynced:
            self._send(peer, wire.pack(OutcomeStored(outcome.report_id)))
            return
        if report not in self._reports:
            self._check_rate(outcome.robot_id)
            if not self._record(outcome):
                raise OSError("the outcome of a release was not written")
            if not outcome.report_id:
                return
            _remember(self._reports, report, None)
        self._unsynced[report] = peer
        self._sync()

    def _check_rate(self, robot_id: str) -> None:
        now_s = self._clock()
        allowance = self._allowances.get(robot_id) or Allowance(OUTCOMES, now_s)
        _remember(self._allowances, robot_id, allowance)
        if not allowance.take(0, now_s):
            raise WireError(
                "outcomes of releases come too fast",
                expected=f"{OUTCOMES.messages_per_s:g} a second",
                found=robot_id[:80],
            )

    def _sync(self) -> None:
        """All that waits in one go, one at a time: however much comes, the disk is asked once."""
        if self._unsynced and not self._syncing:
            self._syncing = True
            self._aside(self._metrics.sync, partial(self._synced, tuple(self._unsynced)))

    def _synced(self, reports: tuple[Report, ...], problem: Exception | None) -> None:
        self._syncing = False
        for report in reports:
            peer = self._unsynced.pop(report)
            if problem is None:
                self._send(peer, wire.pack(OutcomeStored(report[1])))
            else:
                self._reports.pop(report, None)  # nobody knows what the disk has: written anew
        if problem is not None:
            raise problem
        self._sync()

    def _record(self, outcome: ReleaseOutcome) -> bool:
        """Times from publishing on: the robot's are since its offer arrived, ours add how long that took."""
        published = self._published.get((outcome.target, outcome.publish_seq), math.nan)
        key = (outcome.robot_id, outcome.target, outcome.publish_seq)
        # A query answered in the moment of publishing may be ahead by microseconds; NaN stays NaN.
        wait_s = max(self._offered.get(key, math.nan) - published, 0.0)
        return self._metrics.add(
            "release",
            robot_id=outcome.robot_id[:MAX_TEXT],
            target=outcome.target[:MAX_TEXT],
            publish_seq=outcome.publish_seq,
            outcome=outcome.outcome[:MAX_TEXT],
            reason=outcome.reason[:MAX_TEXT],
            episode_seq=outcome.episode_seq,
            bytes_on_wire=outcome.bytes_on_wire,
            publish_to_offer_s=wait_s,
            publish_to_verified_s=wait_s + outcome.verified_s,
            publish_to_staged_s=wait_s + outcome.staged_s,
            publish_to_swapped_s=wait_s + outcome.swapped_s,
            report_id=outcome.report_id,
        )

    def _note_offer(self, robot_id: str, publish_seq: int, offer: ReleaseOffer) -> None:
        key = (robot_id, offer.target, publish_seq)
        if key not in self._begun:
            _remember(self._offered, key, self._clock())


def _understood(offer: ReleaseOffer, features: frozenset[str]) -> ReleaseOffer:
    encodings = tuple(e for e in offer.encodings if kind_of(e.id) in features)
    return msgspec.structs.replace(offer, encodings=encodings)


def _remember(known: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]
    known[key] = value
    if len(known) > MAX_REMEMBERED:
        known.popitem(last=False)


def _known_reports(metrics: Path) -> OrderedDict[Report, None]:
    """(robot_id, report_id) of the outcomes recorded before."""
    known: OrderedDict[Report, None] = OrderedDict()
    for record in records_of(metrics, "release") if metrics.exists() else ():
        if record.get("report_id"):
            _remember(known, (record["robot_id"], record["report_id"]), None)
    return known
