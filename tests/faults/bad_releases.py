"""`python -m tests.faults.bad_releases --count 10000 --seed 1`: bad releases against a robot's real fetcher.

Each must be refused for its own reason and leave everything as it was; a good one now and then must be taken,
or a robot that takes nothing would pass. Exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
import numpy as np
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tiny_package import make_package

from benchmarks.machine import resident_mb
from contracts import wire
from contracts.encodings import sha256_hex
from contracts.files.own_weights import own_weights
from contracts.files.packages import Package
from contracts.messages import ReleaseChunk, ReleaseOffer, ReleaseOutcome, ReleaseWant
from contracts.package import PackageManifest
from runtime.link.releases import MAX_SILENCE_S, ReleaseFetcher
from runtime.weights.slots import SlotStore
from tests.faults.bad_release_kinds import CALIBRATION, NEVER_WHOLE, NOW_S, ROBOT, Bad, Forger

WIDTH = 2000
"""So that a bomb of a quarter of a gigabyte is smaller than the weights that it pretends to be."""
GOOD_EVERY = 100
TAKEN = ("verified", "staged", "shadow", "probation", "committed")


@dataclass
class Found:
    """`wrong`: what should not have happened, in words. `counts`: by kind and what it was refused for."""

    wrong: list[str] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    accepted: int = 0
    good: int = 0


class Robot:
    """A fetcher over real slots; what it wants is served at once."""

    def __init__(self, folder: Path, package: Package, forger: Forger) -> None:
        self.now_s = 100.0
        self.slots = SlotStore(folder / "slots", package.package_id)
        self.own = own_weights(package.folder, package.manifest, self.slots.folder)
        key = folder / "trainer.pub"
        key.write_text(forger.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex())
        self._sent: list[object] = []
        self.outcomes: list[ReleaseOutcome] = []
        self.fetcher = ReleaseFetcher(
            "policy",
            package.manifest,
            self.slots,
            robot_id=ROBOT,
            session_id="s",
            key_path=key,
            send=self._send,
            report=self.outcomes.append,
            on_staged=lambda seq: None,
            own=self.own,
            calibration_id=CALIBRATION,
            clock=lambda: self.now_s,
            unix_clock=lambda: NOW_S,
        )

    def _send(self, parts: list[bytes | memoryview]) -> bool:
        self._sent.append(wire.unpack([bytes(part) for part in parts]).message)
        return True

    def meet(self, offer: ReleaseOffer, served: Mapping[str, bytes]) -> None:
        """The offer and all that is wanted for it, then long silence."""
        offer = wire.unpack([bytes(part) for part in wire.pack(offer)]).message
        assert isinstance(offer, ReleaseOffer)
        self.fetcher.on_offer(offer)
        while self._sent:
            want = self._sent.pop(0)
            if not isinstance(want, ReleaseWant):
                continue
            data = served.get(want.encoding, b"")[want.offset : want.offset + want.length]
            if data:
                chunk = ReleaseChunk("policy", want.publish_seq, want.offset, want.encoding)
                part = np.frombuffer(data, np.uint8)
                packet = wire.unpack(
                    [bytes(each) for each in wire.pack(chunk, [wire.raw("data", part)])]
                )
                self.fetcher.on_chunk(chunk, packet)
        self.now_s += MAX_SILENCE_S + 1.0
        self.fetcher.tick(self.now_s)

    def has(self) -> dict[str, tuple[str, str]]:
        """Slots that hold a release which may act: name -> (state, SHA-256 on disk)."""
        return {
            name: (slot.state, sha256_hex(self.slots.weights_path(name).read_bytes()))
            for name, slot in self.slots.state().slots.items()
            if slot.state in TAKEN
        }


def run(
    folder: Path, count: int, seed: int, report: Callable[[int], None] = lambda done: None
) -> Found:
    """`count` bad releases of kinds drawn by `seed`, a good one first and after every `GOOD_EVERY`."""
    package = _calibrated(make_package(folder / "policy", width=WIDTH))
    forger = Forger(package, seed)
    robot = Robot(folder, package, forger)
    found = Found()
    held: dict[str, tuple[str, str]] = {}
    for number in range(count):
        seq = robot.slots.state().newest_seq + 1
        if number % GOOD_EVERY == 0:
            offer, data = forger.good(seq)
            robot.meet(offer, {"": data})
            held = robot.has()
            found.good += ("staged", sha256_hex(data)) in held.values()
            if found.good != number // GOOD_EVERY + 1:
                raise AssertionError(f"good release {seq} was not taken: {robot.outcomes[-1:]}")
            seq += 1
            report(number)
        _try(robot, forger.bad(seq), held, found)
    return found


def _try(robot: Robot, bad: Bad, held: dict[str, tuple[str, str]], found: Found) -> None:
    path = robot.own[1]
    own = path.read_bytes() if bad.rot else b""
    if bad.rot:
        path.write_bytes(own[:-4])
    before, told = Counter(robot.fetcher.reasons), len(robot.outcomes)
    robot.meet(bad.offer, bad.served)
    if bad.rot:
        path.write_bytes(own)
    reasons = tuple((robot.fetcher.reasons - before).elements()) or (NEVER_WHOLE,)
    found.counts[bad.kind][" + ".join(reasons)] += 1
    now = robot.has()
    if now != held:
        found.accepted += 1
        found.wrong.append(f"{bad.kind}: slots were {held} and are {now}")
    if sorted(reasons) != sorted(bad.reasons):
        found.wrong.append(f"{bad.kind}: refused for {reasons}, expected {bad.reasons}")
    if bad.reasons != (NEVER_WHOLE,) and len(robot.outcomes) != told + 1:
        found.wrong.append(f"{bad.kind}: told {len(robot.outcomes) - told} times")


def _calibrated(package: Package) -> Package:
    """Of cameras with a calibration: only then can a release be of another one."""
    observation = msgspec.structs.replace(package.manifest.observation, calibration_id=CALIBRATION)
    manifest: PackageManifest = msgspec.structs.replace(package.manifest, observation=observation)
    from contracts.files.packages import write_package

    return write_package(package.folder, manifest, package.graphs, package.weights, package.golden)


def table(found: Found) -> str:
    lines = ["| kind | refused for | how many |", "|---|---|---|"]
    for name, counts in sorted(found.counts.items()):
        lines += [f"| {name} | {reason} | {count} |" for reason, count in counts.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.bad_releases")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="entracte-bad-") as folder:
        found = run(
            Path(folder),
            options.count,
            options.seed,
            lambda done: print(f"\r{done}", end="", file=sys.stderr),
        )
    print(file=sys.stderr)
    print(table(found))
    print(
        f"\n{options.count} bad releases of {len(found.counts)} kinds (seed {options.seed}): "
        f"{found.accepted} accepted, {len(found.wrong)} not as they should be; "
        f"{found.good} good ones between them, all taken; {time.monotonic() - begin_s:.0f} s, "
        f"resident memory at most {resident_mb()[1]:.0f} MB"
    )
    for line in found.wrong[:20]:
        print(line)
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
