"""`robot-reward score`: every stored episode once, by whoever; what fails is tried again, and only that."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from daemon_bench import PLUGIN, wait
from tiny_robot import episode, session_start
from typer.testing import CliRunner

from contracts import registry, wire
from contracts.errors import ConfigError, EntracteError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.episode_log import EpisodeLogWriter
from contracts.files.log_to_dataset import append, create_dataset, read_episode
from contracts.reward import RewardSignal
from trainer import ray_cluster
from trainer.interfaces import EpisodeKey, StoredEpisode
from trainer.reward_app import app
from trainer.rewards import bulk_ray
from trainer.rewards.bulk import Asked, Item, Said, Tally, here, items_of, score_all
from trainer.store import Store, load_dataset, read_scores


def recorded(folder: Path, seqs: Sequence[int], robot_id: str = "bench-0") -> Path:
    """A data set of these episodes; even ones are labelled a success."""
    logs = []
    for seq in seqs:
        log = EpisodeLogWriter(folder / f"{seq}.elog")
        log.append(wire.pack(session_start(robot_id=robot_id)))
        for parts in episode(seq, steps=6, robot_id=robot_id, success=seq % 2 == 0):
            log.append(parts)
        logs.append(read_episode(log.finish().path))
    with create_dataset(folder / "dataset", logs[0]) as writer:
        for logged in logs:
            append(writer, logged)
    return folder / "dataset"


def score(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["score", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def test_every_episode_is_scored_once_and_told_against_its_label(tmp_path: Path) -> None:
    data, output = recorded(tmp_path, range(5)), tmp_path / "scores"
    words = ("--data", str(data), "--output", str(output), "--reward", "constant")
    code, said, _ = score(*words)
    assert code == 0
    assert said.endswith("5 of 5 episodes scored: success 5; agrees with 3 of 5 labels\n")
    files = {path.name: path.read_bytes() for path in output.iterdir()}
    assert set(files) == {f"bench-0__s1__{seq:08d}.json" for seq in range(5)}

    (output / "bench-0__s1__00000003.json").unlink()
    code, said, _ = score(*words, "--json")
    report = json.loads(said)
    assert (code, report["episodes"], report["kept"], report["failed"]) == (0, 5, 4, {})
    known = [path for path in output.iterdir() if path.name != "bench-0__s1__00000003.json"]
    assert {path.name: path.read_bytes() for path in known}.items() < files.items()

    code, said, _ = score(*words, "--json", "--option", "completion=0.1")
    assert (code, json.loads(said)["kept"]) == (0, 5), "its options are not that model's identity"

    files = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(ConfigError, match=r"another model's.*of clock.*constant in .*--output"):
        score(*words[:-1], "clock")
    with pytest.raises(ConfigError, match="another model's"):
        list(Actors().run(Asked("clock", str(output)), items_of([data])))
    assert {path.name: path.read_bytes() for path in output.iterdir()} == files


def test_a_trainer_takes_them_for_its_own(tmp_path: Path) -> None:
    data = recorded(tmp_path, [0, 1])
    store = Store(tmp_path / "store")
    output = tmp_path / "store" / "scores"
    assert score("--data", str(data), "--output", str(output), "--reward", "success")[0] == 0
    for stored, success in zip(load_dataset(data), (True, False), strict=True):
        known = store.load_scores(stored.key, "success")
        assert known is not None and known[1].success is success


def test_what_fails_leaves_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    data, output = recorded(tmp_path, range(5)), tmp_path / "scores"
    words = ("--data", str(data), "--output", str(output), "--reward", "moody")
    code, said, told = score(*words, "--timeout-s", "30")
    assert code == 1 and "2 of 5 episodes scored" in said
    assert "bench-0__s1__00000000: exception: ValueError: bad mood" in told
    assert "the same command tries again" in told
    assert {path.name for path in output.iterdir()} == {
        f"bench-0__s1__{seq:08d}.json" for seq in (2, 4)
    }


class SlowOnce:
    """Takes its time over episode 1 alone."""

    model_id = "slow-once"
    completion_threshold = 0.5
    completion_consecutive = 1

    def __init__(self, **_: Any) -> None:
        pass

    def score_episode(self, episode: StoredEpisode) -> list[RewardSignal]:
        time.sleep(5.0 if episode.key.episode_seq == 1 else 0.0)
        return [RewardSignal(episode.steps - 1, completion=1.0)]


def test_one_episode_that_takes_too_long_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: SlowOnce)
    asked = Asked("slow-once", str(tmp_path / "scores"), timeout_s=2.0)
    tally = score_all(asked, [recorded(tmp_path, range(4))], here, lambda done, of: None)
    assert list(tally.failed) == ["bench-0__s1__00000001"]
    assert tally.verdicts == {"success": 3}


class Actors:
    """Ray's, in this process: `Actor` by its JSON."""

    def run(self, asked: Asked, items: Sequence[Item]) -> Iterator[Said]:
        actor = bulk_ray.Actor(msgspec.json.encode(asked))
        for item in items:
            answer = actor.score(msgspec.json.encode(item))
            found = msgspec.json.decode(answer, type=bulk_ray.Refused | bulk_ray.Scored)
            if isinstance(found, bulk_ray.Refused):
                raise ConfigError(found.why)
            yield found.said


def same_by(run: Callable[[Asked, Sequence[Item]], Iterator[Said]], folder: Path) -> None:
    data = recorded(folder, range(4))
    found = []
    for name, runner in (("here", here), ("there", run)):
        asked = Asked("clock", str(folder / name))
        tally = score_all(asked, [data], runner, lambda done, of: None)
        assert tally.episodes == 4 and not tally.failed
        found.append(
            [
                read_scores(folder / name, EpisodeKey("bench-0", "s1", seq), "clock")
                for seq in range(4)
            ]
        )
    # As text: what a model does not say is NaN, which equals nothing.
    here_, there = ([repr(known[0]) for known in each if known is not None] for each in found)
    assert len(here_) == 4 and here_ == there


def test_an_actor_says_what_this_process_says(tmp_path: Path) -> None:
    same_by(Actors().run, tmp_path)
    refused = Asked("nosuchmodel", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="nosuchmodel"):
        list(Actors().run(refused, items_of([tmp_path / "dataset"])))


@pytest.mark.timeout(800)
def test_on_ray_it_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="robot-reward score --ray needs Ray (extra cluster)")
    same_by(bulk_ray.on("local", 0.0, 2), tmp_path)


def machine(processors: float, gpus: float = 0.0, alive: bool = True) -> dict[str, Any]:
    """As `ray.nodes()` tells of it: what it has none of is not named."""
    found = {"CPU": processors, "GPU": gpus, "memory": 1e9}
    return {"Alive": alive, "Resources": {name: n for name, n in found.items() if n}}


def test_room_is_a_machines_own() -> None:
    cluster = [machine(6.0), machine(7.0, 2.0), machine(64.0, 8.0, alive=False), machine(3.0)]
    assert bulk_ray._room(cluster, 4, 0.0) == 2, "the rests of machines make no machine"
    assert bulk_ray._room(cluster, 1, 0.0) == 16
    assert bulk_ray._room(cluster, 1, 0.4) == 4, "the rests of GPUs make no GPU"
    assert bulk_ray._room(cluster, 1, 0.25) == 7, "as many as it has processors for"
    assert bulk_ray._room(cluster, 1, 2.0) == 1
    with pytest.raises(ConfigError, match=r"expected a machine with 8 .*found 6 and 0, 7 and 2"):
        bulk_ray._room(cluster, 8, 0.0)
    with pytest.raises(ConfigError, match=r"1 GPUs \(--gpus\), found 6 and 0; ask for less"):
        bulk_ray._room(cluster[:1], 1, 1.0)


@pytest.mark.timeout(800)
def test_on_ray_an_episode_that_kills_its_worker_is_tried_again_and_then_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel and Ray do where a machine has no memory left."""
    pytest.importorskip("ray", reason="robot-reward score --ray needs Ray (extra cluster)")
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN))
    data, run = recorded(tmp_path, range(5)), bulk_ray.on("local", 0.0, 1)
    options = {"always": [1], "once": [3], "marker": str(tmp_path / "once")}
    asked = Asked("mortal", str(tmp_path / "scores"), options=options)
    tally = score_all(asked, [data], run, lambda done, of: None)
    assert (tally.episodes, tally.verdicts) == (5, {"success": 4})
    ((key, why),) = tally.failed.items()
    assert key == "bench-0__s1__00000001" and "its worker was lost twice: ActorDiedError" in why

    # Where no episode at all is scored it is none of theirs.
    monkeypatch.setattr(bulk_ray, "LOST", 1)
    asked = Asked("mortal", str(tmp_path / "none"), options={"always": list(range(5))})
    with pytest.raises(EntracteError, match="scoring on Ray broke off"):
        score_all(asked, [data], run, lambda done, of: None)


@pytest.mark.timeout(800)
def test_on_ray_no_more_copies_are_made_than_find_room(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="robot-reward score --ray needs Ray (extra cluster)")
    data = recorded(tmp_path, range(3))
    whole = len(os.sched_getaffinity(0))
    asked = Asked("clock", str(tmp_path / "scores"), threads=whole)
    tally = score_all(asked, [data], bulk_ray.on("local", 0.0, 3), lambda done, of: None)
    assert (tally.episodes, tally.failed) == (3, {})
    with pytest.raises(ConfigError, match="not one copy of the model finds room"):
        score_all(asked, [data], bulk_ray.on("local", 1024.0, 0), lambda done, of: None)


@pytest.mark.timeout(800)
def test_on_ray_a_copy_that_finds_no_room_has_that_of_one_that_is_done(tmp_path: Path) -> None:
    """As after a machine was lost: there is room for fewer copies than there are."""
    ray = pytest.importorskip("ray", reason="robot-reward score --ray needs Ray (extra cluster)")
    data, asked = recorded(tmp_path, range(4)), Asked("clock", str(tmp_path / "scores"))
    tallies: list[Tally] = []

    def score_there() -> None:
        run = bulk_ray.on("local", 0.0, 0)
        tallies.append(score_all(asked, [data], run, lambda done, of: None))

    def elsewhere() -> None:
        time.sleep(700.0)

    with ray_cluster.cluster(ray, "local", **{**ray_cluster.this_machine(1), "num_cpus": 2}):
        theirs = ray.remote(num_cpus=1)(elsewhere).remote()
        wait("somebody else's work", lambda: ray.available_resources().get("CPU") == 1.0, 120.0)
        scoring = threading.Thread(target=score_there, daemon=True)
        scoring.start()
        scoring.join(300.0)
        assert tallies and (tallies[0].episodes, tallies[0].failed) == (4, {})
        ray.cancel(theirs, force=True)


def test_what_is_wrong_is_said_before_the_model_is_asked(tmp_path: Path) -> None:
    data = recorded(tmp_path, [0])
    given = ("--data", str(data), "--reward", "nosuchmodel")
    with pytest.raises(ConfigError, match=r"is there twice.*name one of them"):
        score(*given, "--data", str(data), "--output", str(tmp_path / "out"))
    words = ("--data", str(tmp_path), "--output", str(tmp_path / "out"))
    with pytest.raises(EntracteError, match="no data set"):
        score(*words)
    assert CliRunner().invoke(app, ["score", *words]).stderr == "", "no bar of nothing"
    with pytest.raises(ConfigError, match="they are for --ray"):
        score(*given, "--output", str(tmp_path / "out"), "--gpus", "1")
    with pytest.raises(ConfigError, match="new or an empty folder"):
        score(*given, "--output", str(data))
    assert not (tmp_path / "out").exists()
    assert DatasetReader(data).num_episodes == 1
