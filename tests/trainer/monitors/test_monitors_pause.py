"""A running trainer pauses refinement by itself, whoever is killed, and goes on when a person says so."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import pytest
from daemon_bench import Robot, Trainer, package, stored, trainer, wait
from typer.testing import CliRunner

from contracts.errors import ConfigError, EntracteError
from contracts.files.packages import Package
from trainer.app import app
from trainer.config import load_config
from trainer.monitors.records import Records
from trainer.report.load import load_run
from trainer.report.monitoring import monitors_section

__all__ = ["package", "trainer"]

LIES = 12
"""Enough for a pause, not enough for a fifth iteration."""


@pytest.fixture
def robot(tmp_path: Path, package: Package, trainer: Trainer) -> Iterator[Robot]:
    """Of a trainer whose reward calls every episode a success."""
    trainer.start(reward__model="constant")
    robot = Robot(tmp_path / "robot", package, trainer).start()
    yield robot
    robot.stop(signal.SIGKILL)


def say(trainer: Trainer, *words: str) -> str:
    found = CliRunner().invoke(app, [*words, "--run-dir", str(trainer.root)])
    if found.exception is not None:
        raise found.exception
    return found.output


def told(trainer: Trainer) -> set[int]:
    """Episodes that the metrics hold; after a kill between a record and its scores one is told twice."""
    return {row["episode_seq"] for row in trainer.records("episode")}


def test_a_lie_pauses_refinement_until_a_person_lets_it_go_on(
    trainer: Trainer, robot: Robot
) -> None:
    for seq in range(LIES):
        robot.play(seq, success=False)
    wait("twelve scores", lambda: len(told(trainer)) == LIES)
    (paused,) = wait("a pause", lambda: trainer.records("paused"))
    assert paused["monitor"] == "labels" and paused["labels"]["alone"] < LIES
    tripped = paused["labels"]["counted"]
    published = len(trainer.records("iteration"))
    assert published == (tripped - 1) // 3, "nothing was published from the pause on"
    assert len(stored(trainer)) == LIES

    trainer.stop(signal.SIGKILL)
    trainer.start(reward__model="constant")
    for seq in range(LIES, LIES + 3):
        robot.play(seq, success=False)
    wait("three scores", lambda: len(told(trainer)) == LIES + 3)
    assert len(trainer.records("iteration")) == published and len(stored(trainer)) == LIES + 3
    status = say(trainer, "monitors", "status")
    assert "PAUSED by labels" in status and "disagreement: blind" in status
    assert json.loads(say(trainer, "monitors", "status", "--json"))["paused"]["monitor"] == "labels"

    said = say(trainer, "monitors", "resume", "--note", "the lamp was off")
    assert "goes on; it was paused by labels" in said
    assert f"held since then: {LIES + 3 - tripped} episodes" in said
    wait("a pause by what was held", lambda: len(trainer.records("paused")) == 2)
    assert len(trainer.records("iteration")) == published, "nothing was learned from what was held"
    (resumed,) = trainer.records("resumed")
    assert resumed["note"] == "the lamp was off"
    assert "held since then: 0 episodes" in say(trainer, "monitors", "resume")
    wait("all iterations", lambda: len(trainer.records("iteration")) == (LIES + 3) // 3)
    seen = [record["metrics"]["distinct"] for record in trainer.records("iteration")]
    assert seen == [3, 6, 9, 12, 15], "every episode was used once"
    assert len(trainer.records("paused")) == 2, "what was before the pause counts no more"
    with pytest.raises(ConfigError, match="is not paused"):
        say(trainer, "monitors", "resume")

    for seq in range(LIES + 3, LIES + 13):
        robot.play(seq, success=False)
    wait("another pause", lambda: len(trainer.records("paused")) == 3)


def test_labels_of_the_audit_arrive_and_count(
    tmp_path: Path, package: Package, trainer: Trainer
) -> None:
    settings = {"reward__model": "constant", "monitors__audit__share": 1.0}
    trainer.start(**settings)
    robot = Robot(tmp_path / "robot", package, trainer).start()
    try:
        for seq in range(12):
            robot.play(seq)
        wait("twelve scores", lambda: len(trainer.records("episode")) == 12)
        lines = say(trainer, "audit", "list").splitlines()
        keys = [row.key for row in Records(trainer.root).rows()]
        assert lines == keys, "the oldest first, and nothing of what the rewards said"
        shown = say(trainer, "audit", "show", keys[0])
        sheet, film = (line.split(": ", 1)[1] for line in shown.splitlines()[-2:])
        assert cv2.imread(sheet).shape == (192, 6 * 256, 3)
        with av.open(film) as container:
            assert len(list(container.decode(video=0))) == 12
        assert trainer.records("paused") == []

        say(trainer, "audit", "label", keys[0], "unclear")
        say(trainer, "audit", "label", keys[1], "success")
        say(trainer, "audit", "label", keys[1], "failure")  # the last word counts
        for key in keys[2:]:
            said = say(trainer, "audit", "label", key, "failure", "--by", "eve")
        assert said.strip().endswith("0 more wait")
        (paused,) = wait("a pause", lambda: trainer.records("paused"))
        assert paused["monitor"] == "labels" and paused["labels"]["alone"] <= 11
        found = json.loads(say(trainer, "monitors", "status", "--json"))
        assert found["reward_says"] == 1.0 and found["true_success"]["high"] < 0.4
        assert found["true_success_over"] == 10, "the first ten, the unclear one a failure"
        labels = Records(trainer.root).labels()
        assert labels[keys[1]].success is False and labels[keys[2]].by == "eve"
    finally:
        robot.stop(signal.SIGKILL)


def test_the_report_shows_evidence_and_pauses(trainer: Trainer, robot: Robot) -> None:
    for seq in range(LIES):
        robot.play(seq, success=False)
    wait("a pause", lambda: trainer.records("paused"))
    trainer.stop()
    (trainer.root.parent / "run").mkdir()
    trainer.root.rename(trainer.root.parent / "run" / "trainer")
    trainer.root.mkdir()
    run = load_run(trainer.root.parent / "run")
    section = monitors_section(run)
    assert "paused itself" in section["pauses"][0] and "by labels" in section["pauses"][0]
    names = {row[0]: row for row in section["rows"]}
    assert set(names) == {"disagreement", "labels", "drift"}
    assert names["disagreement"][1] == "nothing to compare with"
    assert float(names["labels"][3].removeprefix("10^")) >= float(
        names["labels"][4].removeprefix("10^")
    )


def test_a_sound_reward_is_left_alone(tmp_path: Path, package: Package, trainer: Trainer) -> None:
    """The reward is the label itself."""
    trainer.start()
    robot = Robot(tmp_path / "robot", package, trainer).start()
    try:
        for seq in range(15):
            robot.play(seq, success=seq % 3 == 0)
        wait("five iterations", lambda: len(trainer.records("monitors")) == 5)
        assert trainer.records("paused") == []
        last = trainer.records("monitors")[-1]
        assert last["labels"]["counted"] == 15 and last["labels"]["evidence_log10"] <= 0
        value, low, high = last["true_success_all"]
        assert value == pytest.approx(1 / 3) and low < value < high
    finally:
        robot.stop(signal.SIGKILL)


@pytest.mark.parametrize(
    "setting, said",
    [
        ("monitors.false_alarms=0", "false_alarms: expected 1e-06 to 0.5, found 0"),
        ("monitors.alone=0.5", "alone: expected below of_failures, which is 0.4, found 0.5"),
        ("monitors.growth=.nan", "growth: expected 0.01 to 0.9, found nan"),
        ("monitors.audit.share=2", "audit.share: expected 0.001 to 1, found 2"),
        ("monitors.audit.most_open=-1", "most_open: expected >= 0, found -1"),
        ("monitors.seconds=1", "did you mean 'second'"),
    ],
)
def test_a_wrong_setting_is_one_sentence(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_config(None, [setting])
    assert said in str(found.value) and "\n" not in str(found.value)


def test_wrong_words_are_one_sentence(tmp_path: Path) -> None:
    runner = CliRunner()
    for words, said in (
        ("audit label r__s__00000001 maybe", "expected success, failure or unclear, found maybe"),
        ("audit label nonsense success", "expected ROBOT__SESSION__NUMBER, found nonsense"),
        ("audit label r__s__00000001 success", "expected one that the trainer has scored"),
        ("audit show r__s__00000001", "neither in the logs nor in the data set"),
        ("monitors resume", "is not paused"),
    ):
        found = runner.invoke(app, [*words.split(), "--run-dir", str(tmp_path)])
        assert isinstance(found.exception, EntracteError) and said in str(found.exception), words
    assert list(tmp_path.iterdir()) == [], "a question leaves nothing behind"
