"""Fine-tuning of a tiny Qwen3-VL: it learns, goes on exactly where it was stopped, and `vlm` uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml

from trainer.rewards.evaluation.videos import read_video
from trainer.rewards.train_command import _summary
from trainer.rewards.tuning.rows import Row, read_data
from trainer.rewards.tuning.run import tune
from trainer.rewards.tuning.settings import Lora, Tuning
from trainer.rewards.vlm.factory import make, read_options
from trainer.rewards.vlm.model import VlmReward

RATES = {"lora": 0.01, "full": 0.003}
Made = Callable[..., Tuning]


class Stopped(Exception):
    """What a test kills a run with."""


def stop_at(step: int) -> Callable[[int, float, dict[str, float]], None]:
    def say(now: int, done: float, figures: dict[str, float]) -> None:
        if now == step:
            raise Stopped

    return say


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def reward_of(folder: Path) -> VlmReward:
    return make(read_options(yaml.safe_load((folder / "vlm.yaml").read_text())))


def expected_scores(model: VlmReward, rows: tuple[Row, ...]) -> np.ndarray:
    found = []
    for row in rows:
        signal = model.score(read_video(row.files[0], model.contract), row.task)
        found.append(float(np.array(signal.score_distribution) @ np.arange(1, 6)))
    return np.array(found)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_falls_and_the_reward_model_gives_the_scores_that_validation_saw(
    method: str, settings: Made, data: Path, tiny: Path
) -> None:
    run = settings(method=method, learning_rate=RATES[method])
    figures = tune(run)
    output = Path(run.output)
    fallen = losses(output)
    assert len(fallen) == 12 and np.mean(fallen[-3:]) < 0.6 * np.mean(fallen[:3])
    assert figures["roboreward_mae"] < 0.8 * min(
        figures["roboreward_mae_blind"], figures["roboreward_mae_before"]
    )
    rows = read_data(data, ("roboreward",), "state").signals[0].val
    scores = expected_scores(reward_of(output), rows)
    labels = np.array([row.label for row in rows])
    assert np.abs(scores - labels).mean() == pytest.approx(figures["roboreward_mae"], abs=1e-4)
    plain = make(read_options({"model": str(tiny), "least_mass": 0.0, "device": "cpu"}))
    assert np.abs(scores - expected_scores(plain, rows)).max() > 0.1
    told = json.loads((output / "run.json").read_text())
    assert told["seed"] == 0 and told["versions"]["torch"] and told["data"]["card_sha256"]
    assert not (output / "state.safetensors").exists()
    assert tune(run) == figures  # done already: nothing is trained again


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_stopped_run_goes_on_bit_for_bit(method: str, settings: Made, tmp_path: Path) -> None:
    """Dropout, row order and moments included: the file of where it stands is the same to the last byte."""
    changes = {
        "lora": Lora(rank=8, alpha=32, dropout=0.2),
        "steps": 6,
        "every": 2,
        "validation_rows": 4,
    }
    whole, parted = (
        settings(method=method, output=str(tmp_path / name), **changes) for name in "ab"
    )
    with pytest.raises(Stopped):
        tune(whole, stop_at(6))
    with pytest.raises(Stopped):
        tune(parted, stop_at(3))
    with pytest.raises(Stopped):
        tune(parted, stop_at(6))
    for name in ("state.safetensors", "best/" + _weights(method)):
        one, other = ((tmp_path / run / name).read_bytes() for run in "ab")
        assert one == other, name
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert tune(whole) == tune(parted)


def test_the_checkpoint_that_is_kept_is_the_best_on_validation_not_the_last(
    settings: Made, data: Path, tmp_path: Path
) -> None:
    """Validation labels turned round: the better the training data are learnt, the worse it gets."""
    turned = Path(shutil.copytree(data, tmp_path / "turned"))
    table = turned / "val" / "metadata.jsonl"
    rows = list(map(json.loads, table.read_text().splitlines()))
    turned_rows = ({**row, "reward": 6 - row["reward"]} for row in rows)
    table.write_text("".join(json.dumps(row) + "\n" for row in turned_rows))
    run = settings(data=str(turned), steps=9, every=3)
    figures = tune(run)
    lines = map(json.loads, (Path(run.output) / "metrics.jsonl").read_text().splitlines())
    errors = {x["step"]: x["val/error"] for x in lines if "val/error" in x and x["step"]}
    assert set(errors) == {3, 6, 9}
    assert figures["best_step"] == min(errors, key=lambda step: errors[step]) < 9
    labels = np.array([6 - row["reward"] for row in rows])
    paths = read_data(turned, ("roboreward",), "state").signals[0].val
    kept = np.abs(expected_scores(reward_of(Path(run.output)), paths) - labels).mean()
    assert kept / 4 == pytest.approx(min(errors.values()), abs=1e-4)
    # An honest report: this result is worth nothing, and the command says so.
    assert figures["error"] >= figures["error_blind"]
    assert _summary(figures)[-1].startswith("WARNING: on validation the result is no better than")


def _weights(method: str) -> str:
    return "adapter_model.safetensors" if method == "lora" else "model.safetensors"


def test_one_adapter_learns_all_signals_sight_too_in_bfloat16(settings: Made) -> None:
    signals = ("roboreward", "completion", "contrastive")
    run = settings(
        signals,
        precision="bfloat16",
        gradient_checkpointing=True,
        freeze_vision=False,
        steps=12,
        every=12,
        accumulate=3,
        validation_rows=6,
        batch=1,
    )
    figures = tune(run)
    fallen = losses(Path(run.output))
    assert np.mean(fallen[-3:]) < 0.6 * np.mean(fallen[:3])
    assert {"roboreward_mae", "completion_balanced_accuracy", "contrastive_accuracy"} < set(figures)
    assert figures["contrastive_accuracy_blind"] == 0.5
    # Loading proves each adapter; completion, which roboreward gives too, is left to the user.
    model = reward_of(Path(run.output))
    assert [question.text.name for question in model.questions] == ["roboreward", "contrastive"]
    adapters = model.engine._adapters  # type: ignore[attr-defined]
    assert [adapters.sees(name) for name in adapters.names] == ["roboreward", "contrastive"]
    assert "same: completion" in (Path(run.output) / "vlm.yaml").read_text()


def test_progress_is_learnt_from_the_state_unless_time_is_asked_for(data: Path) -> None:
    rows = read_data(data, ("progress",), "state").signals[0].train
    assert [row.label for row in rows[:3]] == [0.0, 0.5, 1.0]
    path = data / "lrm" / "train" / "progress.jsonl"
    before = path.read_text()
    line = {**json.loads(before.splitlines()[1]), "state_progress": 0.25}
    try:
        path.write_text(json.dumps(line) + "\n")
        for label, expected in (("state", 0.25), ("time", 0.5)):
            assert read_data(data, ("progress",), label).signals[0].train[0].label == expected
    finally:
        path.write_text(before)


def test_tensorboard_gets_the_figures(settings: Made) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = settings(steps=4, validation_rows=1, tensorboard="on")
    tune(run)
    board = EventAccumulator(str(Path(run.output) / "tensorboard"))
    board.Reload()
    found = [event.value for event in board.Scalars("loss")]
    assert found == pytest.approx(losses(Path(run.output)), rel=1e-6)


def test_settings_of_the_result_are_those_of_the_training(settings: Made) -> None:
    run = settings(steps=1, every=1, validation_rows=1)
    asked = msgspec.structs.replace(run.vlm, pixels=2048, layout="append", rate_hz=1.0)
    tune(msgspec.structs.replace(run, vlm=asked))
    used = yaml.safe_load((Path(run.output) / "vlm.yaml").read_text())
    assert (used["pixels"], used["layout"], used["rate_hz"]) == (2048, "append", 1.0)
