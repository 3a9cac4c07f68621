"""Probation on whole robots: the reward engine's word counts, kills interrupt a trial, people end it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from robots import policy_package, until
from serving import ENVIRONMENT, set_

from benchmarks.probation_trials import commit, stage
from contracts.files.packages import Package
from runtime.board import Board
from runtime.run import Run
from runtime.weights.probation import Tally
from runtime.weights.slots import SlotStore

PRETRAINED = Path(__file__).resolve().parents[3] / "pretrained"
FOR_EVER = 100_000


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "runtime.app", "start", "--run-dir", str(folder), *words]
    settings = set_("link.enabled=false", "iteration.wait_for_release=false")
    process = subprocess.Popen([*command, *settings], env=ENVIRONMENT, text=True)
    try:
        yield process
        process.wait(60)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def versions(folder: Path) -> list[int]:
    path = folder / "episodes.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["policy_version"] for line in lines]


@pytest.fixture
def tiny(tmp_path: Path) -> Package:
    return policy_package(tmp_path / "policy")


def test_a_killed_trial_goes_on_and_a_person_ends_it(tmp_path: Path, tiny: Package) -> None:
    folder = tmp_path / "run"
    slots = SlotStore(folder / "slots" / "policy", tiny.package_id)
    for seq in (1, 2):
        tensors = dict(tiny.refinable_weights())
        tensors["head/bias"] = tensors["head/bias"] + np.float32(0.1 * seq)
        stage(slots, tiny, seq, tensors)
        if seq == 1:
            commit(slots, [1, 1, 0])
    words = (
        *("--package", str(tiny.folder), "--task", "open-drawer", "--episodes", str(FOR_EVER)),
        *set_("episode.max_s=0.5", "probation.unjudged=5000", "probation.most_episodes=9000"),
    )
    with started(folder, *words) as process:
        until(lambda: len(versions(folder)) >= 3, 90)
        with Board.open(Run.load(folder).board_path) as board:
            os.kill(board.control_pid, signal.SIGKILL)
        process.wait(60)
    before = slots.state().by_seq(2)
    assert before is not None and before[1].state == "probation"
    assert before[1].tally.unjudged >= 2 and set(versions(folder)) == {2}
    seen = len(versions(folder))

    with started(folder, *words) as process:
        until(lambda: len(versions(folder)) >= seen + 3, 90)
        told = subprocess.run(
            [sys.executable, "-m", "runtime.app", "slots", "rollback", "--run-dir", str(folder)],
            env=ENVIRONMENT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "release 1, from the next episode boundary on" in told.stdout
        until(lambda: versions(folder)[-1] == 1, 90)
        process.send_signal(signal.SIGINT)
    log = (folder / "logs" / "control.log").read_text()
    assert "release 2: interrupted in probation, now staged" in log
    assert "starting from release 1" in log, "until every check was passed again"
    ran = versions(folder)
    assert ran == sorted(ran, reverse=True), "2 until it was taken back, 1 from then on"
    state = slots.state()
    after, committed = state.by_seq(2), state.by_seq(1)
    assert after is not None and committed is not None
    assert after[1].state == "rolled_back" and after[1].reason == "rolled back by a person"
    assert after[1].tally.unjudged >= before[1].tally.unjudged + 3
    assert committed[1].tally.successes == 2 and committed[1].tally.unjudged >= 1


def test_without_a_label_the_reward_engine_judges(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(
        folder,
        *("--package", str(PRETRAINED / "policy-open_drawer"), "--task", "open-drawer"),
        *("--reward-package", str(PRETRAINED / "reward-demo-open_drawer"), "--episodes", "3"),
    ) as process:
        deadline_s = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.1)
    rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    successes = sum(row["reason"] == "completed" for row in rows)
    own = SlotStore.open(folder / "slots" / "policy").state().own
    assert own.successes == successes and own.counted + own.unjudged == 3
    assert own.counted >= 1 and own != Tally()
