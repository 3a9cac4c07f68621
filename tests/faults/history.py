"""Judges what a run left in the trainer's store against what control wrote. Pure reading, no processes.

The rules: every episode and every step of it stored once, unaltered, in order per robot; one set of weights
an episode, one that was activated; what acted is what those weights say; no command older than its limit.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from contracts import images, wire
from contracts.files.episode_log import EpisodeLogReader
from contracts.messages import EpisodeEnd, EpisodeStart, GateBit, Step

Key = tuple[str, str, int]
"""robot_id, session_id, episode_seq."""
CLOSE = 1e-4


@dataclass
class Written:
    """One episode as control wrote it. `kept` False: it must not be stored (to be recorded again). `cut`: a
    power cut took the shared memory that part of it was in: what is stored is as many first steps as had
    reached the disk. `ended`: how many records its session had written with its end, 0 without one."""

    key: Key
    version: int
    steps: list[str] = field(default_factory=list)
    kept: bool = True
    cut: bool = False
    ended: int = 0


@dataclass
class Findings:
    """`problems`: every breach of a rule as a sentence; `counts`: breaches by rule and what was looked at."""

    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def breach(self, rule: str, what: str) -> None:
        self.counts[rule] += 1
        self.problems.append(f"{rule}: {what}")


def digest(packet: wire.Packet) -> str:
    """Of a step with its pictures: message and depth bit for bit, of colour (JPEG) that it is there."""
    found = hashlib.sha256(msgspec.msgpack.encode(packet.message))
    for name in sorted(packet.descriptors):
        found.update(name.encode())
        if name.endswith(".depth"):
            buffer = packet.descriptors[name]
            if buffer.codec == "raw":
                found.update(np.ascontiguousarray(packet.array(name)).tobytes())
            else:
                data = bytes(packet.data[name])
                found.update(images.decode(buffer.codec, data, buffer.shape).tobytes())
    return found.hexdigest()


def check(
    store: Path,
    written: Iterable[Written],
    actions: Mapping[tuple[str, int], np.ndarray],
    max_age_s: float,
) -> Findings:
    """`actions`: by robot and version, what the weights that were activated there act, float[A]."""
    found = Findings()
    expected = {episode.key: episode for episode in written}
    arrived = _index(store, found)
    _check_once_and_in_order(arrived, list(expected.values()), found)
    for key in dict.fromkeys(arrived):
        if key not in expected:
            found.breach("foreign", f"{key} was never written")
            continue
        _check_episode(store, expected[key], actions, max_age_s, found)
    return found


def _index(store: Path, found: Findings) -> list[Key]:
    path = store / "index.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    if [entry["arrival"] for entry in entries] != list(range(len(entries))):
        found.breach("index", "arrivals are not 0, 1, 2, ...")
    for entry in entries:
        if entry["problem"]:
            found.breach("unreadable", f"{entry['session_id']} {entry['episode_seq']}: {entry}")
    return [(entry["robot_id"], entry["session_id"], entry["episode_seq"]) for entry in entries]


def _check_once_and_in_order(arrived: list[Key], written: list[Written], found: Findings) -> None:
    times = Counter(arrived)
    for key, count in times.items():
        if count > 1:
            found.breach("duplicated", f"{key} stored {count} times")
    for episode in written:
        if episode.kept and not episode.cut and not times[episode.key]:
            found.breach("lost", f"{episode.key} is not in the store")
        if not episode.kept and times[episode.key]:
            found.breach("unwanted", f"{episode.key} was to be recorded again and is stored")
    place = {episode.key: number for number, episode in enumerate(written)}
    newest: dict[str, int] = {}
    for key in dict.fromkeys(arrived):
        if key in place:
            if place[key] < newest.get(key[0], -1):
                found.breach("out of order", f"{key} came after a later one")
            newest[key[0]] = max(place[key], newest.get(key[0], -1))
    found.counts["episodes stored"] = len(times)


def _check_episode(
    store: Path,
    written: Written,
    actions: Mapping[tuple[str, int], np.ndarray],
    max_age_s: float,
    found: Findings,
) -> None:
    key = written.key
    reader = EpisodeLogReader(store / "logs" / f"{key[0]}__{key[1]}__{key[2]:08d}.elog")
    steps: list[str] = []
    start, end = None, None
    for packet in reader.packets():
        message = packet.message
        if isinstance(message, EpisodeStart):
            start = message
        elif isinstance(message, EpisodeEnd):
            end = message
        elif isinstance(message, Step):
            steps.append(digest(packet))
            _check_step(key, message, start, actions, max_age_s, found)
    found.counts["steps stored"] += len(steps)
    if reader.torn or end is None or start is None:
        found.breach("torn", f"{key}: {reader.torn or 'no start or end'}")
    if written.cut:
        if steps != written.steps[: len(steps)]:
            found.breach("altered", f"{key}: not the first steps of what was written")
        return
    if steps == written.steps:
        return
    if Counter(steps) == Counter(written.steps):
        found.breach("steps out of order", f"{key}")
    lost = Counter(written.steps) - Counter(steps)
    more = Counter(steps) - Counter(written.steps)
    if lost:
        found.breach("steps lost", f"{key}: {sum(lost.values())} of {len(written.steps)}")
    if more:
        found.breach("steps duplicated or altered", f"{key}: {sum(more.values())}")


def _check_step(
    key: Key,
    step: Step,
    start: EpisodeStart | None,
    actions: Mapping[tuple[str, int], np.ndarray],
    max_age_s: float,
    found: Findings,
) -> None:
    where = f"{key} step {step.index}"
    if start is None or step.policy_version != start.policy_version:
        found.breach("mixed weights", f"{where}: {step.policy_version}")
    acting = actions.get((key[0], step.policy_version))
    if acting is None:
        found.breach("never activated", f"{where}: release {step.policy_version}")
        return
    if step.gate & GateBit.HELD:
        found.counts["steps held"] += 1
        return
    if np.abs(acting - np.array(step.action)).max() > CLOSE:
        found.breach("other weights acted", f"{where}: not what release {step.policy_version} does")
    if not step.actuated_s - step.inference_started_s <= max_age_s:
        found.breach(
            "stale command", f"{where}: {step.actuated_s - step.inference_started_s:.2f} s"
        )
