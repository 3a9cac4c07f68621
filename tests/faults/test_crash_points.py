"""Every crash point from an offer to a committed release: a kill there, and every disk after a power cut."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
from faults.crash_points import Disk, Op, crashes, killed_at, lay_out, recorded
from faults.release_life import Mark, Releases, found_sound, story

from runtime.weights import slots

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="pathlib of Python 3.10 keeps its own copies of what is watched",
)


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases.make(tmp_path_factory.mktemp("package") / "policy")


@pytest.fixture(scope="module")
def ops(tmp_path_factory: pytest.TempPathFactory, releases: Releases) -> list[Op]:
    folder = tmp_path_factory.mktemp("recording") / "robot"
    folder.mkdir()
    return recorded(folder, lambda mark: story(folder, releases, mark))


def test_a_disk_model_that_forgets_what_was_not_synced() -> None:
    disk = Disk()
    for op in (
        Op("create", "a"),
        Op("write", "a", data=b"old"),
        Op("fsync", "a"),
        Op("sync_folder"),
    ):
        disk.do(op)
    for op in (Op("create", "b"), Op("write", "b", data=b"newer"), Op("rename", "b", "a")):
        disk.do(op)
    found = {frozenset(image.items()) for image in disk.after_power_cuts()}
    assert frozenset({("a", b"old")}) in found
    assert frozenset({("a", b"newer")}) in found and frozenset({("a", b"")}) in found
    assert frozenset({("a", bytes(5))}) in found and frozenset({("a", b"ne")}) in found
    assert not any(name == "a" and data is None for image in found for name, data in image)
    disk.do(Op("fsync", "a"))
    disk.do(Op("sync_folder"))
    assert list(disk.after_power_cuts()) == [{"a": b"newer"}]


def check(
    each: list[tuple[int, Mark | None, Mark, bool, dict[str, bytes | None]]],
    folder: Path,
    releases: Releases,
    monkeypatch: pytest.MonkeyPatch,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    real = slots.boot_id()
    for index, (number, before, after, power, image) in enumerate(each):
        robot = folder / f"{index}" / "robot"
        lay_out(image, robot)
        # After a power cut the machine has booted again.
        monkeypatch.setattr(
            "runtime.weights.slots.boot_id", lambda power=power: "next" if power else real
        )
        try:
            found_sound(robot, releases, before, after)
        except Exception as error:
            raise AssertionError(
                f"{'power cut' if power else 'kill'} before operation {number}, "
                f"between {before} and {after}, disk {sorted(image)}"
            ) from error
        counts["power cuts" if power else "kills"] += 1
    return counts


def test_every_crash_leaves_a_committed_release(
    tmp_path: Path, releases: Releases, ops: list[Op], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of the disks; the whole is `test_every_disk` (slow)."""
    each = list(crashes(ops))
    check(each[:: len(each) // 60], tmp_path, releases, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_disk(
    tmp_path: Path, releases: Releases, ops: list[Op], monkeypatch: pytest.MonkeyPatch
) -> None:
    each = list(crashes(ops))
    kinds = Counter(op.kind for op in ops)
    counts = check(each, tmp_path, releases, monkeypatch)
    print(f"{sum(kinds.values()) - kinds['mark']} operations {dict(kinds)}, disks {dict(counts)}")
    assert counts["power cuts"] > 500 and counts["kills"] > 200


def killed(number: int, folder: Path, releases: Releases) -> list[Mark]:
    """Fork, run the story and kill it before operation `number`; returns the marks that it reached."""
    folder.mkdir(parents=True)
    told = folder.parent / "marks"
    child = os.fork()
    if child == 0:
        try:
            with told.open("w", buffering=1) as file:
                killed_at(
                    number,
                    folder,
                    lambda mark: story(folder, releases, mark),
                    lambda mark: print(mark.committed, mark.newest, file=file),
                )
        finally:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    return [Mark(*map(int, line.split())) for line in told.read_text().splitlines()]


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
def test_a_real_kill_leaves_what_the_recording_says(
    tmp_path: Path, releases: Releases, ops: list[Op], share: float
) -> None:
    kill_and_start_again(ops, int(share * sum(op.kind != "mark" for op in ops)), tmp_path, releases)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_real_kill(tmp_path: Path, releases: Releases, ops: list[Op]) -> None:
    total = sum(op.kind != "mark" for op in ops)
    for number in range(total):
        kill_and_start_again(ops, number, tmp_path / str(number), releases)
    print(f"{total} kills")


def kill_and_start_again(ops: list[Op], number: int, folder: Path, releases: Releases) -> None:
    marks = [op.note for op in ops if op.kind == "mark"]
    told = killed(number, folder / "robot", releases)
    assert told == marks[: len(told)]
    found_sound(folder / "robot", releases, told[-1] if told else None, marks[len(told)])
