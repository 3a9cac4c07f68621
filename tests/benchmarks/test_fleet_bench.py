"""`robot-bench fleet`: the whole rig with a small package, its figures from known numbers, what it finds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from daemon_bench import PLUGIN
from tiny_package import make_package
from tiny_robot import episode, session_start

from benchmarks.fleet import Found, measure, table
from benchmarks.fleet_figures import Acknowledged, longest_without, problems_of, rows_of
from benchmarks.fleet_robot import Did, Sent
from contracts import wire
from contracts.errors import ConfigError, EntracteError
from contracts.files.episode_log import EpisodeLogWriter
from contracts.files.log_to_dataset import append, create_dataset, read_episode
from runtime.run import Run
from trainer.metrics import Metrics


def recorded(folder: Path) -> Path:
    """A data set of one episode of the small package's robot."""
    log = EpisodeLogWriter(folder / "log")
    for parts in (wire.pack(session_start()), *episode(0, steps=20)):
        log.append(parts)
    logged = read_episode(log.finish().path)
    with create_dataset(folder / "recorded", logged) as writer:
        append(writer, logged)
    return folder / "recorded"


def test_robots_beside_one_another_and_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    package = make_package(tmp_path / "policy")
    found = measure(
        package.folder,
        recorded(tmp_path),
        robots=(1, 2),
        seconds=2.0,
        versions=2,
        rate_hz=50.0,
        refiner="tiny",
        settings=("iteration.episodes=5",),
    )
    assert [turn.robots for turn in found.turns] == [1, 2]
    for turn in found.turns:
        assert turn.problems == ()
        assert turn.iterations >= 2 and turn.cores > 0
        assert len(turn.rows) == turn.robots
        for row in turn.rows:
            assert row.episodes > 0 and row.steps == 20 * row.episodes
            assert len(set(row.versions) - {0}) >= 2
            assert 0 <= row.longest_without_s <= row.wait_max_s + 60
    assert found.ratio > 0 and "| 2 | robot-1 |" in table(found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Found) == found


def did(robot_id: str, versions: tuple[int, ...], swapped: tuple[tuple[int, int], ...] = ()) -> Did:
    """Ten steps an episode, one each second from 100 s on."""
    sent = tuple(
        Sent(seq, 10, version, 100.0 + seq, 101.0 + seq) for seq, version in enumerate(versions)
    )
    return Did(robot_id, sent, swapped, ())


def stored_of(did: Did, after_s: float = 0.5) -> list[Acknowledged]:
    return [
        Acknowledged(did.robot_id, "s", one.seq, one.version, one.ended_unix_s + after_s)
        for one in did.sent
    ]


def test_figures_of_a_robot_are_those_of_the_time_that_was_measured() -> None:
    one = did("a", (0, 0, 1, 1))
    (row,) = rows_of([one], stored_of(one), 102.0, 104.0)
    assert (row.episodes, row.steps, row.steps_s, row.versions) == (2, 20, 10.0, (0, 1))
    assert row.wait_p50_s == row.wait_max_s == pytest.approx(0.5)
    (none,) = rows_of([one], [], 102.0, 104.0)
    assert (none.episodes, none.wait_max_s, none.longest_without_s) == (0, 0.0, 0.0)


def test_the_longest_without_is_counted_only_while_something_waits() -> None:
    assert longest_without([(1.0, 1.5), (60.0, 61.0)]) == 1.0
    # Three ended at once: the last one waited for the others, and none of them for long.
    assert longest_without([(1.0, 2.0), (1.0, 3.0), (1.0, 4.5)]) == 1.5
    assert longest_without([]) == 0.0


class Folder:
    """A trainer's folder with the logs and metrics that a fleet's check reads."""

    def __init__(self, root: Path, released: int) -> None:
        self.root, self.metrics = root, Metrics(root / "metrics.jsonl")
        for seq in range(1, released + 1):
            self.metrics.add("iteration", iteration=seq, publish_seq=seq)

    def heard(self, robot_id: str, release: int, seq: int) -> None:
        outcome = {"outcome": "swapped", "robot_id": robot_id}
        self.metrics.add("release", publish_seq=release, episode_seq=seq, **outcome)

    def log(self, one: Acknowledged, version: int) -> None:
        path = self.root / "store/logs" / f"{one.robot_id}__{one.session_id}__{one.seq:08d}.elog"
        writer = EpisodeLogWriter(path)
        writer.append(wire.pack(session_start(one.session_id, one.robot_id)))
        given = {"session_id": one.session_id, "robot_id": one.robot_id, "version": version}
        for parts in episode(one.seq, steps=2, **given):  # type: ignore[arg-type]
            writer.append(parts)
        writer.finish()


def test_what_must_not_be_is_found(tmp_path: Path) -> None:
    folder = Folder(tmp_path, released=1)
    one = did("a", (0, 1), swapped=((1, 1),))
    stored = stored_of(one)
    for each in stored:
        folder.log(each, each.version)
    assert list(problems_of([one], stored, tmp_path)) == [
        "a: the trainer has not heard of release 1 from episode 1"
    ]
    folder.heard("a", 1, 1)
    assert list(problems_of([one], stored, tmp_path)) == []

    def problem(did: Did, stored: list[Acknowledged]) -> str:
        return "; ".join(problems_of([did], stored, tmp_path))

    assert "2 episodes and 1 are stored" in problem(one, stored[:1])
    assert "in another order" in problem(one, stored[::-1])
    swapped = [stored[0], stored[1]._replace(version=0)]
    assert "stored as of release 0 and was acted by 1" in problem(one, swapped)
    assert "never published" in problem(did("a", (0, 7)), [])
    assert "by release 0, after 1" in problem(did("a", (1, 0)), [])
    stranger = stored[0]._replace(robot_id="b")
    assert "['b'], whom nobody started" in problem(one, [*stored, stranger])
    folder.log(stored[1]._replace(seq=2), version=0)
    mixed = did("a", (0, 0, 1))
    assert "steps of [0] in an episode of 1" in problem(
        mixed, [stored[0], stored[0]._replace(seq=1), stored[1]._replace(seq=2)]
    )


def test_a_robot_that_cannot_begin_is_one_sentence(tmp_path: Path) -> None:
    package = make_package(tmp_path / "policy")
    with pytest.raises(EntracteError, match=r"robot-0 ended by itself.*data set"):
        measure(package.folder, tmp_path / "nothing", robots=(1,), seconds=1.0, refiner="")


def memory_of(temporary: Path, run: str) -> Path | None:
    """What the run whose configuration matches shares between its processes, once it has begun."""
    for path in temporary.glob(run):
        with suppress(ConfigError):  # which is being written
            memory = Path(Run.load(path.parent).shm_dir)
            if (memory / "board").exists():
                return memory
    return None


@pytest.mark.parametrize("while_it", ["acts", "records"])
def test_ctrl_c_leaves_nothing_in_memory(tmp_path: Path, while_it: str) -> None:
    """A robot shares its memory with its link; so does the bench's, which records what is to be replayed."""
    temporary, run, words = tmp_path / "t", "entracte-bench-*/run/config.json", list[str]()
    if while_it == "acts":
        run = "entracte-fleet-*/robot-0/config.json"
        words += ["--package", str(make_package(tmp_path / "policy").folder)]
        words += ["--recorded", str(recorded(tmp_path)), "--refiner", "", "--rate-hz", "50"]
    temporary.mkdir()
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.app", "fleet", "--seconds", "600", *words],
            env={**os.environ, "TMPDIR": str(temporary)},
            stderr=said,
            # Where tests run in the background it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
    try:
        give_up_s = time.monotonic() + 120
        while (memory := memory_of(temporary, run)) is None:
            assert process.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < give_up_s
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) != 0
    finally:
        process.kill()
        process.wait()
    assert not memory.exists()
