"""What a fleet's turn comes to: who got how much, how long who waited, and what must not be. Pure but for
reading the trainer's folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks.fleet_robot import Did
from contracts.files.log_to_dataset import read_episode
from trainer.interfaces import EpisodeKey
from trainer.metrics import read_metrics


class Acknowledged(NamedTuple):
    """An episode on the trainer's disk: `version` by the trainer's index, `at_s` of the wall clock."""

    robot_id: str
    session_id: str
    seq: int
    version: int
    at_s: float


class Row(msgspec.Struct, frozen=True):
    """One robot in the time that was measured. `versions`: releases that it acted by, 0 the package's own, of
    all its episodes. `wait`: from an episode's end at the robot to its being stored. `longest_without_s`: the
    longest that a whole episode waited and none was acknowledged."""

    robot_id: str
    episodes: int
    steps: int
    steps_s: float
    versions: tuple[int, ...]
    wait_p50_s: float
    wait_max_s: float
    longest_without_s: float


def acknowledged(root: Path) -> list[Acknowledged]:
    """Everything that the trainer at `root` has stored and said so, in that order."""
    index = root / "store" / "index.jsonl"
    if not index.exists():
        return []
    data = index.read_bytes()
    versions = {}
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        entry = json.loads(line)
        key = EpisodeKey(entry["robot_id"], entry["session_id"], entry["episode_seq"])
        versions[str(key)] = key, int(entry["policy_version"])
    return [
        Acknowledged(*key, version, float(record["unix_s"]))
        for record in records(root, "stored")
        if record["key"] in versions
        for key, version in [versions[record["key"]]]
    ]


def rows_of(
    did: Sequence[Did], stored: Sequence[Acknowledged], from_s: float, to_s: float
) -> tuple[Row, ...]:
    """A row a robot, of what was stored from `from_s` to `to_s`."""
    return tuple(_row(one, stored, from_s, to_s) for one in did)


def _row(did: Did, stored: Sequence[Acknowledged], from_s: float, to_s: float) -> Row:
    at_s = {one.seq: one.at_s for one in stored if one.robot_id == did.robot_id}
    counted = [sent for sent in did.sent if from_s <= at_s.get(sent.seq, 0.0) < to_s]
    waits = [at_s[sent.seq] - sent.ended_unix_s for sent in counted] or [0.0]
    steps = sum(sent.steps for sent in counted)
    return Row(
        robot_id=did.robot_id,
        episodes=len(counted),
        steps=steps,
        steps_s=steps / (to_s - from_s),
        versions=tuple(sorted({sent.version for sent in did.sent})),
        wait_p50_s=statistics.median(waits),
        wait_max_s=max(waits),
        longest_without_s=longest_without(
            [(sent.ended_unix_s, at_s[sent.seq]) for sent in did.sent if sent.seq in at_s]
        ),
    )


def longest_without(episodes: Sequence[tuple[float, float]]) -> float:
    """Of (ended, stored) in seconds: the longest that at least one waited and none was stored."""
    longest, last_s = 0.0, float("-inf")
    for ended_s, stored_s in sorted(episodes, key=lambda one: one[1]):
        longest, last_s = max(longest, stored_s - max(last_s, ended_s)), stored_s
    return longest


def records(root: Path, kind: str) -> list[dict[str, Any]]:
    """The metrics of that kind of the trainer at `root`."""
    path = root / "metrics.jsonl"
    return [r for r in read_metrics(path) if r["kind"] == kind] if path.exists() else []


def problems_of(did: Sequence[Did], stored: Sequence[Acknowledged], root: Path) -> Iterator[str]:
    """What must not be: lost, repeated or mixed up episodes, and a release that is not what a robot says.
    `root`: the trainer's folder."""
    published = {int(r["publish_seq"]) for r in records(root, "iteration")}
    # Of the last one a trainer that was killed had no time to write that line.
    published |= {int(path.name) for path in (root / "releases" / "policy").glob("[0-9]*")}
    told = {
        (r["robot_id"], int(r["publish_seq"]), int(r["episode_seq"]))
        for r in records(root, "release")
        if r["outcome"] == "swapped"
    }
    for one in did:
        mine = [each for each in stored if each.robot_id == one.robot_id]
        yield from _of_episodes(one, mine)
        yield from _of_releases(one, published, told)
        for each in _first_of_versions(mine):
            path = (
                root
                / "store"
                / "logs"
                / f"{EpisodeKey(each.robot_id, each.session_id, each.seq)}.elog"
            )
            found = {int(v) for v in read_episode(path).columns["policy_version"]}
            if found != {each.version}:
                yield f"{path.stem}: steps of {sorted(found)} in an episode of {each.version}"
    strangers = {each.robot_id for each in stored} - {one.robot_id for one in did}
    if strangers:
        yield f"episodes of {sorted(strangers)}, whom nobody started"


def _of_episodes(did: Did, stored: Sequence[Acknowledged]) -> Iterator[str]:
    seqs = [each.seq for each in stored]
    if seqs != [sent.seq for sent in did.sent]:
        yield f"{did.robot_id} sent {len(did.sent)} episodes and {len(seqs)} are stored, or in another order"
    said = {sent.seq: sent.version for sent in did.sent}
    for each in stored:
        if each.version != said.get(each.seq):
            yield (
                f"{did.robot_id}: episode {each.seq} is stored as of release {each.version} and was acted by "
                f"{said.get(each.seq)}"
            )


def _of_releases(did: Did, published: set[int], told: set[tuple[str, int, int]]) -> Iterator[str]:
    before = 0
    for sent in did.sent:
        if sent.version < before:
            yield f"{did.robot_id}: episode {sent.seq} by release {sent.version}, after {before}"
        if sent.version and sent.version not in published:
            yield f"{did.robot_id}: episode {sent.seq} by release {sent.version}, which was never published"
        before = max(before, sent.version)
    for release, seq in did.swapped:
        if (did.robot_id, release, seq) not in told:
            yield f"{did.robot_id}: the trainer has not heard of release {release} from episode {seq}"
    for refused in did.refused:
        yield f"{did.robot_id} refused {refused}"


def _first_of_versions(stored: Sequence[Acknowledged]) -> Iterator[Acknowledged]:
    known: set[int] = set()
    for each in stored:
        if each.version not in known:
            known.add(each.version)
            yield each
