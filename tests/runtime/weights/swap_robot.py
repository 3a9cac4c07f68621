"""Slots, fetcher and swapper of one robot, and the publisher whose releases it is offered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tiny_package import head_inputs, make_package

from contracts import wire
from contracts.files.packages import Package
from contracts.messages import (
    ReleaseChunk,
    ReleaseOffer,
    ReleaseOutcome,
    ReleaseWant,
)
from contracts.release import ReleaseManifest, sign
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.link.releases import ReleaseFetcher
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits
from trainer.encoder import EncodingOptions
from trainer.interfaces import Update
from trainer.publisher import KEY_FILE, PUBLIC_KEY_FILE, Publisher

ROBOT = "bench-0"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Package:
    return make_package(tmp_path_factory.mktemp("package") / "policy")


@dataclass
class Robot:
    """Slots, fetcher and swapper of one robot; `sent` is what the fetcher said."""

    folder: Path
    package: Package
    sent: list[wire.Packet] = field(default_factory=list)
    staged: list[int] = field(default_factory=list)
    lose: int = 0

    def __post_init__(self) -> None:
        slots = SlotStore(self.folder / "slots", self.package.package_id)
        self.fetcher = ReleaseFetcher(
            "policy",
            self.package.manifest,
            slots,
            robot_id=ROBOT,
            session_id="s1",
            key_path=self.folder / PUBLIC_KEY_FILE,
            send=self._send,
            report=lambda outcome: self.sent.append(wire.unpack(wire.pack(outcome))),
            on_staged=self.staged.append,
        )
        engine = OnnxRuntimeEngine(self.package, "head", EngineOptions())
        limits = SwapLimits(latency_s=1.0)
        self.swapper = Swapper("policy", slots, self.package, engine, robot_id=ROBOT, limits=limits)

    def _send(self, parts: list[bytes | memoryview]) -> bool:
        self.sent.append(wire.unpack([bytes(part) for part in parts]))
        return True

    def said(self, kind: type) -> list:
        return [p.message for p in self.sent if isinstance(p.message, kind)]

    def fetch(self, offer: ReleaseOffer, data: bytes) -> list[ReleaseOutcome]:
        """Give the offer and serve what is wanted; returns the outcomes it led to."""
        before = len(self.said(ReleaseOutcome))
        served = len(self.said(ReleaseWant))
        self.fetcher.on_offer(offer)
        while served < len(self.said(ReleaseWant)):
            want = self.said(ReleaseWant)[served]
            served += 1
            if self.lose > 0:
                self.lose -= 1
                continue
            self.serve(want, data)
        return self.said(ReleaseOutcome)[before:]

    def serve(self, want: ReleaseWant, data: bytes) -> None:
        part = np.frombuffer(data[want.offset : want.offset + want.length], np.uint8)
        chunk = ReleaseChunk("policy", want.publish_seq, want.offset)
        packet = wire.unpack([bytes(p) for p in wire.pack(chunk, [wire.raw("data", part)])])
        self.fetcher.on_chunk(chunk, packet)

    def answer(self) -> np.ndarray:
        return self.swapper.engine.run(head_inputs(np.random.default_rng(0)))["chunks"].copy()


@pytest.fixture
def trainer(tmp_path: Path, package: Package) -> Publisher:
    releases = tmp_path / "trainer" / "releases"
    return Publisher(releases, package.manifest, encodings=EncodingOptions(enabled=False))


@pytest.fixture
def robot(tmp_path: Path, package: Package, trainer: Publisher) -> Robot:
    folder = tmp_path / "robot"
    folder.mkdir()
    key = (tmp_path / "trainer" / PUBLIC_KEY_FILE).read_bytes()
    (folder / PUBLIC_KEY_FILE).write_bytes(key)
    return Robot(folder, package)


def nudged(package: Package, by: float = 0.5) -> dict[str, np.ndarray]:
    tensors = {name: tensor.copy() for name, tensor in package.refinable_weights().items()}
    tensors["head/bias"] += np.float32(by)
    return tensors


def release(trainer: Publisher, tensors: dict[str, np.ndarray]) -> tuple[ReleaseOffer, bytes]:
    seq = trainer.prepare(Update(tensors, 3), 1).publish_seq
    return trainer.commit(seq), trainer.load_weights(seq)


def forged(trainer_folder: Path, package: Package, data: bytes, **changes: object) -> ReleaseOffer:
    """An offer signed with the trainer's own key for `data`, whatever that is."""
    import hashlib

    key = Ed25519PrivateKey.from_private_bytes((trainer_folder / KEY_FILE).read_bytes())
    manifest = ReleaseManifest(
        "policy", package.package_id, 1, 0, 1, "", hashlib.sha256(data).hexdigest(), len(data),
        package.manifest.refinable, 3, (), "", 0.0, 1e12, "t",
    )  # fmt: skip
    return ReleaseOffer("policy", *sign(msgspec.structs.replace(manifest, **changes), key))


def committed(swapper: Swapper) -> ReleaseOutcome:
    """Episodes that succeed, until the release on probation is committed."""
    outcome = None
    while outcome is None:
        outcome = swapper.settle(success=True)
    assert outcome.outcome == "committed" and swapper.slots.find("committed") is not None
    return outcome
