"""What a robot waits for at an iteration's end: a release that the trainer can make of what it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from swap_robot import Robot, nudged, package, release, robot, trainer

from benchmarks.probation_trials import _Loop
from runtime.board import Board
from runtime.config import load_config
from runtime.control.releases import Releases
from runtime.control.resting import Resting
from runtime.run import Run, RunPlan
from trainer.publisher import Publisher

__all__ = ["package", "robot", "trainer"]
N = 3
EPISODES = 6 * N


@dataclass
class _Ends(_Loop):
    """A robot beside a trainer that makes a release of every `N` episodes, while the robot waits or while it
    runs the next one. `pending`: what the trainer has; `in_vain`: when it was waited for with too few."""

    ends: Robot | None = None
    trainer: Publisher | None = None
    board: Board | None = None
    pending: int = 0
    lost: int = -1
    bad: int = -1
    slow: int = -1
    """The release that is made while the robot runs its next episode, however long it waited before."""

    def __post_init__(self) -> None:
        self.in_vain: list[int] = []
        self.published = 0

    def rest(self) -> bool:
        assert self.board is not None
        slow = self.published + 1 == self.slow
        if not (slow or self._publish()) and self.board.waiting_for_release:
            done = self.board.episodes_done
            self.in_vain += [done] if done not in self.in_vain else []
        return True

    def episode(self) -> None:
        assert self.board is not None
        self._publish()
        self.board.episodes_done += 1
        self.pending += self.board.episodes_done != self.lost

    def _publish(self) -> bool:
        if self.pending < N:
            return False
        assert self.ends is not None and self.trainer is not None and self.board is not None
        self.pending, self.published = 0, self.published + 1
        by = 1e9 if self.published == self.bad else 0.01 * self.published
        offer, data = release(self.trainer, nudged(self.ends.package, by))
        self.ends.fetch(offer, data)
        self.board.staged_policy_seq = max(self.ends.staged, default=0)
        return True


@pytest.fixture
def loop(tmp_path: Path, robot: Robot, trainer: Publisher) -> Iterator[_Ends]:
    with Board.create(tmp_path / "board") as board:
        yield _Ends(robot.swapper, ends=robot, trainer=trainer, board=board)


def run(loop: _Ends, folder: Path) -> list[int]:
    """The version that each episode was run with."""
    settings = ["iteration.release_timeout_s=0.5", f"iteration.episodes={N}"]
    described = Run(load_config(None, settings), RunPlan(), str(folder), str(folder), "s1")
    assert loop.board is not None
    releases = Releases(described, loop.board, loop, Resting(loop))  # type: ignore[arg-type]
    versions = []
    for seq in range(EPISODES):
        assert releases.before(seq)
        assert loop.board.iteration_episode < N
        versions.append(loop.policy_version)
        loop.episode()
    return versions


def test_in_step_every_iteration_has_its_release(loop: _Ends, tmp_path: Path) -> None:
    assert run(loop, tmp_path) == [version for version in range(6) for _ in range(N)]
    assert not loop.in_vain


@pytest.mark.parametrize("before", [1, 2])
def test_a_robot_that_was_started_within_an_iteration_waits_for_nothing_in_vain(
    loop: _Ends, tmp_path: Path, before: int
) -> None:
    loop.pending = before
    versions = run(loop, tmp_path)
    assert not loop.in_vain and versions[-1] >= 5


@pytest.mark.parametrize("lost", [1, 4, 6])
def test_of_an_episode_that_was_lost_two_waits_come(loop: _Ends, tmp_path: Path, lost: int) -> None:
    """The first might have been for a trainer that is slow."""
    loop.lost = lost
    versions = run(loop, tmp_path)
    assert len(loop.in_vain) == 2 and loop.in_vain[0] < lost + N and versions[-1] >= 4
    assert loop.in_vain[1] == loop.in_vain[0] + N


@pytest.mark.parametrize("slow", [1, 2])
def test_after_a_release_that_came_late_the_robot_is_in_step_again(
    loop: _Ends, tmp_path: Path, slow: int
) -> None:
    loop.slow = slow
    versions = run(loop, tmp_path)
    expected = [version for version in range(6) for _ in range(N)]
    expected[slow * N] -= 1
    assert versions == expected and not loop.in_vain


def test_a_release_that_is_refused_was_made_of_an_iteration_too(
    loop: _Ends, tmp_path: Path
) -> None:
    loop.pending, loop.bad = 2, 1
    versions = run(loop, tmp_path)
    assert not loop.in_vain and 1 not in versions and versions[-1] >= 5
    assert loop.board is not None and loop.board.swaps_rejected == 1
