"""The control loop while strangers try the trainer's doors, beside the same loop without them.

One robot at full load streams to one trainer over CURVE; in every second block a process makes connection
attempts of every kind. Trainer, robot and attackers share this machine, which is worse than they would meet.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.loop import ROBOT, SOCKETS, OurLoop, Trainer
from benchmarks.loop_rig import Rig
from benchmarks.machine import in_words, machine
from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.keys import KeyStore
from contracts.sockets import KeyPair, Pass
from contracts.sockets.curve import new_pair

INSIDER = "another-robot"
ALLOWED_S = 1e-3
DRAINS, DRAIN_BLOCK_S = 6, 2.0
_ROOT = Path(__file__).resolve().parent.parent


class Found(msgspec.Struct, frozen=True):
    """Lateness of all ticks of each kind of block. `seen` is what the attackers counted, `refused` what the
    trainer did. `strangers_heard`: robots that the trainer heard of besides the one under test. `stored`:
    of `episodes`, when the last block was over and what had waited was sent."""

    rate_hz: float
    ticks: dict[str, int]
    p50_s: dict[str, float]
    p99_s: dict[str, float]
    missed: dict[str, int]
    seen: dict[str, int]
    refused: dict[str, int]
    strangers_heard: tuple[str, ...]
    episodes: int
    stored: int
    machine: dict[str, Any]

    @property
    def attempts(self) -> int:
        return self.refused.get("connections", 0)

    @property
    def added_s(self) -> float:
        return self.p99_s["attacked"] - self.p99_s["quiet"]

    @property
    def good(self) -> bool:
        """All that was asked for: nobody in, nothing lost, the loop no later than it may be."""
        let_in = self.seen.get("answered: let in", 0) or self.strangers_heard
        return not let_in and self.stored == self.episodes and self.added_s <= ALLOWED_S


class KeyedRig(Rig):
    """The rig of `robot-bench loop` with a link that has keys."""

    def overrides(self, rate_hz: float, package: Path) -> list[str]:
        keys = self.folder / "keys"
        return [*super().overrides(rate_hz, package), "link.curve=always", f"link.keys={keys}"]


class PatientTrainer(Trainer):
    """Takes a block's episode from the robot's spool where it has not arrived yet: a starved machine uploads
    for longer than a robot that was told to end goes on. What waits is sent at the robot's next start."""

    def __init__(self, folder: Path, robot: Path) -> None:
        super().__init__(folder, ("listen.curve=always",))
        self._spool = robot / "spool"

    def wait_for_log(self, before: set[Path]) -> Path:
        del before
        found = [*self.logs(), *self._spool.glob("*.elog")]
        return max(found, key=lambda path: int(path.stem[-8:]))


def measure(
    package: Path,
    *,
    attempts: int,
    blocks: int,
    block_s: float,
    rate_hz: float,
    folder: Path,
    report: Callable[[str], None],
) -> Found:
    """`blocks` without and as many with attackers in turn; together these make `attempts`."""
    late: dict[str, list[float]] = {"quiet": [], "attacked": []}
    missed: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / "trainer"
    insider = _enrol(root, folder / "rig", ROBOT)
    with KeyedRig(folder / "rig") as rig, PatientTrainer(root, folder / "robot") as trainer:
        loop = OurLoop(rig, trainer, package, rate_hz, folder)
        for number in range(2 * blocks):
            kind = "attacked" if number % 2 else "quiet"
            attackers = _attackers(kind, trainer, insider, ROBOT, attempts // blocks, block_s)
            found = loop.run(block_s)
            late[kind] += found["lateness_s"]
            missed[kind] += found["missed"]
            seen.update(_ended(attackers))
            report(f"{kind}: block {number // 2 + 1} of {blocks}")
        episodes = 2 * blocks
        while len(trainer.logs()) < episodes < 2 * blocks + DRAINS:
            loop.run(DRAIN_BLOCK_S)
            episodes += 1
        stored = len(trainer.logs())
    records = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    return Found(
        rate_hz=rate_hz,
        ticks={kind: len(each) for kind, each in late.items()},
        p50_s={kind: float(np.percentile(each, 50)) for kind, each in late.items()},
        p99_s={kind: float(np.percentile(each, 99)) for kind, each in late.items()},
        missed={kind: missed[kind] for kind in late},
        seen=dict(seen),
        refused=_last(records, "door"),
        strangers_heard=_strangers(records, ROBOT),
        episodes=episodes,
        stored=stored,
        machine=machine(),
    )


def _enrol(root: Path, rig: Path, name: str) -> KeyPair:
    """What `enroll` would have left on both ends, for the robot under test; and the insider's pair."""
    there, here = KeyStore(root / "keys"), KeyStore(rig / "keys")
    now_s = time.time()
    insider = new_pair()
    robot = here.own(make=True).public
    there.add(Pass(name=name, key=robot, enrolled_unix_s=now_s))
    there.add(Pass(name=INSIDER, key=insider.public, enrolled_unix_s=now_s))
    here.add(Pass(name="trainer", key=there.own(make=True).public, enrolled_unix_s=now_s))
    return insider


def _attackers(
    kind: str, trainer: Trainer, insider: KeyPair, victim: str, attempts: int, block_s: float
) -> subprocess.Popen[str] | None:
    if kind == "quiet":
        return None
    command = [sys.executable, "-m", "benchmarks.intruders_attack"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    job = {
        "endpoints": {name: trainer.endpoints[name] for name in SOCKETS},
        "attempts": attempts,
        "per_s": attempts / block_s,
        "seconds": 3.0 * block_s,
        "server": KeyStore(trainer.folder / "keys").own().public,
        "victim": victim,
        "insider": {"name": INSIDER, "public": insider.public, "secret": insider.secret},
    }
    assert process.stdin is not None
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    return process


def _ended(attackers: subprocess.Popen[str] | None) -> dict[str, int]:
    if attackers is None:
        return {}
    assert attackers.stdout is not None
    said = attackers.stdout.read()
    if attackers.wait(60):
        raise EntracteError("the attackers ended with an error", remedy="see what they printed")
    return dict(json.loads(said))


def _last(records: Sequence[dict[str, Any]], kind: str) -> dict[str, int]:
    found = [record for record in records if record["kind"] == kind]
    return dict(found[-1]["counts"]) if found else {}


def _strangers(records: Sequence[dict[str, Any]], name: str) -> tuple[str, ...]:
    return tuple({r["robot_id"] for r in records if r["kind"] == "robot"} - {name})


def save(found: Found, output: Path) -> None:
    atomic.write_bytes(output, msgspec.json.format(msgspec.json.encode(found), indent=1))


def table(found: Found) -> str:
    """Markdown, for a terminal and for docs/results."""
    lines = [
        "| blocks | ticks | lateness p50 (ms) | p99 (ms) | missed |",
        "|---|---|---|---|---|",
    ]
    for kind in ("quiet", "attacked"):
        p50, p99 = 1e3 * found.p50_s[kind], 1e3 * found.p99_s[kind]
        lines.append(
            f"| {kind} | {found.ticks[kind]} | {p50:.3f} | {p99:.3f} | {found.missed[kind]} |"
        )
    refused = ", ".join(f"{name} {count}" for name, count in sorted(found.refused.items()))
    seen = ", ".join(f"{name} {count}" for name, count in sorted(found.seen.items()))
    lines += [
        "",
        f"p99 with attackers less p99 without: {1e3 * found.added_s:+.3f} ms (at most "
        f"{1e3 * ALLOWED_S:g} asked for). {found.attempts} connections came. The trainer counted: {refused}. "
        f"The attackers counted: {seen}. Strangers heard: {len(found.strangers_heard)}. Episodes stored: "
        f"{found.stored} of {found.episodes}. Machine: {in_words(found.machine)}.",
    ]
    return "\n".join(lines)
