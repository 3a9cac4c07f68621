"""A robot's releases from the first offer on, through the real fetcher, slots and swapper.

The story whose every crash point is tried, and what must be found on the disk after each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tiny_package import head_inputs, make_package

from contracts import wire
from contracts.files.packages import Package, load_package, safetensors_bytes
from contracts.messages import ReleaseChunk, ReleaseOffer, ReleaseOutcome, ReleaseWant
from contracts.package import weights_id
from contracts.release import ReleaseManifest, sign, verify_weights
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.link.outcomes import OutcomeSpool
from runtime.link.releases import ReleaseFetcher
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits

ROBOT = "bench-0"
KEY_FILE = "trainer.pub"
CORRUPT, WILD, NEXT, AGAIN = 5, 6, 10, 11
"""Releases whose bytes change on the way, whose weights moved too far, that come after the story, and with
the weights of release 2."""
LIMITS = SwapLimits(latency_s=60.0)
_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"crash points").digest())


@dataclass(frozen=True)
class Mark:
    """How far the story has come. `committed`: what the robot starts from (0: the package's own weights)."""

    committed: int
    newest: int


@dataclass
class Releases:
    """Signed offers and their weights, by publish_seq; made once, outside of the watched folder."""

    package: Package
    key: bytes
    offers: dict[int, ReleaseOffer] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, count: int = AGAIN) -> Releases:
        package = load_package(make_package(folder).folder)
        made = cls(package, _KEY.public_key().public_bytes_raw())
        made.answers[0] = made._answer({})
        for seq in range(1, count + 1):
            tensors = {name: t.copy() for name, t in package.refinable_weights().items()}
            tensors["head/bias"] += np.float32({WILD: 1e4, AGAIN: 0.5}.get(seq, 0.25 * seq))
            data = safetensors_bytes(tensors)
            manifest = ReleaseManifest(
                "policy", package.package_id, seq, seq - 1, seq, weights_id(tensors),
                hashlib.sha256(data).hexdigest(), len(data), package.manifest.refinable, 3, (), "",
                0.0, 1e12, "t",
            )  # fmt: skip
            made.offers[seq] = ReleaseOffer("policy", *sign(manifest, _KEY))
            made.data[seq] = data
            made.answers[seq] = made._answer(tensors)
        return made

    def renew(self, seq: int, like: int) -> None:
        """The contents of release `like` under another number."""
        manifest = msgspec.structs.replace(self.manifest(like), publish_seq=seq)
        self.offers[seq] = ReleaseOffer("policy", *sign(manifest, _KEY))
        self.data[seq], self.answers[seq] = self.data[like], self.answers[like]

    def manifest(self, seq: int) -> ReleaseManifest:
        return msgspec.json.decode(self.offers[seq].manifest, type=ReleaseManifest)

    def _answer(self, tensors: dict[str, np.ndarray]) -> np.ndarray:
        engine = OnnxRuntimeEngine(self.package, "head", EngineOptions())
        return _answer(engine.standby(tensors) if tensors else engine)


class RobotLife:
    """Link and control of one robot in `folder`, in one process and without sockets."""

    def __init__(self, folder: Path, releases: Releases) -> None:
        self.folder, self.releases = folder, releases
        self._wants: list[ReleaseWant] = []
        self.outcomes = OutcomeSpool(folder / "outcomes", lambda parts: True)
        self.slots = SlotStore(folder / "slots" / "policy", releases.package.package_id)
        engine = OnnxRuntimeEngine(releases.package, "head", EngineOptions())
        self.swapper = Swapper(
            "policy", self.slots, releases.package, engine, robot_id=ROBOT, limits=LIMITS
        )
        key = folder.parent / KEY_FILE
        if not key.exists():
            key.write_bytes(releases.key.hex().encode())
        self.swapper.start()
        self.fetcher = ReleaseFetcher(
            "policy",
            releases.package.manifest,
            self.slots,
            robot_id=ROBOT,
            session_id="s",
            key_path=key,
            send=self._send,
            report=self.outcomes.add,
            on_staged=lambda seq: None,
        )

    def _send(self, parts: list[bytes | memoryview]) -> bool:
        message = wire.unpack([bytes(part) for part in parts]).message
        if isinstance(message, ReleaseWant):
            self._wants.append(message)
        return True

    def fetch(self, seq: int) -> None:
        """Offer a release and serve it in three pieces, as far as it is wanted."""
        self.fetcher.on_offer(self.releases.offers[seq])
        data = self.releases.data[seq]
        if seq == CORRUPT:
            data = data[:-1] + bytes([data[-1] ^ 1])
        while self._wants:
            want = self._wants.pop(0)
            size = max(1, len(data) // 3 + 1)
            for at in range(want.offset, want.offset + want.length, size):
                part = np.frombuffer(data[at : min(at + size, want.offset + want.length)], np.uint8)
                chunk = ReleaseChunk("policy", seq, at)
                packet = wire.unpack([bytes(p) for p in wire.pack(chunk, [wire.raw("data", part)])])
                self.fetcher.on_chunk(chunk, packet)

    def swap(self) -> None:
        """Try what waits, and tell what became of it, as the link takes it over from control."""
        self.tell(self.swapper.swap(0))

    def tell(self, outcomes: list[ReleaseOutcome]) -> None:
        for outcome in outcomes:
            self.fetcher.report(outcome)

    def settle(self, fault: str = "", success: bool | None = None) -> str:
        """What an episode's end led to, which is told; "" for nothing."""
        outcome = self.swapper.settle(fault, success)
        self.tell([outcome] if outcome else [])
        return outcome.outcome if outcome else ""

    def heard(self) -> set[tuple[int, str]]:
        """(release, outcome) of what is on the disk for the trainer: waiting for it, or owed."""
        spooled = [outcome for _, outcome in self.outcomes._waiting]
        return {(one.publish_seq, one.outcome) for one in (*spooled, *self.slots.state().owed)}

    def answer(self) -> np.ndarray:
        return _answer(self.swapper.engine)

    def answer_timed(self) -> None:
        """A run as the policy makes it."""
        self.swapper.run(head_inputs(np.random.default_rng(0)))

    def until_decided(self, success: bool) -> str:
        outcome = ""
        while not outcome:
            outcome = self.settle(success=success)
        return outcome

    @property
    def mark(self) -> Mark:
        state = self.slots.state()
        committed = state.named("committed")
        return Mark(committed[1].publish_seq if committed else 0, state.newest_seq)


def story(folder: Path, releases: Releases, mark: Callable[[Mark], None]) -> None:
    """Committed, superseded, worse and taken back, a fault, bytes changed on the way, weights that moved too
    far, taken back and pinned by a person, an orderly end, and a trial that goes on after it."""
    robot = RobotLife(folder, releases)

    def step(*jobs: Callable[[], object]) -> None:
        for job in jobs:
            job()
            mark(robot.mark)

    def swap() -> None:
        robot.swap()

    def follow() -> None:
        robot.tell(robot.swapper.follow(0))

    step(lambda: None, lambda: robot.fetch(1), swap, lambda: robot.until_decided(True))
    assert robot.swapper.version == 1
    step(lambda: robot.fetch(2), lambda: robot.fetch(3), swap, lambda: robot.until_decided(False))
    assert robot.swapper.version == 1 and robot.slots.find("rolled_back") is not None
    step(lambda: robot.fetch(4), swap, lambda: robot.settle(fault="NaN"))
    step(lambda: robot.fetch(CORRUPT), lambda: robot.fetch(WILD), swap)
    assert robot.mark == Mark(1, WILD), robot.mark
    step(lambda: robot.fetch(7), swap, lambda: robot.until_decided(True))
    step(robot.slots.take_back, follow)
    assert robot.mark.committed == robot.swapper.version == 1
    step(lambda: robot.slots.pin(7), follow, robot.slots.unpin)
    assert robot.mark.committed == robot.swapper.version == 7
    step(lambda: robot.fetch(8), swap, lambda: robot.settle(success=True))
    step(lambda: robot.fetch(9), swap, lambda: robot.settle(success=True))
    step(robot.slots.pause)
    robot.swapper.close()
    robot = RobotLife(folder, releases)
    step(lambda: None, swap, lambda: robot.until_decided(True))
    assert robot.mark == Mark(9, 9)
    robot.swapper.close()


def found_sound(folder: Path, releases: Releases, before: Mark | None, after: Mark) -> int:
    """Start from what a crash left, and go on; raises `AssertionError` unless all is as it must be. Returns
    what it started from."""
    robot = RobotLife(folder, releases)
    start = robot.swapper.version
    marks = [after] if before is None else [before, after]
    committed = {m.committed for m in marks} | ({0} if before is None else set())
    state = robot.slots.state()
    assert start in committed, f"started from {start}, committed was {committed}"
    assert np.array_equal(robot.answer(), releases.answers[start]), "other weights than it says"
    assert state.in_force is None or state.in_force[1].state == "committed", state.in_force
    for name, slot in state.slots.items():  # what a person may put in force is there, and whole
        if slot.served and slot.manifest and slot.state in ("superseded", "rolled_back"):
            verify_weights(slot.manifest, robot.slots.weights_path(name).read_bytes())
    _found_told(robot)
    lowest = before.newest if before else 0
    assert lowest <= state.newest_seq <= after.newest, f"{state.newest_seq} after {lowest}"
    for seq in range(1, state.newest_seq + 1):
        robot.fetch(seq)
    assert robot.slots.state().newest_seq == state.newest_seq, "a replayed release was taken"
    # It goes on: what was on its way arrives, what waits is tried, and a new release gets through.
    on_its_way = robot.slots.find("fetching")
    if on_its_way is not None and on_its_way[1].publish_seq != CORRUPT:
        robot.fetch(on_its_way[1].publish_seq)
        assert robot.slots.find("fetching") is None
        assert robot.slots.state().newest_seq >= on_its_way[1].publish_seq
        held = robot.slots.state().by_seq(on_its_way[1].publish_seq)
        assert held is not None and held[1].state == "staged", f"a sound release was lost: {held}"
    robot.slots.unpin()
    robot.fetch(NEXT)
    robot.swapper.swap(1)
    assert robot.swapper.version == NEXT and robot.until_decided(True) == "committed"
    assert robot.mark == Mark(NEXT, NEXT)
    robot.swapper.close()
    return start


SAID = {"quarantined": "rejected", "rolled_back": "rolled_back", "committed": "committed"}
"""What the trainer must have heard of a slot in that state."""


def _found_told(robot: RobotLife) -> None:
    """What the slots say became of releases is on the disk for the trainer, whatever was cut off when; a link
    that starts takes over what is owed, and no report comes under two names."""
    found = robot.slots.state().slots.values()
    due = {(slot.publish_seq, SAID[slot.state]) for slot in found if slot.state in SAID}
    due |= {(slot.publish_seq, "swapped") for slot in found if slot.served}
    assert due <= robot.heard(), f"never told: {due - robot.heard()}"
    spooled = {outcome.report_id for _, outcome in robot.outcomes._waiting}
    owed = {one.report_id for one in robot.slots.state().owed}
    robot.tell(robot.swapper.follow(0))
    assert not robot.slots.state().owed
    assert {one.report_id for _, one in robot.outcomes._waiting} == spooled | owed
    assert due <= robot.heard()


def _answer(engine: OnnxRuntimeEngine) -> np.ndarray:
    return engine.run(head_inputs(np.random.default_rng(0)))["chunks"].copy()
