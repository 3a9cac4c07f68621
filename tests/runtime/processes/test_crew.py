"""`robot-run eval --workers`: the same episodes to the bit whoever runs them, and none that is silently lost.

Real workers on the bench. Latencies are configured, so that what a robot remembers of the joints counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from robots import config, policy_package
from same_episodes import require_same_episodes, truth_of_episodes

from contracts.errors import ConfigError, EntracteError
from contracts.files.dataset_reader import DatasetReader
from runtime.board import Board
from runtime.processes.claims import Claims, claimed, held_by, release
from runtime.processes.crew import MOST_DEATHS, choose_workers

EPISODES = 6
SEED_BASE = 40


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return policy_package(tmp_path_factory.mktemp("package") / "policy", ("front", "wrist")).folder


def command(package: Path, folder: Path, *more: str, max_s: float = 1.5) -> list[str]:
    settings = {
        "episode.max_s": max_s,
        "cameras.front.latency_s": 0.04,
        "arm.state_latency_s": 0.03,
        "bench.options.unsteady_deg": 1.0,
        "cameras.wrist.rate_hz": 5,
        "loop.watchdog_timeout_s": 200,
        "loop.lease_s": 200,
    }
    return [
        *(sys.executable, "-m", "runtime.app", "eval", "--package", str(package)),
        *("--task", "open-drawer", "--episodes", str(EPISODES), "--seed-base", str(SEED_BASE)),
        *("--output", str(folder / "truth.jsonl"), "--run-dir", str(folder / "run"), *more),
        *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
    ]


def run(wanted: list[str], timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(wanted, capture_output=True, text=True, timeout=timeout_s, check=False)


def started(
    package: Path, folder: Path, workers: int, *more: str, max_s: float = 1.5
) -> subprocess.Popen[str]:
    wanted = command(package, folder, "--workers", str(workers), *more, max_s=max_s)
    pipe = subprocess.PIPE
    return subprocess.Popen(wanted, stdout=pipe, stderr=pipe, text=True)


def rows(folder: Path) -> list[dict[str, object]]:
    return truth_of_episodes(folder / "truth.jsonl")


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    give_up_s = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up_s, "timed out"
        time.sleep(0.005)


def homes(folder: Path) -> list[Path]:
    return sorted((folder / "run").glob("workers-*"))


def holders(folder: Path) -> set[Path]:
    """The folders of the workers that have taken an episode."""
    found = set()
    for home in homes(folder):
        claims = home / "claims"
        for index in claimed(claims) if claims.exists() else ():
            with contextlib.suppress(FileNotFoundError):  # released meanwhile
                found.add(home / (claims / str(index)).read_text())
    return found


def stop_within(
    folder: Path,
    process: subprocess.Popen[str],
    wanted: int | None = None,
    dead: Collection[Path] = (),
) -> Path:
    """Stop a worker's control in the middle of an episode (of this one); its folder."""
    caught: list[Path] = []

    def caught_one() -> bool:
        for worker in holders(folder) - set(dead):
            if wanted is not None and wanted not in held_by(worker.parent / "claims", worker.name):
                continue
            try:
                os.kill(control_of(worker), signal.SIGSTOP)
            except (OSError, EntracteError):
                continue  # it has gone
            if in_hand(worker) in ((wanted,) if wanted is not None else range(EPISODES)):
                caught.append(worker)
                return True
            os.kill(control_of(worker), signal.SIGCONT)
        return False

    until(caught_one, process)
    return caught[0]


def in_hand(worker: Path) -> int | None:
    """The episode that a stopped worker is at; None between two."""
    mine = held_by(worker.parent / "claims", worker.name)
    truth = worker / "truth.jsonl"
    lines = truth.read_text().splitlines() if truth.exists() else []
    left = mine - {json.loads(line)["episode_seq"] for line in lines}
    return left.pop() if left else None


def control_of(worker: Path) -> int:
    """Process id of a worker's control."""
    found = json.loads((worker / "config.json").read_text())
    with Board.open(Path(found["shm_dir"]) / "board") as board:
        return int(board.control_pid)


def nothing_in_memory(folder: Path) -> bool:
    sessions = [home.name.removeprefix("workers-") for home in homes(folder)]
    return not any(list(Path("/dev/shm").glob(f"entracte-{name}*")) for name in sessions)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """All episodes by one robot, one after the other."""
    folder = tmp_path_factory.mktemp("alone")
    done = run(command(package, folder, "--record", str(folder / "set")))
    assert done.returncode == 0, done.stderr
    return folder


def test_outcomes_and_recorded_steps_are_those_of_a_single_run(
    tmp_path: Path, package: Path, alone: Path
) -> None:
    process = started(package, tmp_path, 3, "--record", str(tmp_path / "set"))
    # Everybody is to have a share, however few the processors: who has one waits until all have.
    stopped: set[Path] = set()

    def all_have_one() -> bool:
        for worker in holders(tmp_path) - stopped:
            os.kill(control_of(worker), signal.SIGSTOP)
            stopped.add(worker)
        return len(stopped) == 3

    until(all_have_one, process)
    for worker in stopped:
        os.kill(control_of(worker), signal.SIGCONT)
    said, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert rows(tmp_path) == rows(alone)
    assert [row["seed"] for row in rows(alone)] == list(range(SEED_BASE, SEED_BASE + EPISODES))
    assert f"recorded {EPISODES} episodes" in said
    assert "bench (3 together)" in said  # memory, summed over the workers
    assert require_same_episodes(alone / "set", tmp_path / "set") == EPISODES
    took = [len((w / "episodes.jsonl").read_text().splitlines()) for w in workers_of(tmp_path)]
    assert len(took) == 3 and sum(took) == EPISODES


def test_a_block_of_an_evaluation_is_that_part_of_the_whole(
    tmp_path: Path, package: Path, alone: Path
) -> None:
    done = run(command(package, tmp_path, "--workers", "2", "--first", "4", "--episodes", "2"))
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path) == rows(alone)[4:]


def workers_of(folder: Path) -> list[Path]:
    return [p for p in homes(folder)[0].glob("worker-*") if (p / "episodes.jsonl").exists()]


@pytest.mark.parametrize("victim", ["control", "bench"])
def test_the_episode_of_a_worker_that_dies_is_run_again(
    tmp_path: Path, package: Path, alone: Path, victim: str
) -> None:
    record = ("--record", str(tmp_path / "set")) if victim == "bench" else ()
    process = started(package, tmp_path, 2, *record)
    worker = stop_within(tmp_path, process)
    seed = SEED_BASE + (in_hand(worker) or 0)
    if victim == "control":
        os.kill(control_of(worker), signal.SIGKILL)
    else:
        os.kill(process_of(worker, "runtime.bench.server"), signal.SIGKILL)
        os.kill(control_of(worker), signal.SIGCONT)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert f"{worker.name} died" in told and f"seed {seed} is run again" in told
    assert rows(tmp_path) == rows(alone)
    assert nothing_in_memory(tmp_path)
    if record:
        assert DatasetReader(tmp_path / "set").num_episodes == EPISODES


def process_of(worker: Path, module: str) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if module.encode() in words and str(worker).encode() in words:
            return int(path.parent.name)
    raise AssertionError(f"no process {module} of {worker}")


def test_an_episode_that_kills_every_worker_is_named(tmp_path: Path, package: Path) -> None:
    process = started(package, tmp_path, 2, "--episodes", "3", max_s=12.0)
    worker = stop_within(tmp_path, process)
    episode = in_hand(worker)
    dead: list[Path] = []
    while len(dead) < MOST_DEATHS:
        os.kill(control_of(worker), signal.SIGKILL)
        dead.append(worker)
        if len(dead) < MOST_DEATHS:
            worker = stop_within(tmp_path, process, episode, dead)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 4
    assert episode is not None
    assert f"not evaluated: the scenes of seeds {SEED_BASE + episode} " in told
    others = [SEED_BASE + n for n in range(3) if n != episode]
    assert [row["seed"] for row in rows(tmp_path)] == others


def test_workers_that_die_whatever_they_run_end_the_evaluation(
    tmp_path: Path, package: Path
) -> None:
    process = started(package, tmp_path, 2, max_s=3600.0)
    dead: list[Path] = []
    while len(dead) <= 2 * MOST_DEATHS:
        worker = stop_within(tmp_path, process, dead=dead)
        os.kill(control_of(worker), signal.SIGKILL)
        dead.append(worker)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 4
    assert f"{len(dead)} workers died and finished no episode: control was killed by" in told
    assert json.loads((tmp_path / "run/run_report.json").read_text())["died"] == len(dead)
    assert not (tmp_path / "truth.jsonl").exists() and nothing_in_memory(tmp_path)


def test_what_is_done_counts_where_no_other_worker_can_be_started(
    tmp_path: Path, package: Path
) -> None:
    process = started(package, tmp_path, 2, max_s=6.0)
    until(lambda: any((tmp_path / "run").glob("workers-*/worker-*/truth.jsonl")), process)
    (homes(tmp_path)[0] / "worker-2").write_text("no folder can be made here")
    worker = stop_within(tmp_path, process)
    os.kill(control_of(worker), signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 4
    done = rows(tmp_path)
    assert 1 <= len(done) < EPISODES
    assert f"{worker.name} died" in told and "no other could be started" in told
    assert f"({len(done)} of {EPISODES} episodes are done)" in told
    assert nothing_in_memory(tmp_path)


def test_what_is_done_counts_where_a_workers_files_can_not_be_read(
    tmp_path: Path, package: Path
) -> None:
    process = started(package, tmp_path, 2)
    worker = stop_within(tmp_path, process)
    truths = (tmp_path / "run").glob
    until(
        lambda: any(path.parent != worker for path in truths("workers-*/worker-*/truth.jsonl")),
        process,
    )
    (worker / "truth.jsonl").unlink(missing_ok=True)
    (worker / "truth.jsonl").mkdir()
    os.kill(control_of(worker), signal.SIGKILL)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 4 and "Traceback" not in told, told
    done = rows(tmp_path)
    assert 1 <= len(done) < EPISODES
    assert f"Is a directory: '{worker / 'truth.jsonl'}'" in told
    assert f"({len(done)} of {EPISODES} episodes are done)" in told
    assert nothing_in_memory(tmp_path)


def test_a_data_set_that_can_not_be_put_together_is_told_as_it_is(
    tmp_path: Path, package: Path
) -> None:
    process = started(package, tmp_path, 2, "--record", str(tmp_path / "set"))
    spoilt: list[int] = []

    def one_is_spoilt() -> bool:
        for info in (tmp_path / "run").glob("workers-*/worker-*/dataset/meta/info.json"):
            part = DatasetReader(info.parents[1])
            for place in range(part.num_episodes):
                seq = int(part.meta(place)["extra"]["start"]["episode_seq"])
                if seq:  # and another one comes before it
                    names = part.root.glob(f"videos/*front/**/*{place:03d}.mp4")
                    next(names).unlink()
                    spoilt.append(seq)
                    return True
        return False

    until(one_is_spoilt, process)
    said, told = process.communicate(timeout=240)
    assert process.returncode == 1, told
    assert [row["seed"] for row in rows(tmp_path)] == [SEED_BASE + n for n in range(EPISODES)]
    assert f"recorded {spoilt[0]} episodes" in said and "what was recorded is in" in told
    assert DatasetReader(tmp_path / "set").num_episodes == spoilt[0]
    kept = (tmp_path / "run").glob("workers-*/worker-*/dataset/meta/info.json")
    assert sum(DatasetReader(info.parents[1]).num_episodes for info in kept) == EPISODES


def test_a_workers_data_set_that_can_not_be_read_is_not_thrown_away(
    tmp_path: Path, package: Path
) -> None:
    """Taken for empty, its episodes were missing, it was deleted, and all was well."""
    process = started(package, tmp_path, 2, "--record", str(tmp_path / "set"))
    spoilt: list[Path] = []

    def one_is_spoilt() -> bool:
        for info in (tmp_path / "run").glob("workers-*/worker-*/dataset/meta/info.json"):
            if DatasetReader(info.parents[1]).num_episodes:
                (info.parent / "entracte/episodes/chunk-000/file-000.json").write_text("{}")
                spoilt.append(info)
                return True
        return False

    until(one_is_spoilt, process)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 1, told
    assert "recorded can't be read" in told and "what was recorded is in" in told
    assert [row["seed"] for row in rows(tmp_path)] == [SEED_BASE + n for n in range(EPISODES)]
    assert spoilt[0].exists()


def test_truth_that_can_not_be_written_is_one_sentence(tmp_path: Path, package: Path) -> None:
    process = started(package, tmp_path, 2, "--episodes", "2")
    until(lambda: homes(tmp_path), process)
    (tmp_path / "truth.jsonl").mkdir()
    _, told = process.communicate(timeout=240)
    assert process.returncode == 2 and "Traceback" not in told, told
    assert f"could not write {tmp_path / 'truth.jsonl'}" in told
    assert f"what every worker did is in {homes(tmp_path)[0]}" in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["ctrl-c", "hang-up"])
def test_an_interrupt_keeps_what_is_done_and_says_how_much_that_is(
    tmp_path: Path, package: Path, number: signal.Signals
) -> None:
    process = started(package, tmp_path, 2, max_s=6.0)
    until(lambda: any((tmp_path / "run").glob("workers-*/worker-*/truth.jsonl")), process)
    process.send_signal(number)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    done = rows(tmp_path)
    assert 1 <= len(done) < EPISODES
    assert f"interrupted: {len(done)} of {EPISODES} episodes are done" in told
    assert all(row["reason"] != "aborted" for row in done)
    assert nothing_in_memory(tmp_path)


def test_what_is_wrong_is_one_sentence(tmp_path: Path, package: Path) -> None:
    left = tmp_path / "run" / "recorder.json"
    left.parent.mkdir()
    left.write_text("of an earlier start")
    done = run(command(package, tmp_path, "--workers", "2", "--set", "episode.task=fly"))
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if line.startswith("robot-run: ")]
    assert len(told) == 1 and "no task is named" in told[0]
    assert not (tmp_path / "truth.jsonl").exists() and nothing_in_memory(tmp_path)
    assert not left.exists()


def test_how_many_workers() -> None:
    cores = len(os.sched_getaffinity(0))
    assert choose_workers(config(), 0, 10_000) == cores
    assert choose_workers(config(f"policy.threads={cores}"), 0, 10_000) == 1
    assert choose_workers(config(), 1, 5) == 1
    assert choose_workers(config(), 7, 3) == 3
    real = config("pace=realtime")
    assert choose_workers(real, 1, 5) == 1
    for wrong, wanted in ((real, 2), (config("operator.web=true"), 2), (config(), -1)):
        with pytest.raises(ConfigError):
            choose_workers(wrong, wanted, 5)


def _take_all(folder: str, who: str) -> list[int]:
    claims = Claims(Path(folder), who)
    return [index for index in range(400) if claims.take(index)]


def test_a_claim_is_never_written_again(tmp_path: Path) -> None:
    claims = Claims(tmp_path, "worker-0")
    assert claims.take(0)
    os.utime(tmp_path / "0", ns=(1, 1))
    assert claims.take(1) and not claims.take(0)
    assert (tmp_path / "0").stat().st_mtime_ns == 1
    assert held_by(tmp_path, "worker-0") == {0, 1}


def test_nobody_takes_an_episode_twice(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        jobs = [pool.submit(_take_all, str(tmp_path), f"worker-{n}") for n in range(4)]
        taken = [job.result() for job in jobs]
    assert sorted(index for mine in taken for index in mine) == list(range(400))
    for number, mine in enumerate(taken):
        assert held_by(tmp_path, f"worker-{number}") == set(mine)
    release(tmp_path, 7)
    release(tmp_path, 7)
    assert claimed(tmp_path) == set(range(400)) - {7}
    assert Claims(tmp_path, "worker-9").take(7) and held_by(tmp_path, "worker-9") == {7}
