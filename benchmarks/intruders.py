"""The control loop while strangers try the trainer's doors, beside the same loop without them.

One robot at full load streams to one trainer over CURVE; in every second block a process makes connection
attempts of every kind, from the first tick that is counted to the last. Trainer, robot and attackers share
this machine, which is worse than they would meet.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.intruders_attack import STRANGERS
from benchmarks.intruders_hour import Attackers
from benchmarks.loop import ROBOT, SOCKETS, OurLoop, Trainer
from benchmarks.loop_rig import Rig
from benchmarks.machine import in_words, machine
from contracts.files import atomic
from contracts.files.episode_log import EpisodeLogReader
from contracts.files.keys import KeyStore
from contracts.messages import Step
from contracts.sockets import KeyPair, Pass
from contracts.sockets.admission import REVOKED, UNKNOWN
from contracts.sockets.curve import new_pair

INSIDER, GONE = "another-robot", "a-robot-that-was"
ALLOWED_S = 1e-3
FASTER = 1.1
"""Than the attempts would need, for a machine that is late; attackers go on while ticks are counted."""
DRAINS, DRAIN_BLOCK_S = 6, 2.0
KINDS = {
    "strangers": (
        tuple(STRANGERS),
        ("protocol", "no handshake", "ended unheard", "cut for silence"),
    ),
    "unknown key": ((UNKNOWN,), (UNKNOWN,)),
    "revoked key": ((REVOKED,), (REVOKED,)),
    "another robot's id": (("answered: identity",), ("another robot's id",)),
    "old wire version": (("answered: version",), ("told: version",)),
}
"""What the attackers counted of each kind, and what the trainer did."""


class Found(msgspec.Struct, frozen=True):
    """Lateness of all ticks of each kind of block. `asked`: strangers' connections within counted ticks,
    `within`: those made. `seen` is what the attackers counted in all, `refused` what the trainer did.
    `strangers_heard`: robots that the trainer heard of besides the one under test. `stored`: of `episodes`,
    when the last block was over and what had waited was sent."""

    rate_hz: float
    ticks: dict[str, int]
    p50_s: dict[str, float]
    p99_s: dict[str, float]
    missed: dict[str, int]
    asked: int
    within: int
    seen: dict[str, int]
    refused: dict[str, int]
    strangers_heard: tuple[str, ...]
    episodes: int
    stored: int
    machine: dict[str, Any]

    @property
    def kinds(self) -> dict[str, tuple[int, int]]:
        """(attempts, refusals) of each kind."""
        return {
            kind: (
                sum(self.seen.get(name, 0) for name in seen),
                sum(self.refused.get(name, 0) for name in refused),
            )
            for kind, (seen, refused) in KINDS.items()
        }

    @property
    def counted(self) -> bool:
        """Whether every kind was tried, and each attempt refused and counted."""
        return all(0 < tried <= refused for tried, refused in self.kinds.values())

    @property
    def added_s(self) -> float:
        return self.p99_s["attacked"] - self.p99_s["quiet"]

    @property
    def good(self) -> bool:
        """All that was asked for: the attempts made while ticks were counted, each refused and counted,
        nobody in, nothing lost, the loop no later than it may be."""
        let_in = self.seen.get("answered: let in", 0) or self.strangers_heard
        attacked = self.within >= self.asked and self.counted
        whole = self.stored == self.episodes
        return attacked and not let_in and whole and self.added_s <= ALLOWED_S


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
        self.ticked_s = (0.0, 0.0)
        """The first and the last tick of the last block (monotonic)."""

    def wait_for_log(self, before: set[Path]) -> Path:
        del before
        found = [*self.logs(), *self._spool.glob("*.elog")]
        newest = max(found, key=lambda path: int(path.stem[-8:]))
        messages = [packet.message for packet in EpisodeLogReader(newest).packets()]
        ticks_s = [message.tick_s for message in messages if isinstance(message, Step)]
        self.ticked_s = min(ticks_s), max(ticks_s)
        return newest


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
    """`blocks` without and as many with attackers in turn; together these make at least `attempts`."""
    late: dict[str, list[float]] = {"quiet": [], "attacked": []}
    missed: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / "trainer"
    strangers, within = _enrol(root, folder / "rig", ROBOT), 0
    patient = PatientTrainer(root, folder / "robot")
    with KeyedRig(folder / "rig") as rig, patient as trainer:
        loop = OurLoop(rig, trainer, package, rate_hz, folder)
        for number in range(2 * blocks):
            kind = "attacked" if number % 2 else "quiet"
            with contextlib.ExitStack() as stack:
                attackers = None
                if kind == "attacked":
                    job = _job(trainer, strangers, FASTER * attempts / blocks / block_s)
                    attackers = stack.enter_context(Attackers(job, folder / "robot"))
                found = loop.run(block_s)
            late[kind] += found["lateness_s"]
            missed[kind] += found["missed"]
            if attackers is not None:
                seen.update(attackers.counts)
                first_s, last_s = patient.ticked_s
                within += sum(first_s <= at_s <= last_s for at_s in attackers.at_s)
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
        asked=attempts,
        within=within,
        seen=dict(seen),
        refused=_last(records, "door"),
        strangers_heard=_strangers(records, ROBOT),
        episodes=episodes,
        stored=stored,
        machine=machine(),
    )


def _enrol(root: Path, rig: Path, name: str) -> dict[str, KeyPair]:
    """What `enroll` would have left on both ends, for the robot under test; and the pairs of the insider and
    of a robot that was revoked."""
    there, here = KeyStore(root / "keys"), KeyStore(rig / "keys")
    now_s = time.time()
    insider, revoked = new_pair(), new_pair()
    robot = here.own(make=True).public
    there.add(Pass(name=name, key=robot, enrolled_unix_s=now_s))
    there.add(Pass(name=INSIDER, key=insider.public, enrolled_unix_s=now_s))
    there.add(Pass(name=GONE, key=revoked.public, enrolled_unix_s=now_s))
    there.revoke(GONE, now_s)
    here.add(Pass(name="trainer", key=there.own(make=True).public, enrolled_unix_s=now_s))
    return {"insider": insider, "revoked": revoked}


def _job(trainer: Trainer, strangers: Mapping[str, KeyPair], per_s: float) -> dict[str, Any]:
    """What `benchmarks.intruders_attack` is told."""
    named = {"insider": INSIDER, "revoked": GONE}
    return {
        "endpoints": {name: trainer.endpoints[name] for name in SOCKETS},
        "per_s": per_s,
        "server": KeyStore(trainer.folder / "keys").own().public,
        "victim": ROBOT,
        **{
            kind: {
                "name": name,
                "public": strangers[kind].public,
                "secret": strangers[kind].secret,
            }
            for kind, name in named.items()
        },
    }


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
    lines += ["", "| kind of attempt | made | refused, counted |", "|---|---|---|"]
    lines += [f"| {kind} | {made} | {refused} |" for kind, (made, refused) in found.kinds.items()]
    refused = ", ".join(f"{name} {count}" for name, count in sorted(found.refused.items()))
    seen = ", ".join(f"{name} {count}" for name, count in sorted(found.seen.items()))
    lines += [
        "",
        f"p99 with attackers less p99 without: {1e3 * found.added_s:+.3f} ms (at most "
        f"{1e3 * ALLOWED_S:g} asked for). Strangers' connections within counted ticks: {found.within} of "
        f"{found.asked} asked for. The trainer counted: {refused}. "
        f"The attackers counted: {seen}. Strangers heard: {len(found.strangers_heard)}. Episodes stored: "
        f"{found.stored} of {found.episodes}. Machine: {in_words(found.machine)}.",
    ]
    return "\n".join(lines)
