"""`robot-trainer collect`: the episodes of one `robot-run eval` to the bit, in blocks that may die.

Real robots on the bench; on Ray, or one after the other in this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from same_episodes import require_same_episodes, truth_of_episodes
from typer.testing import CliRunner

from contracts.errors import ConfigError, EntracteError, MissingDependency
from contracts.files.dataset_reader import DatasetReader
from tests.runtime.robots import policy_package
from trainer.app import app
from trainer.collection import MOST_DEATHS, Collection, Request
from trainer.collection_block import Ended, Job, run_block

EPISODES, SEED_BASE, BLOCK, TASK = 5, 40, 2, "open-drawer"
REWARD = Path(__file__).resolve().parents[2] / "pretrained" / "reward-zero-shot"
PATIENCE_S = 400.0
"""Ray takes seconds to start, and minutes where others use the machine."""
# Latencies, so that what a robot remembers of the joints counts; patience for a machine that others use.
SETTINGS = (
    *("episode.max_s=1.5", "cameras.front.latency_s=0.04", "arm.state_latency_s=0.03"),
    *("bench.options.unsteady_deg=1.0", "cameras.wrist.rate_hz=5"),
    *("loop.watchdog_timeout_s=200", "loop.lease_s=200"),
)
SET = tuple(word for setting in SETTINGS for word in ("--set", setting))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy", ("front", "wrist")).folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """All episodes by one robot, one after the other."""
    return evaluated(tmp_path_factory.mktemp("alone"), package, EPISODES)


def evaluated(folder: Path, package: Path, episodes: int, *more: str) -> Path:
    command = [
        *(sys.executable, "-m", "runtime.app", "eval", "--package", str(package), "--task", TASK),
        *("--episodes", str(episodes), "--seed-base", str(SEED_BASE), *SET),
        *("--output", str(folder / "truth.jsonl"), "--record", str(folder / "dataset")),
        *("--run-dir", str(folder / "run"), *more),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def request(package: Path, output: Path, **more: object) -> Request:
    given = Request(package, output, EPISODES, SEED_BASE, BLOCK, TASK, overrides=SETTINGS)
    return Request(**{**vars(given), **more})  # type: ignore[arg-type]


def words(package: Path, output: Path) -> list[str]:
    return [
        *("collect", "--package", str(package), "--output", str(output), "--task", TASK, *SET),
        *("--episodes", str(EPISODES), "--seed-base", str(SEED_BASE), "--block", str(BLOCK)),
    ]


def in_this_process(jobs: list[bytes]) -> Generator[bytes, None, None]:
    yield from map(run_block, jobs)


def nobody(jobs: list[bytes]) -> Generator[bytes, None, None]:
    raise AssertionError(f"{len(jobs)} blocks are run that are done")
    yield b""


def first_of(job: bytes) -> int:
    return msgspec.json.decode(job, type=Job).first


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def robots(folder: Path) -> list[Path]:
    """The processes of `robot-run` and its like that work below a folder."""
    found = Path("/proc").glob("[0-9]*")
    return [p for p in found if f"{folder}/" in command_line(p) and "runtime." in command_line(p)]


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s, "timed out"
        time.sleep(0.01)


@pytest.mark.timeout(2 * PATIENCE_S)
def test_on_ray_a_lost_worker_costs_no_episode(tmp_path: Path, package: Path, alone: Path) -> None:
    pytest.importorskip("ray", reason="robot-trainer collect needs Ray (extra cluster)")
    output, pipe = tmp_path / "out", subprocess.PIPE
    command = [sys.executable, "-m", "trainer.app", *words(package, output), "--json"]
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    caught: list[tuple[Path, int]] = []

    def one_is_caught() -> bool:
        for attempt in output.glob("blocks/*/try-*"):
            for robot in robots(attempt):
                if " eval " not in command_line(robot):
                    continue
                worker = int((robot / "stat").read_text().rpartition(")")[2].split()[1])
                if "ray::" in command_line(Path("/proc") / str(worker)):
                    caught.append((attempt, worker))
                    return True
        return False

    try:
        until(one_is_caught, process)
        attempt, worker = caught[0]
        os.kill(worker, signal.SIGKILL)
        until(lambda: len(list(attempt.parent.glob("try-*"))) == 2, process)
        said, told = process.communicate(timeout=PATIENCE_S)
    finally:
        process.terminate()
    assert process.returncode == 0, told
    report = json.loads(said)
    assert report["episodes"] == EPISODES and not report["failed"]
    assert truth_of_episodes(output / "truth.jsonl") == truth_of_episodes(alone / "truth.jsonl")
    assert require_same_episodes(alone / "dataset", output / "dataset") == EPISODES
    assert not (output / "blocks").exists()
    # The robot whose worker was killed has ended, too.
    give_up_s = time.monotonic() + 60
    while robots(output):
        assert time.monotonic() < give_up_s, [command_line(p) for p in robots(output)]
        time.sleep(0.05)


@pytest.mark.skipif(not REWARD.exists(), reason="the shipped reward model is not here")
def test_a_reward_package_scores_as_in_one_evaluation(tmp_path: Path, package: Path) -> None:
    output = tmp_path / "out"
    given = {"episodes": 2, "block": 1, "reward_package": REWARD}
    collection = Collection(request(package, output, **given))
    with collection.opened():
        found = collection.run(in_this_process, print)
    assert len(found.rows) == 2 and not found.failed
    one = evaluated(tmp_path, package, 2, "--reward-package", str(REWARD))
    assert require_same_episodes(one / "dataset", output / "dataset") == 2
    reader = DatasetReader(output / "dataset")
    for episode in range(2):
        assert np.isfinite(reader.episode(episode, ["reward.process"])["reward.process"]).any()


def test_a_block_that_dies_again_and_again_is_named_and_only_that_is_run_the_next_time(
    tmp_path: Path, package: Path, alone: Path
) -> None:
    output, asked, told = tmp_path / "out", [], []

    def one_dies(jobs: list[bytes]) -> Generator[bytes, None, None]:
        for job in jobs:
            asked.append(first_of(job))
            if first_of(job) == BLOCK:
                yield msgspec.json.encode(Ended(BLOCK, "died", "the machine is gone"))
            else:
                yield run_block(job)

    collection = Collection(request(package, output))
    with collection.opened():
        found = collection.run(one_dies, told.append)
    assert asked == [0, BLOCK, 2 * BLOCK] + [BLOCK] * (MOST_DEATHS - 1)
    assert told == ["seeds 42 to 43 died (the machine is gone); they are run again"] * (
        MOST_DEATHS - 1
    )
    assert [job.seeds for job in found.failed] == [range(42, 44)]
    others = [40, 41, 44]
    assert [row["seed"] for row in found.rows] == others
    with_a_hole = DatasetReader(output / "dataset")
    starts = [with_a_hole.meta(e)["extra"]["start"] for e in range(with_a_hole.num_episodes)]
    assert [start["scene_seed"] for start in starts] == others

    asked.clear()

    def only_that(jobs: list[bytes]) -> Generator[bytes, None, None]:
        asked.extend(map(first_of, jobs))
        yield from in_this_process(jobs)

    counts: list[int] = []
    again = Collection(request(package, output))
    with again.opened():
        found = again.run(only_that, told.append, counts.append)
    assert asked == [BLOCK] and counts == [3, 5] and not found.failed
    assert truth_of_episodes(output / "truth.jsonl") == truth_of_episodes(alone / "truth.jsonl")
    assert require_same_episodes(alone / "dataset", output / "dataset") == EPISODES

    whole = Collection(request(package, output))
    with whole.opened():
        assert whole.run(nobody, told.append).rows == found.rows
        with pytest.raises(EntracteError, match="in use by another robot-trainer collect"):
            Collection(request(package, output)).opened().__enter__()
    for other in ({"seed_base": 7}, {"task": "lift"}, {"overrides": ("policy.seed=3",)}):
        with (
            pytest.raises(ConfigError, match="holds another collection"),
            Collection(request(package, output, **other)).opened(),
        ):
            pass


def test_what_robot_run_refuses_ends_it_with_its_sentence(tmp_path: Path, package: Path) -> None:
    asked = []

    def counted(jobs: list[bytes]) -> Generator[bytes, None, None]:
        for job in jobs:
            asked.append(first_of(job))
            yield run_block(job)

    collection = Collection(request(package, tmp_path / "out", task="fly"))
    with collection.opened(), pytest.raises(ConfigError, match="no task is named 'fly'"):
        collection.run(counted, print)
    assert asked == [0]


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path, package: Path) -> None:
    collection = Collection(request(package, tmp_path / "out"))
    ended = msgspec.json.decode(run_block(msgspec.json.encode(collection.jobs[0])), type=Ended)
    assert ended.how == "refused" and "does not see" in ended.why
    assert not (tmp_path / "out").exists()


def test_blocks_and_processors(tmp_path: Path, package: Path) -> None:
    collection = Collection(request(package, tmp_path / "out"))
    seeds = [list(job.seeds) for job in collection.jobs]
    assert seeds == [[40, 41], [42, 43], [44]] and collection.processors == 1
    threads = (*SETTINGS, "policy.threads=3", "reward.threads=8")
    assert Collection(request(package, tmp_path / "out", overrides=threads)).processors == 3


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (("--episodes", "0"), "--episodes: expected >= 1, found 0"),
        (("--block", "0"), "--block: expected >= 1, found 0"),
        (("--gpus", "-1"), "--gpus: expected >= 0"),
        (("--package", "nothere"), "manifest.json"),
        (("--weights", "nothere"), "file is missing: expected nothere"),
        (("--config", "nothere"), "can't read nothere"),
        (("--set", "pace=realtime"), 'expected pace: "asap", found "realtime"'),
        (("--set", "bench.enabled=false"), "expected bench.enabled: true, found false"),
        (("--set", "operator.web=true"), "expected operator.web: false, found true"),
        (("--set", "episode.label=keys"), "nobody is there to label"),
        (("--set", "episode.seed_base=3"), "give --seed-base instead"),
        (("--set", "pace"), "override is malformed"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(
    tmp_path: Path, package: Path, wrong: tuple[str, str], sentence: str
) -> None:
    done = CliRunner().invoke(app, [*words(package, tmp_path / "out"), *wrong])
    assert isinstance(done.exception, EntracteError) and sentence in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_another_kind_of_package_is_refused(tmp_path: Path, package: Path) -> None:
    with pytest.raises(ConfigError, match="another kind of package: expected reward or vlm"):
        Collection(request(package, tmp_path / "out", reward_package=package))


def test_without_ray_the_extra_is_named(
    tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = CliRunner().invoke(app, words(package, tmp_path / "out"))
    assert isinstance(done.exception, MissingDependency)
    assert "pip install 'entracte[cluster]'" in str(done.exception)
    assert not (tmp_path / "out").exists()
