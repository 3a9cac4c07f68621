"""The trainer's end: what robots say about episodes, releases and themselves, as the daemon hands it on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts import wire
from contracts.messages import (
    EpisodeChunk,
    EpisodeOffer,
    EpisodeStart,
    Heartbeat,
    Hello,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
    SessionStart,
    Step,
)
from contracts.package import package_id
from contracts.weights import read_tensors
from tests.faults.fuzz.examples import example
from tests.faults.fuzz.mutation import frame
from tests.faults.fuzz.release_targets import ROBOT, small_package, weights
from tests.faults.fuzz.target import Feed, Target
from tests.faults.fuzz.wire_targets import conversation, converse
from trainer.ages import Ages
from trainer.interfaces import EpisodeKey, Update
from trainer.metrics import Metrics
from trainer.peers import Peers, check_speaker
from trainer.publisher import Publisher
from trainer.receiver import IN_FLIGHT_BYTES, Receiver
from trainer.release_desk import ReleaseDesk

PEER = b"peer"
EPISODE = bytes(range(256)) * 5
MAX_EPISODE_BYTES = 1 << 20


def upload(session: str = "s-1", seq: int = 4) -> list[bytes]:
    """Offer and chunks of one episode."""
    sha256 = hashlib.sha256(EPISODE).hexdigest()
    offer = wire.pack(EpisodeOffer(ROBOT, session, seq, len(EPISODE), sha256))
    chunks = []
    for at in range(0, len(EPISODE), 640):
        data = np.frombuffer(EPISODE[at : at + 640], np.uint8)
        chunks.append(wire.pack(EpisodeChunk(ROBOT, session, seq, at), [wire.raw("data", data)]))
    return [frame(offer), *map(frame, chunks), frame(offer)]


def _seeds() -> list[bytes]:
    hello = wire.pack(Hello(ROBOT, "s-1", wire.VERSIONS, ("zstd", "unknown")))
    query = ReleaseQuery(
        ROBOT, "policy", package_id(small_package()), 0, (hashlib.sha256().hexdigest(),)
    )
    want = ReleaseWant(ROBOT, "policy", 1, 0, 64)
    outcome = msgspec.structs.replace(example(ReleaseOutcome), report_id="s-1.1")
    live = [example(kind) for kind in (SessionStart, EpisodeStart, Step, Heartbeat)]
    about_releases = [wire.pack(message) for message in (query, want, outcome)]
    return [
        frame([frame(hello), *upload(), *upload("s-2", 5)]),
        frame([frame(hello), *map(frame, about_releases)]),
        frame([frame(hello), *(frame(wire.pack(message)) for message in live)]),
    ]


class _Work:
    """What the desk wants of the trainer's work."""

    iteration, note = 1, ""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def publisher_of(self, target: str) -> Publisher | None:
        return self._publisher if target == "policy" else None


@contextmanager
def _daemon(folder: Path) -> Iterator[Feed]:
    """Receiver, desk, peers and ages, new for every conversation; the publisher goes on."""
    publisher = Publisher(folder / "releases", small_package())
    tensors = {name: np.array(tensor) for name, tensor in read_tensors(weights()).items()}
    publisher.commit(publisher.prepare(Update(tensors, 3), 1).publish_seq)
    metrics = folder / "metrics.jsonl"
    inbox = folder / "inbox"

    def feed(data: bytes) -> None:
        metrics.unlink(missing_ok=True)
        shutil.rmtree(inbox, ignore_errors=True)
        _listen(data, inbox, ReleaseDesk(metrics, Metrics(metrics), _send), _Work(publisher))

    yield feed


def _send(_peer: bytes, parts: list[bytes | memoryview]) -> None:
    wire.unpack([bytes(part) for part in parts])


def _listen(data: bytes, inbox: Path, desk: ReleaseDesk, work: Any) -> None:
    stored: dict[EpisodeKey, str] = {}

    def keep(key: EpisodeKey, partial: Path, sha256: str) -> None:
        assert partial.parent == inbox and key not in stored
        sound = hashlib.sha256(partial.read_bytes()).hexdigest() == sha256
        partial.unlink()
        if sound:
            stored[key] = sha256
        receiver.kept(key, sha256 if sound else None)

    def send(peer: bytes, message: Any) -> None:
        _send(peer, wire.pack(message))

    now = iter(range(10**6))
    receiver = Receiver(
        inbox, stored.get, keep, send, MAX_EPISODE_BYTES, clock=lambda: next(now) / 10
    )
    peers, ages = Peers("t"), Ages()

    def handle(found: wire.Packet) -> None:
        message: Any = found.message
        if isinstance(message, Hello):
            send(PEER, peers.greet("episodes", PEER, message))
            return
        speaker = peers.known("episodes", PEER)
        if speaker is not None and hasattr(message, "robot_id"):
            check_speaker(speaker, message.robot_id)
        if isinstance(message, EpisodeOffer):
            receiver.on_offer(PEER, message)
        elif isinstance(message, EpisodeChunk):
            receiver.on_chunk(message, found)
        elif isinstance(message, ReleaseQuery):
            desk.on_query(PEER, message, work)
        elif isinstance(message, ReleaseWant):
            desk.on_want(PEER, message, work)
        elif isinstance(message, ReleaseOutcome):
            desk.on_outcome(PEER, message)
        elif isinstance(message, Heartbeat):
            ages.heard(message)
        else:
            ages.live(PEER, message)
        receiver.tick()
        assert receiver.in_flight_bytes <= IN_FLIGHT_BYTES

    converse(data, handle)


def targets() -> list[Target]:
    return [Target("trainer", _seeds, conversation, _daemon, 3)]
