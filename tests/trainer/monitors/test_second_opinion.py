"""Who else judges, and what the monitors keep: read back whole whatever was cut off."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny_robot import session_start

from contracts.errors import ConfigError
from contracts.files.packages import load_package, read_manifest
from contracts.messages import EpisodeEnd, EpisodeStart
from contracts.package import package_id
from trainer.config import load_config
from trainer.interfaces import EpisodeKey, ScoredEpisode, StoredEpisode
from trainer.metrics import Metrics, read_metrics
from trainer.monitors.records import Label, Pause, Records, Row, waiting
from trainer.monitors.second import open_second
from trainer.monitors.watch import Monitors
from trainer.rewards.baselines import ConstantReward
from trainer.rewards.edge import EdgeReward

ROOT = Path(__file__).resolve().parents[3]
REWARD = ROOT / "pretrained" / "reward-zero-shot"


def episode(
    seq: int,
    completion: float,
    *,
    reward_id: str = "",
    label: bool | None = None,
    version: int = 0,
) -> StoredEpisode:
    """On a robot whose reward ended with that completion."""
    start = EpisodeStart(
        "r", "s", seq, "open", "open", "refine", 0, "", version, reward_id, -1, 0.0
    )
    columns = {
        "observation.state": np.zeros((10, 6), np.float32),
        "reward.completion": np.full(10, completion, np.float32),
        "reward.process": np.full(10, completion, np.float32),
    }
    end = EpisodeEnd(seq, 10, "time_limit", label)
    key, pictures = EpisodeKey("r", "s", seq), None
    return StoredEpisode(key, seq, session_start(), start, end, columns, pictures)  # type: ignore[arg-type]


def test_the_robots_own_word_is_what_was_recorded() -> None:
    second = open_second(load_config(None, ["monitors.second.threshold=0.7"]))
    assert second is not None
    assert second.of(episode(1, 0.69))[0] is False and second.of(episode(1, 0.71))[0] is True
    assert second.of(episode(1, float("nan"))) == (None, None)
    assert open_second(load_config(None, ["monitors.second.model=''"])) is None


def test_one_package_on_both_ends_is_no_second_opinion() -> None:
    second = open_second(load_config(None, ["reward.model=edge", f"reward.package={REWARD}"]))
    assert second is not None
    same = package_id(read_manifest(REWARD))
    assert second.of(episode(1, 0.9, reward_id=same)) == (None, None)
    assert second.of(episode(1, 0.9, reward_id="another"))[0] is True


class Views:
    """`Pictures` that are there already."""

    def __init__(self, views: dict[str, np.ndarray]) -> None:
        self._views = views

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        return self._views[camera] if indices is None else self._views[camera][list(indices)]


@cache
def known(camera: str) -> np.ndarray:
    """uint8[N, H, W, 3] that the package knows: of its golden vectors."""
    cases = load_package(REWARD).golden["trunk"]
    return np.concatenate([case.inputs[f"images.{camera}"] for case in cases])


def shown(stored: StoredEpisode) -> StoredEpisode:
    """It with such pictures, over and over."""
    pictures = {camera: known(camera) for camera in ("front", "wrist")}
    views = {c: np.resize(each, (stored.steps, *each.shape[1:])) for c, each in pictures.items()}
    return dataclasses.replace(stored, pictures=Views(views))


def test_of_a_head_that_the_reward_model_taught_the_package_as_it_was_is_asked() -> None:
    adapted = (f"adaptation.package={REWARD}", "monitors.second.threshold=0.5")
    second = open_second(load_config(None, list(adapted)))
    assert second is not None
    assert second.of(episode(1, 0.9))[0] is True, "as the package is, nobody of ours taught it"
    said = EdgeReward(package=REWARD).score_episode(shown(episode(2, 0.0)))[-1].completion
    assert np.isfinite(said)
    for repeated in (0.0, 1.0):
        found = second.of(shown(episode(2, repeated, version=3)))
        assert found == (said >= 0.5, said), "whatever the head repeats"
    assert second.of(episode(2, 0.9, version=3)) == (None, None), "nothing to be seen"
    by_people = open_second(load_config(None, [*adapted, "adaptation.labels=[operator]"]))
    assert by_people is not None and by_people.of(episode(2, 0.9, version=3))[0] is True


def test_a_lie_that_the_robots_head_was_taught_is_contradicted_all_the_same(tmp_path: Path) -> None:
    settings = [f"adaptation.package={REWARD}", "monitors.second.threshold=1"]
    metrics = Metrics(tmp_path / "metrics.jsonl")
    monitors = Monitors(tmp_path, load_config(None, settings), "constant", metrics)
    seen(tmp_path, monitors, 7, completion=1.0, version=3)
    assert "disagreement: of 7 episodes" in monitors.paused


def seen(root: Path, monitors: Monitors, count: int, completion: float = 0.0, **given: Any) -> None:
    """That many, failures to the robot unless said otherwise, successes to the trainer's reward."""
    model, first = ConstantReward(), len(Records(root).rows())
    for seq in range(first, first + count):
        stored = shown(episode(seq, completion, **given))
        signals = tuple(model.score_episode(stored))
        monitors.see(ScoredEpisode(stored, signals, True, model.model_id))


@pytest.mark.parametrize("second", ["robot", "success"])
def test_a_lie_that_the_second_opinion_contradicts_pauses_at_once(
    tmp_path: Path, second: str
) -> None:
    config = load_config(None, [f"monitors.second.model={second}"])
    metrics = Metrics(tmp_path / "metrics.jsonl")
    monitors = Monitors(tmp_path, config, "constant", metrics)
    seen(tmp_path, monitors, 6, label=False if second == "success" else None)
    assert monitors.paused == ""
    # A start between two episodes changes nothing, nor does an episode that is told again.
    monitors = Monitors(tmp_path, config, "constant", metrics)
    monitors.see(ScoredEpisode(episode(0, 0.0), (), True, "constant"))
    seen(tmp_path, monitors, 1, label=False if second == "success" else None)
    assert "disagreement: of 7 episodes" in monitors.paused
    (paused,) = (r for r in read_metrics(tmp_path / "metrics.jsonl") if r["kind"] == "paused")
    assert paused["disagreement"]["evidence_log10"] >= paused["disagreement"]["limit_log10"]
    rows = Records(tmp_path).rows()
    assert len(rows) == 7 and all(row.base for row in rows)
    # Contested to the full: surely a person's; those with a label need none.
    assert len(waiting(rows, {})) == (7 if second == "robot" else 0)
    # Of another reward model nothing of this is known, but the pause stands until a person ends it.
    other = Monitors(tmp_path, config, "another", metrics)
    assert other.paused and other.figures()["disagreement"]["counted"] == 0


def test_a_kill_before_the_pause_was_written_costs_it_nothing(tmp_path: Path) -> None:
    config, metrics = load_config(None, []), Metrics(tmp_path / "metrics.jsonl")
    monitors = Monitors(tmp_path, config, "constant", metrics)
    seen(tmp_path, monitors, 7)
    assert monitors.paused
    (Records(tmp_path).folder / "state.json").unlink()  # as if killed after the seventh line
    assert "disagreement: of 7 episodes" in Monitors(tmp_path, config, "constant", metrics).paused
    assert Records(tmp_path).standing().pause is not None


def test_labels_that_came_while_no_daemon_ran_are_judged_at_its_start(tmp_path: Path) -> None:
    config = load_config(None, ["monitors.second.model=''", "monitors.audit.share=1"])
    metrics, records = Metrics(tmp_path / "metrics.jsonl"), Records(tmp_path)
    monitors = Monitors(tmp_path, config, "constant", metrics)
    seen(tmp_path, monitors, 7)
    assert monitors.paused == ""
    for asked in waiting(records.rows(), {}):
        records.add_label(Label(asked.key, False, "eve", 1.0))
    assert "labels: of 7 episodes" in Monitors(tmp_path, config, "constant", metrics).paused


def test_a_label_that_came_just_before_a_pause_is_read(tmp_path: Path) -> None:
    records = Records(tmp_path)
    config = load_config(None, ["monitors.audit.share=1"])
    monitors = Monitors(tmp_path, config, "constant", Metrics(tmp_path / "metrics.jsonl"))
    seen(tmp_path, monitors, 6)
    records.add_label(Label(records.rows()[0].key, False, "eve", 1.0))
    seen(tmp_path, monitors, 1)
    assert "disagreement: of 7 episodes" in monitors.paused
    monitors.look(now=True)
    assert monitors.paused and monitors.figures()["waiting"] == 6


def test_what_waits_does_not_grow_without_end(tmp_path: Path) -> None:
    config = load_config(None, ["monitors.audit.most_open=5", "monitors.audit.share=0.001"])
    monitors = Monitors(tmp_path, config, "constant", Metrics(tmp_path / "metrics.jsonl"))
    seen(tmp_path, monitors, 30)
    rows = Records(tmp_path).rows()
    assert 5 <= len(waiting(rows, {})) <= 6
    assert {row.chance for row in rows} == {1.0, 0.001}


def row(seq: int) -> Row:
    return Row(
        *(f"r__s__{seq:08d}", seq, "m", True, 1.0, None, None, None),
        *(False, 0.1, True, True, 0.0),
    )


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add_row(row(1))
    with (records.folder / "episodes.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(row(2))[:30])
    records.add_row(row(3))
    assert [found.arrival for found in records.rows()] == [1, 3]


def test_a_pause_and_its_end_are_durable(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add_row(row(1))
    records.pause(Pause("drift", "because", 1, 0.0))
    records.add_row(row(2))
    before = records.stamp()
    assert Records(tmp_path).standing().pause == Pause("drift", "because", 1, 0.0)
    assert records.resume("seen").monitor == "drift"
    assert Records(tmp_path).standing().since == 1 and records.stamp() != before
    records.add_label(Label("r__s__00000001", True, "eve", 1.0))
    records.add_label(Label("r__s__00000001", None, "eve", 2.0))
    assert records.labels()["r__s__00000001"].success is None
    assert waiting(records.rows(), records.labels()) == [row(2)]


def test_a_damaged_state_is_no_leave_to_go_on(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.pause(Pause("drift", "because", 1, 0.0))
    (records.folder / "state.json").write_text('{"pause": 7}')
    with pytest.raises(ConfigError, match="is damaged"):
        Monitors(tmp_path, load_config(), "m", Metrics(tmp_path / "metrics.jsonl"))
