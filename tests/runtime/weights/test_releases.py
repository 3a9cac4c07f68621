"""Releases between a whole robot and its trainer: refused ones, and outcomes told across restarts."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from robots import policy_package
from serving import ENVIRONMENT, SOCKETS, Serving, robot_command


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy").folder


def tiny(package: Path, options: dict[str, object], episodes: int = 2) -> tuple[str, ...]:
    """Trainer that never looks: the tiny refiner on every `episodes` episodes."""
    return (
        *("reward.model=clock", "refiner.kind=tiny", f"refiner.package={package}"),
        *(f"refiner.options={json.dumps(options)}", f"iteration.episodes={episodes}"),
    )


def finished(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**ENVIRONMENT, **environment}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=180, check=False
    )


def versions(robot: Path) -> Iterator[int]:
    """Policy version of each episode, as the robot logged it."""
    for line in (robot / "episodes.jsonl").read_text().splitlines():
        yield json.loads(line)["policy_version"]


def test_after_a_refused_release_the_next_one_is_waited_for(tmp_path: Path, package: Path) -> None:
    robot = tmp_path / "robot"
    # An update takes long enough for a robot that does not wait to have begun its next episode.
    options = {"wild_at": 1, "sleep_s": 1.0}
    with Serving(tmp_path / "trainer", *tiny(package, options)) as trainer:
        trainer.enrol(robot)
        command = robot_command(
            *(robot, package, trainer.endpoints, "episode.max_s=1.0"),
            *("iteration.episodes=2", "iteration.count=3", "probation.unjudged=2"),
        )
        done = finished(command)
    assert done.returncode == 0, done.stderr
    outcomes = trainer.of("release", "publish_seq", "outcome")
    assert outcomes == [[1, "rejected"], [2, "swapped"], [2, "committed"], [3, "swapped"]]
    assert "moved too far" in trainer.of("release", "reason")[0][0]
    assert list(versions(robot)) == [0, 0, 0, 0, 2, 2]


def test_without_a_trainer_it_ends_soon_and_says_what_waits(tmp_path: Path, package: Path) -> None:
    robot = tmp_path / "robot"
    nobody = dict.fromkeys(SOCKETS, "tcp://127.0.0.1:9")  # the discard port: nothing listens
    command = robot_command(robot, package, nobody, "episode.max_s=1.0", "iteration.count=1")
    command += ["--episodes", "2"]
    done = finished(command)
    ended_s = time.time() - (robot / "episodes.jsonl").stat().st_mtime
    assert done.returncode == 0, done.stderr
    assert ended_s < 10.0, "it waited for a trainer that was never there"
    assert f"2 episodes wait in {robot / 'spool'} for the trainer" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["spooled"] == 2

    with Serving(tmp_path / "trainer", *tiny(package, {}, episodes=10)) as trainer:
        trainer.enrol(robot)
        command = robot_command(robot, package, trainer.endpoints, "episode.max_s=1.0")
        done = finished([*command, "--episodes", "1"])
        assert done.returncode == 0 and "wait in" not in done.stderr, done.stderr
        for _ in range(300):  # stored is not scored yet
            if len(trainer.of("episode", "episode_seq")) == 3:
                break
            time.sleep(0.1)
    assert trainer.of("episode", "episode_seq") == [[0], [1], [2]]


def test_a_run_that_is_over_before_its_link_has_started_loses_no_episode(
    tmp_path: Path, package: Path
) -> None:
    """The link takes its time to load, as on a machine with much to do; it was ended before it listened."""
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "sitecustomize.py").write_text(
        "import sys, time\nif 'runtime.link.process' in sys.orig_argv:\n"
        "    from pathlib import Path\n"
        f"    while not Path({str(tmp_path / 'robot' / 'episodes.jsonl')!r}).exists():\n"
        "        time.sleep(0.1)\n"
        "    time.sleep(2.0)\n"
    )
    nobody = dict.fromkeys(SOCKETS, "tcp://127.0.0.1:9")
    command = robot_command(tmp_path / "robot", package, nobody, "episode.max_s=1.0")
    paths = os.pathsep.join((str(tmp_path / "late"), ENVIRONMENT["PYTHONPATH"]))
    done = finished([*command, "--episodes", "1"], PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["spooled"] == 1
