"""Updates by several processes: what they learn, and what becomes of an update when one of them dies."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import small_policy
import torch
from daemon_bench import NO_PICKLE, Trainer, wait
from driven_episode import Driver
from recorded_store import recorded_store
from refiner_kinds import KINDS, Make, maker
from small_policy import same
from test_placement import close

from contracts.errors import EntracteError
from trainer.interfaces import ScoredEpisode
from trainer.refiners import together
from trainer.refiners.placement import ALONE
from trainer.refiners.together import Several

LONG, LONG_S = {"gradient_steps": 20_000}, 120.0


@pytest.fixture
def make(request: pytest.FixtureRequest, demonstrations: Path, monkeypatch) -> Make:
    # Whatever is exchanged, nothing that could be code is.
    monkeypatch.setattr(together, "PROGRAM", (NO_PICKLE, "trainer.refiners.member"))

    return maker(request, demonstrations)


@pytest.fixture
def given(driver) -> Callable[[int], list[ScoredEpisode]]:
    return lambda number: [driver.drive(one) for one in small_policy.iteration(number)]


def pids(made: Any) -> list[int]:
    return [member.process.pid for member in made.learner._group._members]


def check_two_learn_as_one(make: Make, given, kind: str, folder: Path) -> None:
    """The same up to rounding; twice the same to the bit, by other processes; and a state goes from two to
    one, and from one to two."""
    alone, two = make(kind, ALONE), make(kind, Several("cpu", 2))
    for one, name in ((alone, "alone"), (two, "two")):
        one.update(given(1), 1)
        one.save(folder / name)
    expected, found = (one.update(given(2), 2) for one in (alone, two))
    close(found.tensors, expected.tensors)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-3, abs=1e-6)
    assert found.samples == expected.samples and len(found.answers) == len(expected.answers)
    before = pids(two)
    for state, update, exact in (("two", found, True), ("alone", expected, False)):
        for one in (two, make(kind, ALONE)):
            one.load(folder / state)
            again = one.update(given(2), 2).tensors
            if exact is (one is two):
                assert same(again, update.tensors)
            close(again, update.tensors)
    assert pids(two) == before, "a state that is taken back needs no new processes"
    os.kill(before[0], signal.SIGKILL)
    wait("its end", lambda: not two.learner._group.alive)
    two.load(folder / "two")
    assert same(two.update(given(2), 2).tensors, found.tensors), "by new processes"
    assert not set(pids(two)) & set(before)


@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_learns(make: Make, given, tmp_path: Path) -> None:
    check_two_learn_as_one(make, given, "bestofn", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"bestofn"}))
def test_two_processes_learn_what_one_learns_with_any(
    make: Make, given, tmp_path: Path, kind: str
) -> None:
    check_two_learn_as_one(make, given, kind, tmp_path)


def await_work(of: int) -> None:
    """Until that process, which waits for an update, computes it."""
    process = psutil.Process(of)
    before = process.cpu_times().user
    wait("an update", lambda: process.cpu_times().user > before + 0.3, LONG_S)


def interrupted(
    made: Any, episodes: list[ScoredEpisode], number: int, then: Callable[[], None]
) -> str:
    """What an update says during which the second process is sent that signal."""
    said: list[str] = []

    def update() -> None:
        try:
            made.update(episodes, 2)
        except EntracteError as error:
            said.append(str(error))

    before = pids(made)
    thread = threading.Thread(target=update)
    thread.start()
    await_work(before[1])
    then()
    os.kill(before[1], number)
    thread.join(LONG_S)
    assert not thread.is_alive() and not any(map(psutil.pid_exists, before)), "all are ended"
    return said[0]


@pytest.mark.timeout(900)
def test_one_that_dies_or_hangs_costs_an_update_which_says_so(
    make: Make, given, tmp_path: Path, monkeypatch
) -> None:
    made = make("bestofn", Several("cpu", 2), **LONG)
    made.save(tmp_path / "fresh")
    died = interrupted(made, given(2), signal.SIGKILL, lambda: None)
    assert "process 1 of 2 that learn together died: found SIGKILL" in died
    made.load(tmp_path / "fresh")  # as the trainer does
    made.learner._group = made.learner._begun()
    soon = functools.partial(monkeypatch.setattr, together, "SILENT_S", 3.0)
    hung = interrupted(made, given(2), signal.SIGSTOP, soon)
    assert "that it waits for, hangs: found not a word for 3 s" in hung
    assert made.learner.own == []


def test_what_they_can_not_learn_from_is_said_as_one_alone_says_it(make: Make, package) -> None:
    made, still = make("ppo", Several("cpu", 2)), Driver(package, explore_deg=0.0)
    unexplored = [still.drive(one) for one in small_policy.iteration(1)]
    with pytest.raises(EntracteError, match=r"^ppo learns from what exploration tried: expected "):
        made.update(unexplored, 1)


class Daemon:
    """`robot-trainer serve` on a store of recorded episodes."""

    def __init__(self, folder: Path, package, stored: Path, **settings: object) -> None:
        shutil.copytree(stored, folder / "store")
        options = {f"refiner.options.{n}": v for n, v in KINDS["bestofn"].options.items()}
        fixed = {"refiner.kind": "bestofn", "iteration.episodes": 4, "store.dataset": False}
        self._settings = {**fixed, **options, **settings}
        self.trainer = Trainer(folder, package)

    def start(self, **settings: object) -> None:
        self.trainer.start(**{**self._settings, **settings})

    @property
    def done(self) -> int:
        """Iterations of which there is a record, which is written last."""
        return len(self.trainer.records("iteration"))

    @property
    def members(self) -> list[psutil.Process]:
        assert self.trainer.process is not None
        found = psutil.Process(self.trainer.process.pid).children()
        return [one for one in found if "trainer.refiners.member" in one.cmdline()]


@pytest.fixture
def daemon(tmp_path: Path, package, driver, tmp_path_factory) -> Iterator[Daemon]:
    stored = recorded_store(tmp_path_factory.mktemp("recorded") / "store", driver, 12)
    made = Daemon(tmp_path / "trainer", package, stored, **{"iteration.count": 3})
    yield made
    if made.trainer.process is not None:
        made.trainer.stop(signal.SIGKILL)


@pytest.mark.timeout(900)
def test_a_trainer_goes_on_after_one_of_them_died_and_they_end_with_it(daemon: Daemon) -> None:
    """Killed in the first update, which fails; the second is made by new ones; the trainer is killed in the
    third, and one that computes alone makes that."""
    long = {"refiner.options.gradient_steps": 800}
    daemon.start(**{"refiner.processes": 2}, **long)
    first = daemon.members
    assert len(first) == 2
    await_work(first[1].pid)
    first[1].kill()
    wait("the second iteration", lambda: daemon.done == 2, LONG_S)
    failures = [record["refiner_failure"] for record in daemon.trainer.records("iteration")]
    assert "process 1 of 2 that learn together died: found SIGKILL" in failures[0]
    assert failures[1] == ""
    second = daemon.members
    assert len(second) == 2 and not {one.pid for one in first} & {one.pid for one in second}
    await_work(second[0].pid)
    daemon.trainer.stop(signal.SIGKILL)
    wait("their end", lambda: not any(one.is_running() for one in second))
    assert daemon.done == 2
    daemon.start(**{"refiner.processes": 1})
    wait("the third iteration", lambda: daemon.done == 3, LONG_S)
    records = daemon.trainer.records("iteration")
    assert [record["refiner_failure"] for record in records[1:]] == ["", ""]
    assert records[2]["metrics"]["successes"] == 4.0, "of two iterations that were learned from"
    assert daemon.trainer.stop() == 0


@pytest.mark.gpu
def test_two_gpus_learn_what_the_cpu_learns(make: Make, given) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    expected = make("bestofn", ALONE).update(given(1), 1).tensors
    found = make("bestofn", Several("cuda", 2)).update(given(1), 1).tensors
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)
