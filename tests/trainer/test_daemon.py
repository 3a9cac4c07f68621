"""Link and trainer as real processes over loopback sockets: exchange, refusal to lose or repeat, resume.

The test plays control: it writes packets into the ring and swaps at boundaries.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from daemon_bench import Robot, Trainer, package, stored, trainer, wait
from tiny_package import head_inputs
from tiny_robot import episode, pictures
from wiretap import Tap

from contracts import live_video, wire
from contracts.files.dataset_reader import DatasetReader
from contracts.files.log_to_dataset import read_episode
from contracts.files.packages import Package
from contracts.messages import Hello, OutcomeStored, ReleaseOutcome, Step, Welcome
from runtime.board import LinkState

__all__ = ["package", "trainer"]


@pytest.fixture
def robots(tmp_path: Path) -> Iterator[list[Robot]]:
    made: list[Robot] = []
    yield made
    for robot in made:
        if robot.process is not None:
            robot.stop(signal.SIGKILL)


def test_a_whole_exchange(
    tmp_path: Path, package: Package, trainer: Trainer, robots: list[Robot]
) -> None:
    trainer.start()
    robot = Robot(tmp_path / "robot", package, trainer).start()
    robots.append(robot)
    swapper = robot.swapper()
    start = swapper.engine.run(head_inputs(np.random.default_rng(0)))["chunks"].copy()

    robot.play(0, purpose="evaluate", success=True)
    for iteration in (1, 2):
        for index in range(3):
            robot.play(iteration * 10 + index, version=swapper.version, success=index == 0)
        wait("a staged release", lambda: robot.board.staged_policy_seq > swapper.version)
        for outcome in swapper.swap(episode_seq=iteration * 10 + 10):
            assert outcome.outcome == "swapped"
            robot.tell(outcome)
        robot.tell(swapper.settle())
        assert swapper.version == iteration
    found = swapper.engine.run(head_inputs(np.random.default_rng(0)))["chunks"]
    assert np.allclose(found - start, 2 * 0.02, atol=1e-4)

    wait("outcomes", lambda: len(trainer.records("release")) == 4)
    assert robot.stop() == 0 and robot.spooled == []
    assert trainer.stop() == 0
    iterations = trainer.records("iteration")
    assert [(r["iteration"], r["successes"], r["failures"]) for r in iterations] == [
        (1, 1, 2),
        (2, 1, 2),
    ]
    assert [r["policy_versions"] for r in iterations] == [[0], [1]]
    assert [r["last_arrival"] for r in iterations] == [3, 6]
    assert [r["labels"] for r in trainer.records("start")] == [["model"]], (
        "whose word it learned from"
    )
    episodes = trainer.records("episode")
    assert [r["episode_seq"] for r in episodes] == [10, 11, 12, 20, 21, 22], "evaluations unscored"
    swapped = [r for r in trainer.records("release") if r["outcome"] == "swapped"]
    for record in swapped:
        assert 0 <= record["publish_to_offer_s"] < 1
        assert 0 < record["publish_to_staged_s"] < record["publish_to_swapped_s"] < 5
        assert 0 < record["bytes_on_wire"] < iterations[0]["nbytes"], "what changed, not the whole"
    assert stored(trainer) == [("bench-0", n) for n in (0, 10, 11, 12, 20, 21, 22)]
    reader = DatasetReader(trainer.root / "store" / "dataset" / "bench-0")
    assert reader.num_episodes == 7
    assert [reader.meta(i)["extra"]["key"][2] for i in range(7)] == [0, 10, 11, 12, 20, 21, 22]


def test_a_killed_trainer_goes_on_from_the_last_iteration(
    tmp_path: Path, package: Package, trainer: Trainer, robots: list[Robot]
) -> None:
    marker = tmp_path / "marker"
    trainer.start(refiner__options=json.dumps({"marker": str(marker)}))
    robot = Robot(tmp_path / "robot", package, trainer).start()
    robots.append(robot)
    for seq in range(3):
        robot.play(seq, success=True)
    wait("iteration 1", lambda: robot.board.staged_policy_seq == 1)
    trainer.stop()
    marker.unlink()

    slow = json.dumps({"marker": str(marker), "sleep_s": 60})
    trainer.start(refiner__options=slow)
    for seq in range(3, 6):
        robot.play(seq, success=True)
    wait("the update of iteration 2", marker.exists)
    trainer.stop(signal.SIGKILL)
    robot.play(6, success=False)  # the robot finishes its episode and spools it
    wait("the spool", lambda: robot.spooled == ["s1_00000006.elog"])

    trainer.start(refiner__options=json.dumps({"marker": str(marker)}))
    wait("iteration 2", lambda: robot.board.staged_policy_seq == 2)
    for seq in (7, 8):
        robot.play(seq, success=False)
    wait("iteration 3", lambda: robot.board.staged_policy_seq == 3)
    assert robot.stop() == 0 and trainer.stop() == 0
    assert stored(trainer) == [("bench-0", seq) for seq in range(9)]
    iterations = trainer.records("iteration")
    assert [r["iteration"] for r in iterations] == [1, 2, 3]
    assert [r["metrics"]["seen"] for r in iterations] == [3, 6, 9]
    assert [r["metrics"]["distinct"] for r in iterations] == [3, 6, 9]
    assert [r["successes"] for r in iterations] == [3, 3, 0]
    assert [r["publish_seq"] for r in iterations] == [1, 2, 3]
    assert DatasetReader(trainer.root / "store" / "dataset" / "bench-0").num_episodes == 9


def test_a_killed_link_loses_and_repeats_nothing(
    tmp_path: Path, package: Package, trainer: Trainer, robots: list[Robot]
) -> None:
    trainer.start()
    robot = Robot(tmp_path / "robot", package, trainer).start()
    robots.append(robot)
    for seq in range(6):
        for index, parts in enumerate(episode(seq, steps=30)):
            robot.push(parts)
            if index == 5 * seq:  # with a log open, records in the ring, an upload under way
                robot.stop(signal.SIGKILL)
                robot.start()
    wait("six episodes", lambda: len(stored(trainer)) == 6)
    assert robot.stop() == 0 and trainer.stop() == 0 and robot.spooled == []
    assert sorted(stored(trainer)) == [("bench-0", seq) for seq in range(6)]
    for path in (trainer.root / "store" / "logs").iterdir():
        found = read_episode(path)
        assert found.columns["observation.state"][:, 5].tolist() == list(range(30)), path.name
        assert (found.end.reason, found.torn, found.lost) == ("time_limit", "", 0)


def test_outcomes_arrive_once_whichever_end_dies(
    tmp_path: Path, package: Package, trainer: Trainer, robots: list[Robot]
) -> None:
    trainer.start()
    robot = Robot(tmp_path / "robot", package, trainer).start()
    robots.append(robot)
    swapper = robot.swapper()
    for seq in range(3):
        robot.play(seq, success=True)
    wait("a staged release", lambda: robot.board.staged_policy_seq == 1)
    trainer.stop(signal.SIGKILL)

    (swapped,) = swapper.swap(episode_seq=3)
    robot.tell(swapped)
    wait("the first outcome on disk", lambda: robot.untold == 1)
    robot.stop(signal.SIGKILL)
    committed = swapper.settle()  # decided on disk, and lost with control before it was told
    assert committed is not None
    swapper = robot.swapper()
    swapper.start()
    for outcome in swapper.follow(4):
        robot.tell(outcome)  # waits in the ring
    robot.start()
    wait("the second outcome on disk", lambda: robot.untold == 2)
    asked_s = time.monotonic()
    assert robot.stop() == 0 and robot.untold == 2
    assert time.monotonic() - asked_s < 10, "it waits for a trainer that is away"

    robot.start()
    trainer.start()
    wait("their delivery", lambda: robot.untold == 0)
    trainer.stop(signal.SIGKILL)
    trainer.start()
    wait("the link", lambda: time.monotonic() - robot.board.trainer_seen_s < 0.1)
    assert robot.stop() == 0 and trainer.stop() == 0
    told = [(r["publish_seq"], r["outcome"], r["report_id"]) for r in trainer.records("release")]
    names = swapped.report_id, committed.report_id
    assert told == [(1, "swapped", names[0]), (1, "committed", names[1])]
    assert not swapper.slots.state().owed


def said(socket: zmq.Socket[bytes]) -> Any:
    return wire.unpack(socket.recv_multipart()).message


def test_an_outcome_told_again_is_recorded_once(trainer: Trainer) -> None:
    """The answer was lost, or the trainer died before it could answer."""
    outcome = ReleaseOutcome("r", "policy", 1, "rejected", "NaN", -1, 9, 0.1, 0.2, 0.3, "s1.7")
    for _ in range(2):
        trainer.start()
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.connect(trainer.endpoints["weights"])
            socket.send_multipart(wire.pack(outcome))
            assert socket.poll(10_000) and said(socket).reason == "unknown"
            socket.send_multipart(wire.pack(Hello("r", "s1", wire.VERSIONS)))
            assert socket.poll(10_000) and isinstance(said(socket), Welcome)
            for _ in range(2):
                socket.send_multipart(wire.pack(outcome))
                assert socket.poll(10_000), "no answer"
                assert said(socket) == OutcomeStored("s1.7")
        trainer.stop(signal.SIGKILL)
    assert [r["report_id"] for r in trainer.records("release")] == ["s1.7"]


def test_two_robots_and_a_reward_model_that_fails(
    tmp_path: Path, package: Package, trainer: Trainer, robots: list[Robot]
) -> None:
    trainer.start(reward__model="moody", reward__timeout_s=0.3, refiner__options="{fail_at: 1}")
    for name in ("bench-0", "bench-1"):
        robots.append(Robot(tmp_path / name, package, trainer, name).start())
    for seq in range(5):
        robots[seq % 2].play(seq, success=True)
        wait("scores", lambda n=seq: len(trainer.records("episode")) == n + 1)
        if seq == 2:
            time.sleep(0.5)  # the one that takes too long comes back
    robots[1].play(5)
    wait("two releases", lambda: all(r.board.staged_policy_seq == 2 for r in robots))
    assert trainer.stop() == 0
    episodes = trainer.records("episode")
    assert [r["success"] for r in episodes] == [None] * 4 + [True] * 2
    kinds = [r["failure"].partition(":")[0] for r in episodes]
    assert kinds == ["exception", "nan", "timeout", "unparsable", "", ""]
    first, second = trainer.records("iteration")
    assert "told to fail" in first["refiner_failure"] and second["refiner_failure"] == ""
    assert second["reward_failures"] == {"exception": 1, "nan": 1, "timeout": 1, "unparsable": 1}
    assert {robot_id for robot_id, _ in stored(trainer)} == {"bench-0", "bench-1"}


def test_live_scoring_changes_no_score(
    tmp_path: Path, package: Package, trainer: Trainer, robots: list[Robot]
) -> None:
    scores = {}
    for live in (True, False):
        root = tmp_path / f"live-{live}"
        root.mkdir()
        trainer.root, trainer.endpoints = root, {}
        trainer.start(reward__model="brightness", reward__live=live)
        robot = Robot(tmp_path / f"robot-{live}", package, trainer).start()
        for index, parts in enumerate(episode(1, steps=10)):
            robot.push(parts)
            time.sleep(0.02 if index < 5 else 0)
        wait("a score", lambda: trainer.records("episode"))
        robot.stop()
        trainer.stop()
        scores[live] = (root / "store" / "scores" / "bench-0__s1__00000001.json").read_bytes()
    del robots
    known = [json.loads(found) for found in scores.values()]
    assert known[0]["signals"] == known[1]["signals"]


@pytest.mark.skipif(not live_video.encodes("h264"), reason="this PyAV writes no H.264 (libx264)")
def test_live_colour_travels_as_video_and_is_stored_as_it_would_be_anyway(
    tmp_path: Path, package: Package, trainer: Trainer
) -> None:
    """What the trainer looks at is what the robot saw; JPEG where the robot was not told otherwise."""
    seen = tmp_path / "seen.jsonl"
    trainer.start(reward__model="brightness", reward__options__seen=seen)
    sent: dict[str, list[wire.Packet]] = {}
    for codec in ("h264", "jpeg"):
        tap = Tap(trainer.endpoints)
        real, trainer.endpoints = trainer.endpoints, tap.endpoints
        robot = Robot(tmp_path / codec, package, trainer, name=f"robot-{codec}")
        trainer.endpoints = real
        link = msgspec.structs.replace(robot.run.config.link, colour_codec=codec)
        config = msgspec.structs.replace(robot.run.config, link=link)
        robot.run = msgspec.structs.replace(robot.run, config=config)
        robot.run.save()
        robot.start()
        wait("the greeting", lambda board=robot.board: board.link_state == LinkState.WELCOME)
        for parts in episode(1, steps=20, robot_id=f"robot-{codec}"):
            robot.push(parts)
            time.sleep(0.01)  # some are looked at on the way; how many is the machine's to say
        wait("its end at the trainer", lambda name=f"robot-{codec}": (name, 1) in stored(trainer))
        wait("a look at it", seen.exists)
        robot.stop()
        looks = [json.loads(line) for line in seen.read_text().splitlines()]
        seen.unlink()
        for look in looks:
            truth = pictures(look["step"], 1)[0][1]
            assert abs(look["mean"] - truth.mean() / 255) < 0.01
        tap.close()
        frames = [parts for name, parts in tap.messages() if name == "frames"]
        packets = [wire.unpack(parts) for parts in frames]
        sent[codec] = [packet for packet in packets if isinstance(packet.message, Step)]
    codecs = {
        codec: [packet.descriptors["front.colour"].codec for packet in packets]
        for codec, packets in sent.items()
    }
    assert codecs == {"h264": ["h264"] * 20, "jpeg": ["jpeg"] * 20}
    sizes = {
        codec: sum(len(packet.data["front.colour"]) for packet in packets)
        for codec, packets in sent.items()
    }
    assert sizes["h264"] < sizes["jpeg"] / 4
    logs = [
        read_episode(trainer.root / "store" / "logs" / f"robot-{codec}__s1__00000001.elog")
        for codec in sent
    ]
    one, other = (log.pictures.frames("front") for log in logs)
    assert np.array_equal(one, other) and logs[0].session.colour_codec == "jpeg"


def test_a_port_in_use_is_one_sentence(tmp_path: Path, package: Package, trainer: Trainer) -> None:
    trainer.start()
    address = trainer.endpoints["weights"]
    command = [sys.executable, "-m", "trainer.app", "serve", "--run-dir", str(tmp_path / "other")]
    command += ["--set", f"listen.weights={address}", "--set", "refiner.kind=''"]
    command += ["--set", "reward.model=success"]
    for name in ("frames", "episodes", "health"):
        command += ["--set", f"listen.{name}=tcp://127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot bind" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_key_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.app", "serve", "--run-dir", str(tmp_path)]
    command += ["--set", "refiner.knid=tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "did you mean 'kind'" in done.stderr
