"""The robot's reward head as a release: a person's labels in, a signed head out, swapped on the robot."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from daemon_bench import Robot, Trainer, wait
from tiny_package import make_package
from tiny_robot import session_start

from contracts.errors import ConfigError
from contracts.files.packages import Package
from contracts.language import build_vocabulary
from contracts.messages import EpisodeEnd, EpisodeStart
from contracts.package import Provenance
from export.reward import package_reward
from trainer.config import AdaptationSection, TrainerConfig
from trainer.interfaces import EpisodeKey, ScoredEpisode, StoredEpisode
from trainer.reward_heads import open_heads
from trainer.rewards.adaptation import Adapted, HeadAdaptation, Lesson
from trainer.rewards.edge import EdgeReward
from trainer.rewards.edge_model import EdgeShape
from trainer.rewards.train_edge import new_edge

SAID = ("open the drawer", "close the drawer", "open the lid", "close the lid")
CAMERAS = ("front", "wrist")
# A head of random weights learns nothing of use here: the exchange is what is tested.
LENIENT = "{least: 1, least_gain: -1000, drift: 1, steps: 2, learning_rate: 1.0e-6, frames: 4}"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return make_package(tmp_path_factory.mktemp("policy") / "policy")


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """An edge model of random weights that takes every picture for familiar."""
    vocabulary = build_vocabulary(SAID)
    edge = new_edge(EdgeShape(vocabulary_size=len(vocabulary)), vocabulary, 0)
    edge.head.ground.limit.data.fill_(1e9)
    rng = np.random.default_rng(0)
    edge.examples = {
        f"images.{camera}": rng.integers(0, 255, (3, 96, 128, 3), np.uint8) for camera in CAMERAS
    }
    edge.examples["tokens"] = np.ones((1, edge.shape.instruction_length), np.int64)
    edge.trained_on = {"instructions": list(SAID)}
    edge.provenance = Provenance("test", 0, "", "", 0.0, {})
    edge.trunk.fuse()
    return package_reward(edge, tmp_path_factory.mktemp("reward") / "reward")


@pytest.fixture
def trainer(tmp_path: Path, policy: Package) -> Iterator[Trainer]:
    (tmp_path / "trainer").mkdir()
    trainer = Trainer(tmp_path / "trainer", policy)
    yield trainer
    if trainer.process is not None and trainer.process.poll() is None:
        trainer.stop(signal.SIGKILL)


def test_labels_reach_the_robot_as_a_new_reward_head(
    tmp_path: Path, policy: Package, reward: Package, trainer: Trainer
) -> None:
    settings = {
        "adaptation__package": reward.folder,
        "adaptation__options": LENIENT,
        "iteration__episodes": 6,
    }
    trainer.start(**settings)
    robot = Robot(tmp_path / "robot", policy, trainer, reward=reward, cameras=CAMERAS).start()
    try:
        for seq in range(6):
            robot.play(seq, success=seq % 2 == 0)
        wait("a release of each", lambda: robot.board.staged_reward_seq == 1, 60)
        assert robot.board.staged_policy_seq == 1
        swapper = robot.swapper("reward")
        assert [outcome.outcome for outcome in swapper.swap(6)] == ["swapped"]
        assert swapper.version == 1
        swapper.close()
        (record,) = trainer.records("reward_head")
        assert record["refused"] == "" and record["publish_seq"] == 1
        assert record["successes"] == record["failures"] == 3

        trainer.stop(
            signal.SIGKILL
        )  # what was published is offered again, and lessons are read again
        trainer.start(**settings)
        for seq in range(6, 12):
            robot.play(seq, success=None if seq == 6 else seq % 2 == 0)
        wait("another", lambda: robot.board.staged_reward_seq == 2, 60)
        last = trainer.records("reward_head")[-1]
        assert (last["successes"], last["failures"]) == (5, 6), "one has no label"
    finally:
        robot.stop()


class _Noise:
    """Pictures that no other episode has."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        assert indices is not None
        rng = np.random.default_rng(self._seed)
        return rng.integers(0, 255, (len(indices), 96, 128, 3), np.uint8)

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        raise AssertionError("no depth here")


def _labelled(key: EpisodeKey) -> ScoredEpisode:
    """Two successes, two failures, and so on."""
    seq = key.episode_seq
    start = EpisodeStart(*key, SAID[0], "t", "refine", 0, "", 0, "", seq, 0.0)
    end = EpisodeEnd(seq, 8, "time_limit", operator_success=seq % 4 < 2)
    columns = {"observation.state": np.zeros((8, 6), np.float32)}
    session = session_start(robot_id=key.robot_id)
    episode = StoredEpisode(key, seq, session, start, end, columns, _Noise(seq))
    return ScoredEpisode(episode, (), None, "none")


def test_what_is_held_back_was_never_trained_on_whatever_is_forgotten(
    tmp_path: Path, reward: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, tested = set(), set()

    def adapt(_: HeadAdaptation, lessons: Sequence[Lesson], *__: object) -> Adapted:
        for lesson in lessons:
            (tested if lesson.held_back else taught).add(lesson.seen.numpy().tobytes())
        return Adapted(None, "none is made here", {})

    monkeypatch.setattr(HeadAdaptation, "adapt", adapt)
    options = {"episodes": 6, "frames": 2, "others": 1}
    section = AdaptationSection(package=str(reward.folder), options=options)
    settings = msgspec.structs.replace(TrainerConfig(), adaptation=section)
    keys = [EpisodeKey("r", f"s{seq // 5}", seq) for seq in range(15)]
    for again in ("first", "after a restart"):
        heads = open_heads(tmp_path / again, settings, "another")
        for number, key in enumerate(keys, 1):
            heads.note(key)
            if again == "first" and number % 3 == 0:
                heads.learn(_labelled, number)
        heads.learn(_labelled, 99)
    assert len(taught) == 10 and len(tested) == 5
    assert not taught & tested


def test_a_restart_remembers_the_newest_labelled_episodes_however_rare_a_label_is(
    tmp_path: Path, reward: Package
) -> None:
    section = AdaptationSection(
        package=str(reward.folder), options={"episodes": 4, "frames": 2, "others": 1}
    )
    settings = msgspec.structs.replace(TrainerConfig(), adaptation=section)

    def load(key: EpisodeKey) -> ScoredEpisode:
        """A person labels every fifth."""
        loaded.append(key.episode_seq)
        scored = _labelled(key)
        end = msgspec.structs.replace(scored.episode.end, operator_success=None)
        unlabelled = dataclasses.replace(scored.episode, end=end)
        return scored if key.episode_seq % 5 == 0 else ScoredEpisode(unlabelled, (), None, "none")

    found, loaded = [], list[int]()
    for again in ("first", "after a restart"):
        heads = open_heads(tmp_path / again, settings, "another")
        for seq in range(40):
            heads.note(EpisodeKey("r", "s", seq))
            if again == "first" and seq % 4 == 3:
                heads.learn(load, seq)
        loaded.clear()
        _, record = heads.learn(load, 99)
        found.append((record["successes"], record["failures"]))
    assert found == [(2, 2), (2, 2)]
    assert loaded == [*range(39, 19, -1)], "nothing older than the oldest lesson is read"


def test_episodes_that_cannot_be_looked_at_cost_only_themselves(
    tmp_path: Path, policy: Package, reward: Package, trainer: Trainer
) -> None:
    trainer.start(
        adaptation__package=reward.folder, adaptation__options=LENIENT, iteration__episodes=2
    )
    robot = Robot(tmp_path / "robot", policy, trainer, reward=reward).start()
    try:
        for seq in range(2):  # no wrist camera: the reward model can't look
            robot.play(seq, success=True)
        wait("the policy's release", lambda: robot.board.staged_policy_seq == 1)
        wait("the adaptation", lambda: trainer.records("reward_head"))
    finally:
        robot.stop()
    (record,) = trainer.records("reward_head")
    assert record["unreadable"] == 2 and "0 successes" in record["refused"]
    assert trainer.stop() == 0


@pytest.mark.parametrize(
    ("labels", "match"),
    [(("model",), "learn from itself"), (("oracle",), "operator"), ((), "operator")],
)
def test_labels_that_make_no_sense_are_refused(
    tmp_path: Path, reward: Package, labels: tuple[str, ...], match: str
) -> None:
    section = AdaptationSection(package=str(reward.folder), labels=labels)
    settings = msgspec.structs.replace(TrainerConfig(), adaptation=section)
    own = EdgeReward(package=reward.folder).model_id
    with pytest.raises(ConfigError, match=match):
        open_heads(tmp_path, settings, own)
