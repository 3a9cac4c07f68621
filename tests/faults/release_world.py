"""A trainer and a robot with a bad cable between them, in one process: publisher, desk, link, slots, swapper.

What a kill takes away is thrown away here and made again from the disk; what goes over the cable lies in two
queues until somebody delivers, loses, doubles or damages it. It has no clock but its own and always the same
key: what went wrong once goes wrong again.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from contracts import wire
from contracts.errors import WireError
from contracts.files.keys import write_secret
from contracts.files.packages import Package
from contracts.messages import (
    OutcomeStored,
    ReleaseChunk,
    ReleaseNone,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseQuery,
    ReleaseWant,
)
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.link.outcomes import OutcomeSpool
from runtime.link.releases import ReleaseFetcher
from runtime.weights.probation import Probation
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits
from trainer.interfaces import Update
from trainer.metrics import Metrics, read_metrics
from trainer.publisher import KEY_FILE, PUBLIC_KEY_FILE, Publisher
from trainer.release_desk import ReleaseDesk

ROBOT, PEER = "bench-0", b"peer"
LIMITS = SwapLimits(latency_s=1e6, latency_ratio=1e6)
"""Weights are judged by what they are: how long a run takes on a busy machine is no part of this."""
RULES = Probation(drop=0.3, alpha=0.3, beta=0.3, most_episodes=4, unjudged=1)
"""A verdict after one or two episodes."""
WILD = 1e4
VALID_S = 1000.0
_KEY = hashlib.sha256(b"a trainer that is always the same").digest()


@dataclass
class Cable:
    """What is under way. `past`: everything that ever went to the robot, to be told again."""

    to_robot: deque[list[bytes]] = field(default_factory=deque)
    to_trainer: deque[list[bytes]] = field(default_factory=deque)
    past: list[list[bytes]] = field(default_factory=list)
    up: bool = True

    def towards_robot(self, _peer: bytes, parts: list[bytes | memoryview]) -> None:
        if self.up:
            self.to_robot.append([bytes(part) for part in parts])
            self.past.append(self.to_robot[-1])

    def towards_trainer(self, parts: list[bytes | memoryview]) -> bool:
        if self.up:
            self.to_trainer.append([bytes(part) for part in parts])
        return self.up


@dataclass
class Released:
    """What was published under a number. `shift`: by how much its actions differ from the package's own."""

    shift: float
    weights_id: str


@dataclass
class _Work:
    """What the desk wants of the trainer's work."""

    publisher: Publisher
    iteration: int = 1
    note: str = ""

    def publisher_of(self, target: str) -> Publisher | None:
        return self.publisher if target == "policy" else None


class Trainer:
    """`published`: the number that its own state, written between the two, says is offered."""

    def __init__(self, folder: Path, package: Package, cable: Cable, world: World) -> None:
        self.folder, self._package, self._cable, self._world = folder, package, cable, world
        self.published = 0
        folder.mkdir()
        write_secret(folder / KEY_FILE, _KEY)  # the same bits go wrong in every run
        self.restart()

    def restart(self) -> None:
        self.publisher = Publisher(
            self.folder / "releases",
            self._package.manifest,
            valid_s=VALID_S,
            own=self._package.folder,
            unix_clock=lambda: self._world.unix_s,
            clock=self._now_s,
        )
        if self.published:
            self.publisher.commit(self.published)
        path = self.folder / "metrics.jsonl"
        self.desk = ReleaseDesk(path, Metrics(path), self._cable.towards_robot, clock=self._now_s)
        self._work = _Work(self.publisher)

    def _now_s(self) -> float:
        return self._world.now_s

    def publish(self, shift: float, *, die_before_offering: bool = False) -> int:
        tensors = {name: t.copy() for name, t in self._package.refinable_weights().items()}
        tensors["head/bias"] += np.float32(shift)
        manifest = self.publisher.prepare(Update(tensors, 3), 1)
        seq = manifest.publish_seq
        assert seq not in self._world.released, "a number was used twice"
        self._world.released[seq] = Released(shift, manifest.weights_id)
        if die_before_offering:
            self.restart()
            return seq
        self.published = seq
        self.desk.published(seq, self.publisher.commit(seq))
        self.desk.send_offers()
        return seq

    def handle(self, parts: list[bytes]) -> None:
        try:
            message = wire.unpack(parts).message
            if isinstance(message, ReleaseQuery):
                self.desk.on_query(PEER, message, self._work)  # type: ignore[arg-type]
            elif isinstance(message, ReleaseWant):
                self.desk.on_want(PEER, message, self._work)  # type: ignore[arg-type]
            elif isinstance(message, ReleaseOutcome):
                self.desk.on_outcome(PEER, message)
        except WireError:
            pass

    def stored(self) -> list[str]:
        """Names of the outcomes that are on its disk, as often as they are."""
        path = self.folder / "metrics.jsonl"
        records = read_metrics(path) if path.exists() else []
        return [r["report_id"] for r in records if r["kind"] == "release"]


class Robot:
    """Link and control. `ring`: outcomes on their way from control to link, which outlives either."""

    def __init__(self, folder: Path, package: Package, cable: Cable, world: World) -> None:
        self.folder, self._package, self._cable, self._world = folder, package, cable, world
        self.ring: deque[ReleaseOutcome] = deque()
        self.told: set[str] = set()
        self.sessions = self.episode = self._reports = 0
        self.start_control()
        self.start_link()

    def start_link(self) -> None:
        self.slots = SlotStore(self.folder / "slots", self._package.package_id)
        self.outcomes = OutcomeSpool(self.folder / "outcomes", self._cable.towards_trainer)
        self.fetcher = ReleaseFetcher(
            *("policy", self._package.manifest, self.slots),
            robot_id=ROBOT,
            session_id=f"s{self.sessions}",
            key_path=self.folder / PUBLIC_KEY_FILE,
            send=self._cable.towards_trainer,
            report=self._report,
            on_staged=lambda seq: None,
            clock=lambda: self._world.now_s,
            unix_clock=lambda: self._world.unix_s,
        )

    def start_control(self) -> list[str]:
        """A new session: the swapper as `robot-run` makes it."""
        self.sessions += 1
        slots = SlotStore(self.folder / "slots", self._package.package_id)
        engine = OnnxRuntimeEngine(self._package, "head", EngineOptions())
        self.swapper = Swapper(
            *("policy", slots, self._package, engine),
            robot_id=ROBOT, limits=LIMITS, rules=RULES, clock=lambda: self._world.now_s,
            unix_clock=lambda: self._world.unix_s,
        )  # fmt: skip
        return self.swapper.start()

    def _report(self, outcome: ReleaseOutcome) -> None:
        self.told.add(outcome.report_id)
        self.outcomes.add(outcome)

    def begin_episode(self) -> None:
        """What control does before an episode (`runtime.control.releases`)."""
        outcomes = self.swapper.follow(self.episode)
        staged = self.swapper.slots.find("staged")
        if staged is not None and staged[1].publish_seq > self.swapper.tried:
            outcomes += self.swapper.swap(self.episode)
        self._tell(outcomes)

    def end_episode(self, fault: str, success: bool | None) -> None:
        """What it does after one."""
        settled = self.swapper.settle(fault, success)
        self._tell([settled] if settled else [])
        self.episode += 1

    def _tell(self, outcomes: list[ReleaseOutcome]) -> None:
        for outcome in outcomes:
            self._reports += 1
            report_id = outcome.report_id or f"s{self.sessions}.{self._reports}"
            self.ring.append(msgspec.structs.replace(outcome, report_id=report_id))

    def drain(self, *, killed_before_release: bool = False) -> None:
        """The link takes what control said; killed in between, it finds the last one again."""
        while self.ring:
            self.fetcher.report(self.ring[0])
            if killed_before_release:
                return
            self.ring.popleft()

    def handle(self, parts: list[bytes]) -> None:
        try:
            packet = wire.unpack(parts)
            message = packet.message
            if isinstance(message, ReleaseOffer):
                self.fetcher.on_offer(message)
            elif isinstance(message, ReleaseNone):
                self.fetcher.on_none(message)
            elif isinstance(message, ReleaseChunk):
                self.fetcher.on_chunk(message, packet)
            elif isinstance(message, OutcomeStored):
                self.outcomes.on_stored(message, self._world.now_s)
        except WireError:
            pass

    def answer(self) -> np.ndarray:
        """What the active engine makes of the package's first golden input."""
        inputs = self._package.golden["head"][0].inputs
        return self.swapper.engine.run(inputs)["chunks"].copy()


class World:
    """Both ends. `released`: what was ever published."""

    def __init__(self, folder: Path, package: Package) -> None:
        self.now_s, self.unix_s = 10.0, 1_000_000.0
        self.released: dict[int, Released] = {}
        self.package, self.cable = package, Cable()
        self.trainer = Trainer(folder / "trainer", package, self.cable, self)
        (folder / "robot").mkdir()
        key = (folder / "trainer" / PUBLIC_KEY_FILE).read_bytes()
        (folder / "robot" / PUBLIC_KEY_FILE).write_bytes(key)
        self.robot = Robot(folder / "robot", package, self.cable, self)

    def pass_time(self, seconds: float) -> None:
        """Both ends look at their clocks."""
        self.now_s += seconds
        self.robot.fetcher.tick(self.now_s)
        self.robot.outcomes.tick(self.now_s)

    def exchange(self, rounds: int) -> None:
        """An undisturbed while: time passes, everything is delivered."""
        self.cable.up = True
        for _ in range(rounds):
            self.robot.drain()
            self.pass_time(1.01)
            while self.cable.to_robot or self.cable.to_trainer:
                if self.cable.to_trainer:
                    self.trainer.handle(self.cable.to_trainer.popleft())
                if self.cable.to_robot:
                    self.robot.handle(self.cable.to_robot.popleft())

    def expected_answer(self, version: int) -> np.ndarray:
        shift = self.released[version].shift if version else 0.0
        return self.package.golden["head"][0].outputs["chunks"] + np.float32(shift)


def power_cut(world: World) -> None:
    """Both processes of the robot go, and what is in memory with them."""
    world.robot.ring.clear()
    world.cable.to_robot.clear()
    world.robot.start_control()
    world.robot.start_link()
