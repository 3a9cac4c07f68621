"""Releases between a whole robot and its trainer: refused ones, and outcomes told across restarts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from robots import policy_package
from serving import ENVIRONMENT, Serving, robot_command


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy").folder


def tiny(package: Path, options: dict[str, object], episodes: int = 2) -> tuple[str, ...]:
    """Trainer that never looks: the tiny refiner on every `episodes` episodes."""
    return (
        *("reward.model=clock", "refiner.kind=tiny", f"refiner.package={package}"),
        *(f"refiner.options={json.dumps(options)}", f"iteration.episodes={episodes}"),
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
            *("iteration.episodes=2", "iteration.count=3"),
        )
        done = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, timeout=90, check=False
        )
    assert done.returncode == 0, done.stderr
    outcomes = trainer.of("release", "publish_seq", "outcome")
    assert outcomes == [[1, "rejected"], [2, "swapped"], [2, "committed"], [3, "swapped"]]
    assert "moved too far" in trainer.of("release", "reason")[0][0]
    assert list(versions(robot)) == [0, 0, 0, 0, 2, 2]
