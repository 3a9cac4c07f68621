"""Where a reward model judges, the simulator's success flag reaches neither daemon, scorer nor refiner.

Real processes on the bench with the shipped policy and reward. Truth is looked for in what the robot sent,
in what the trainer stored, in what its refiner was given and in the files that it opened; what is learned
must be the same to the bit without truth and with its opposite. Controls show that each search finds it.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from serving import ENVIRONMENT, ROOT, SOCKETS, Serving, robot_command
from wiretap import Tap

from contracts import wire
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import EpisodeLogReader
from contracts.files.packages import read_manifest
from contracts.messages import EpisodeEnd, Step
from contracts.package import package_id
from runtime.config import BenchSection
from trainer.metrics import read_metrics

POLICY = ROOT / "pretrained/policy-open_drawer"
REWARD = ROOT / "pretrained/reward-zero-shot"
PER_ITERATION = 3
EPISODES = 2 * PER_ITERATION
TRUTH_FILE = BenchSection().truth_file
# Names that only the bench's verdict has, wherever they may turn up.
TRUTH_WORDS = {"ever_success", "success_at_s", "best_progress", "operator_success"}
# Runs the trainer and writes down every path that Python opens in it.
AUDIT = """
import os, runpy, sys
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def opened(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        os.write(log, os.fsencode(arguments[0]) + b"\\n")
sys.addaudithook(opened)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

pytestmark = pytest.mark.skipif(
    not (POLICY.exists() and REWARD.exists()), reason="the shipped packages are not here"
)


@dataclass
class Learned:
    """A finished run: its folder, and what was seen of it from outside."""

    folder: Path
    messages: list[tuple[str, Any]]
    opened: set[str] = field(default_factory=set)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        return list(read_metrics(self.folder / "trainer/metrics.jsonl"))

    def of(self, kind: str, *names: str) -> list[list[Any]]:
        return [[r[name] for name in names] for r in self.metrics if r["kind"] == kind]

    @property
    def truth(self) -> list[bool]:
        lines = (self.folder / "robot" / TRUTH_FILE).read_text().splitlines()
        return [json.loads(line)["success"] for line in lines]

    @property
    def logs(self) -> list[Path]:
        return sorted((self.folder / "trainer/store/logs").glob("*.elog"))

    @property
    def scores(self) -> list[Any]:
        """All signals of all episodes as the trainer stored them, in order."""
        paths = sorted((self.folder / "trainer/store/scores").glob("*.json"))
        trees = [json.loads(path.read_bytes()) for path in paths]
        return [[tree["success"], tree["failure"], tree["signals"]] for tree in trees]


def learn(
    folder: Path,
    *,
    robot_set: tuple[str, ...] = (),
    trainer_set: tuple[str, ...] = ("reward.model=edge", f"reward.package={REWARD}"),
    reward_package: Path | None = REWARD,
) -> Learned:
    """Trainer and robot from start to end, with a tap on the cable and an eye on the trainer's files."""
    opened, audit = set[str](), folder / "opened"
    trainer_set = (
        *(*trainer_set, "refiner.kind=witness", f"refiner.package={POLICY}", "seed=5"),
        f"iteration.episodes={PER_ITERATION}",
    )
    starter = ("-c", AUDIT, str(folder / "opened"))
    with Serving(folder / "trainer", *trainer_set, starter=starter) as trainer:
        trainer.enrol(folder / "robot")
        tap = Tap(trainer.endpoints)
        try:
            command = robot_command(
                *(folder / "robot", POLICY, tap.endpoints, "episode.seed_base=10000"),
                *(f"iteration.episodes={PER_ITERATION}", "iteration.count=2"),
                *("recording.depth=false", f"reward.package='{reward_package or ''}'"),
                *("policy.explore_deg=0", *robot_set),  # else few succeed
            )
            robot = subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT)
            while robot.poll() is None:
                opened |= _held_open(trainer.process.pid)
                time.sleep(0.05)
            assert robot.returncode == 0, robot.communicate()[0]
        finally:
            trainer.stop()
            tap.close()
    said = [(name, wire.unpack(parts).message) for name, parts in tap.messages() if len(parts[0])]
    return Learned(folder, said, opened | set(audit.read_text(errors="replace").splitlines()))


def _held_open(pid: int) -> set[str]:
    """Files that a process has open now, whoever opened them."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found.add(os.readlink(link))
        except OSError:
            continue  # closed meanwhile
    return found


# What gives truth away, for each place where it could be


def told(messages: list[Any]) -> list[str]:
    """Messages that carry a label, a name of the truth file or a reward that no shipped model gave."""
    engine = package_id(read_manifest(REWARD))
    found = []
    for message in messages:
        tree = msgspec.to_builtins(message)
        kind = type(message).__name__
        found += [f"{kind}.{name}" for name in sorted(_named(tree) & TRUTH_WORDS)]
        if isinstance(message, Step) and message.reward is not None:
            model = message.reward.model_id.partition(":")[0]
            found += [] if model == engine else [f"{kind}.reward of '{model}'"]
    return found


def _named(tree: Any) -> set[str]:
    """Keys at any depth that have a value."""
    if isinstance(tree, dict):
        own = {key for key, value in tree.items() if value is not None}
        return own.union(*(_named(value) for value in tree.values()))
    if isinstance(tree, list | tuple):
        return set().union(*(_named(value) for value in tree))
    return set()


def ended_unasked(log: Path) -> bool:
    """Whether the episode ended as completed although the robot's reward engine was not sure."""
    settings = read_manifest(REWARD).settings
    messages = [packet.message for packet in EpisodeLogReader(log).packets()]
    ends = [message for message in messages if isinstance(message, EpisodeEnd)]
    signals = [m.reward for m in messages if isinstance(m, Step) and m.reward is not None]
    last = signals[-int(settings["completion_consecutive"]) :]
    sure = last and all(s.completion >= settings["completion_threshold"] for s in last)
    return ends[-1].reason == "completed" and not sure


def labelled(learned: Learned) -> list[int]:
    """Episodes of the trainer's data set that hold a label."""
    reader = DatasetReader(learned.folder / "trainer/store/dataset/bench-0")
    ends = [reader.meta(index)["extra"]["end"] for index in range(reader.num_episodes)]
    assert len(ends) == EPISODES
    return [index for index, end in enumerate(ends) if end["operator_success"] is not None]


def read_by_trainer(learned: Learned) -> list[str]:
    """Files that hold truth, or are of the robot's run folder at all, and were open in the trainer."""
    robot = str(learned.folder / "robot")
    return sorted(p for p in learned.opened if p.startswith(robot) or p.endswith(TRUTH_FILE))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """A run as the demo makes them: `label: none`, the shipped reward on both ends."""
    return learn(tmp_path_factory.mktemp("learned"))


def test_truth_is_told_to_nobody_who_learns(learned: Learned) -> None:
    assert any(learned.truth), "without a success there is little to find"
    sockets = {name for name, _ in learned.messages}
    assert sockets == set(SOCKETS), "the tap missed a socket"
    ends = [m for name, m in learned.messages if name == "frames" and isinstance(m, EpisodeEnd)]
    assert [end.operator_success for end in ends] == [None] * EPISODES
    assert told([message for _, message in learned.messages]) == []

    assert len(learned.logs) == EPISODES
    for log in learned.logs:
        assert told([packet.message for packet in EpisodeLogReader(log).packets()]) == [], log.name
        assert not ended_unasked(log), log.name
    assert labelled(learned) == []
    assert learned.of("iteration", "metrics") == [[{"labelled": 0.0}]] * 2
    for record in learned.metrics:
        assert not _named(record) & TRUTH_WORDS

    assert len(learned.opened) > 50, "the audit saw nothing"
    assert any(path.endswith(learned.logs[0].name) for path in learned.opened)
    assert read_by_trainer(learned) == []


class Flipped:
    """Turns every row of a truth file round as soon as it is written."""

    def __init__(self, path: Path) -> None:
        self._path, self._stop = path, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Flipped:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._turn()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._turn()

    def _turn(self) -> None:
        if not self._path.exists():
            return
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        if all("flipped" in row for row in rows):
            return
        turned = [
            r if "flipped" in r else {**r, "success": not r["success"], "flipped": 1} for r in rows
        ]
        self._path.write_text("".join(json.dumps(row) + "\n" for row in turned))


def test_without_truth_and_with_its_opposite_the_same_is_learned(
    tmp_path: Path, learned: Learned
) -> None:
    nowhere = learn(tmp_path / "nowhere", robot_set=("bench.truth_file=/dev/null",))
    assert not (nowhere.folder / "robot" / TRUTH_FILE).exists()
    with Flipped(tmp_path / "flipped/robot" / TRUTH_FILE):
        flipped = learn(tmp_path / "flipped")
    assert flipped.truth == [not success for success in learned.truth]

    labels = learned.of("episode", "episode_seq", "success", "end_reason", "steps")
    weights = learned.of("iteration", "successes", "failures", "weights_id")
    assert len(labels) == EPISODES and len(weights) == 2
    for other in (nowhere, flipped):
        assert other.of("episode", "episode_seq", "success", "end_reason", "steps") == labels
        assert other.scores == learned.scores
        assert other.of("iteration", "successes", "failures", "weights_id") == weights


def test_truth_that_is_told_would_be_found(tmp_path: Path, learned: Learned) -> None:
    """The control: a comparison run, where the config says that the label is the truth."""
    compared = learn(
        tmp_path / "truth",
        robot_set=("episode.label=truth",),
        trainer_set=("reward.model=success",),
        reward_package=None,
    )
    label, progress = "EpisodeEnd.operator_success", "Step.reward of 'truth'"
    found = told([message for _, message in compared.messages])
    assert set(found) == {label, progress} and found.count(label) == EPISODES
    for log in compared.logs:
        messages = [packet.message for packet in EpisodeLogReader(log).packets()]
        found, steps = told(messages), sum(isinstance(m, Step) for m in messages)
        assert found.count(label) == 1 and found.count(progress) == len(found) - 1 >= steps - 2
    ended = [ended_unasked(log) for log in compared.logs]
    assert any(ended)
    assert all(success for success, told in zip(compared.truth, ended, strict=True) if told)
    assert labelled(compared) == list(range(EPISODES))
    assert compared.of("iteration", "metrics") == [[{"labelled": float(PER_ITERATION)}]] * 2
    assert [success for (success,) in compared.of("episode", "success")] == compared.truth
    ours, theirs = (run.of("iteration", "weights_id") for run in (learned, compared))
    assert np.all(np.array(ours) != np.array(theirs))


def test_a_trainer_that_reads_the_truth_would_be_found(tmp_path: Path) -> None:
    """The other control: a reward model that opens the file."""
    truth = tmp_path / "peeked/robot" / TRUTH_FILE
    peeked = learn(
        tmp_path / "peeked",
        trainer_set=("reward.model=peeking", f"reward.options={{truth: '{truth}'}}"),
    )
    assert [success for (success,) in peeked.of("episode", "success")] == peeked.truth
    assert read_by_trainer(peeked) == [str(truth)]
