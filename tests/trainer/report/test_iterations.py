"""Which iteration the report counts an episode to: the trainer's own count, with what no data set has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from daemon_bench import PLUGIN
from made_run import MadeRun
from tiny_package import make_package
from tiny_robot import episode, session_start

from contracts import wire
from contracts.files.atomic import write_json
from contracts.files.episode_log import EpisodeLogWriter
from contracts.messages import ABORTED
from trainer.config import load_config
from trainer.interfaces import EpisodeKey
from trainer.keeper import keep
from trainer.metrics import Metrics
from trainer.report.analysis import idle
from trainer.report.iterations import NOT_STORED, iterations_of
from trainer.report.load import load_run
from trainer.report.rows import Iteration
from trainer.store import Store
from trainer.work import Work

STEPLESS, UNREADABLE, LATE = 1, 5, 8
"""Of nine episodes; the late ones are in the logs alone."""


@pytest.fixture
def refined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three iterations of three episodes by the trainer's own work. The robot's file says four: what counts
    is the trainer's."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    root, package = tmp_path / "run", make_package(tmp_path / "policy")
    store = Store(root / "trainer/store")
    for seq in range(9):
        log = EpisodeLogWriter(store.root / "inbox" / f"{seq}")
        log.append(wire.pack(session_start()))
        stopped = {"steps": 0, "reason": ABORTED} if seq == STEPLESS else {}
        parts = list(episode(seq, success=seq >= 6, **stopped))
        for part in parts[: 0 if seq == UNREADABLE else None]:
            log.append(part)
        done = log.finish()
        assert keep(store, EpisodeKey("bench-0", "s1", seq), done.path, done.sha256)
    given = ["reward.model=success", "monitors.enabled=false", "iteration.episodes=3"]
    given += ["refiner.kind=tiny", f"refiner.package={package.folder}"]
    metrics = Metrics(root / "trainer/metrics.jsonl")
    work = Work(root / "trainer", load_config(None, given), store, metrics, lambda *_: None)
    for entry in store.entries:
        work.take(entry)
        if entry.episode_seq not in (STEPLESS, UNREADABLE, LATE):
            assert store.write_dataset(entry, keep_log=False)
    (root / "robot").mkdir()
    write_json(root / "robot/config.json", {"config": {"iteration": {"episodes": 4}}})
    return root


@pytest.mark.parametrize("older", [False, True])
def test_an_episode_that_no_data_set_has_keeps_its_place(refined: Path, older: bool) -> None:
    """Also of a trainer that did not tell an iteration's last episode, but only how many it had."""
    path = refined / "trainer/metrics.jsonl"
    if older:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row.pop("last_arrival") for row in rows if row["kind"] == "iteration"] == [2, 5, 8]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = load_run(refined)
    found = [(e.seq, e.iteration) for e in run.of("refine")]
    assert found == [(0, 1), (2, 1), (3, 2), (4, 2), (6, 3), (7, 3), (8, 3)]
    judged = [e.iteration for e in run.of("refine") if e.judgement.success]
    assert [judged.count(it.number) for it in run.iterations] == [0, 0, 3]
    assert [it.successes for it in run.iterations] == [0, 0, 3]
    assert "Episode 1 has no step." in run.missing


def test_a_stepless_episode_does_not_hide_how_long_the_robot_waited(tmp_path: Path) -> None:
    made = MadeRun(tmp_path / "run", seed=4, per_iteration=3, wait_s=0.7)
    for number in (1, 2, 3, 4):
        made.iterate(number, 0.5)
        made.seq += number == 1  # one that no data set has
        made.per_iteration = 2
    waits, _ = idle(load_run(tmp_path / "run"))
    assert [(one.iteration, round(one.idle_s, 6)) for one in waits] == [(2, 0.7), (3, 0.7)]


def test_what_no_iteration_has_used_belongs_to_the_next() -> None:
    done = [Iteration(1, 4), Iteration(2, -1, episodes=3), Iteration(3, 11)]
    index = [*range(2, 12), 20, 21]
    arrivals = [2, 4, 5, 7, 8, 11, 20, NOT_STORED]
    assert iterations_of(arrivals, index, done, 10) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert iterations_of(arrivals, index, [], 5) == [1, 1, 1, 2, 2, 2, 3, 3]


def test_a_state_that_was_removed_begins_to_count_again() -> None:
    done = [Iteration(1, 1), Iteration(2, 3), Iteration(3, 5), Iteration(1, 2), Iteration(2, 5)]
    assert iterations_of([0, 2, 3, 5, 6], range(7), done, 2) == [1, 1, 2, 2, 3]
