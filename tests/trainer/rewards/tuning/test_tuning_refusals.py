"""What stops a fine-tuning before it starts: one clear sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contracts.errors import EntracteError
from trainer.reward_app import app
from trainer.rewards.tuning.memory import check_tuning_fits, estimate_tuning
from trainer.rewards.tuning.rows import read_data
from trainer.rewards.tuning.run import tune
from trainer.rewards.tuning.settings import Tuning, read_settings

Made = Callable[..., Tuning]
EXAMPLE = Path(__file__).parents[4] / "trainer" / "rewards" / "tuning" / "lora.yaml"


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """The data, to be spoilt."""
    return Path(shutil.copytree(data, tmp_path / "data"))


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[-1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_recording_in_both_splits_is_refused_across_signals(copy: Path) -> None:
    rewrite(copy / "lrm/val/pairs.jsonl", lambda row: row.update(group="r0"))
    with pytest.raises(EntracteError, match=r"share recordings.*found 1 in both, such as r0"):
        read_data(copy, ("roboreward", "contrastive"), "state")


def test_the_same_video_under_two_names_is_refused_where_no_row_names_its_recording(
    copy: Path,
) -> None:
    for split in ("train", "val"):
        path = copy / split / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({**row, "group": ""}) + "\n" for row in rows))
    # The tiny set's recordings look alike; as files they are alike.
    with pytest.raises(EntracteError, match="share recordings"):
        read_data(copy, ("roboreward",), "state")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (shutil.rmtree, "expected a folder, found none; robot-reward build-data"),
        (lambda d: shutil.rmtree(d / "val"), "has no val rows for 'roboreward'"),
        (lambda d: (d / "train/0-1.mp4").unlink(), "1 of 35 files.*missing.*0-1.mp4"),
        (
            lambda d: rewrite(d / "train/metadata.jsonl", lambda r: r.update(reward=7)),
            "metadata.jsonl line 25.*1 to 5, found 7",
        ),
        (
            lambda d: rewrite(d / "val/metadata.jsonl", lambda r: r.update(file_name="../x.mp4")),
            "file outside its folder",
        ),
        (lambda d: (d / "val/metadata.jsonl").write_text(""), "holds no row"),
    ],
)
def test_a_wrong_data_folder_is_one_sentence(
    copy: Path, settings: Made, spoil: Callable[[Path], None], says: str
) -> None:
    spoil(copy)
    run = settings(data=str(copy))
    with pytest.raises(EntracteError, match=says):
        tune(run)
    assert not Path(run.output).exists()


def test_a_picture_outside_the_folder_is_refused(copy: Path) -> None:
    rewrite(copy / "lrm/train/pairs.jsonl", lambda row: row.update(first="../../val/x.jpg"))
    with pytest.raises(EntracteError, match=r"pairs.jsonl line 20.*must lie in the split's folder"):
        read_data(copy, ("contrastive",), "state")


def test_a_video_that_does_not_decode_is_known_before_the_first_step(
    copy: Path, settings: Made
) -> None:
    (copy / "train/0-1.mp4").write_bytes(b"no video at all")
    run = settings(data=str(copy))
    with pytest.raises(EntracteError, match=r"0-1\.mp4 is no video"):
        tune(run)
    assert not Path(run.output).exists()


def test_too_little_memory_is_one_sentence_with_a_remedy(tiny: Path, settings: Made) -> None:
    full = settings(method="full", freeze_vision=False)
    whole = estimate_tuning(tiny, full, "float32", 4000, 10, 1)
    assert whole.learnt == whole.of and whole.learning == 12 * whole.of
    small = estimate_tuning(tiny, settings(), "float32", 4000, 10, 1)
    assert 0 < small.learnt < small.of and small.peak < whole.peak
    half = estimate_tuning(tiny, full, "float32", 4000, 10, 2)
    assert half.learning == whole.learning // 2
    with pytest.raises(EntracteError, match=r"won't fit into the GPU's memory.*try method: lora"):
        check_tuning_fits(whole, 1 << 20, "the GPU's memory", full)


def test_a_folder_of_another_training_is_left_alone(settings: Made) -> None:
    tune(settings(steps=1, every=1, validation_rows=1))
    with pytest.raises(EntracteError, match="other settings, data, checkpoint or processes"):
        tune(settings(steps=2, every=1, validation_rows=1))


def test_the_number_of_trained_weights_is_what_the_estimate_said(
    settings: Made, tiny: Path
) -> None:
    for changes in ({}, {"freeze_vision": False}, {"method": "full"}):
        run = settings(steps=1, every=1, batch=1, accumulate=1, validation_rows=1, **changes)
        tune(run)
        told = json.loads((Path(run.output) / "run.json").read_text())
        assert told["trained_numbers"] == estimate_tuning(tiny, run, "float32", 1, 1, 1).learnt
        shutil.rmtree(run.output)


def test_the_example_is_valid_and_a_wrong_key_is_named(data: Path, tmp_path: Path) -> None:
    own = [f"data={data}", f"output={tmp_path}"]
    assert read_settings(EXAMPLE, own).vlm.signals == ("roboreward",)
    for wrong, says in (
        ("lora.rnak=8", "did you mean 'rank'"),
        ("vlm.signals=[topreward]", "vlm.signals to learn"),
        ("vlm.quantize=int8", "vlm.quantize in a fine-tuning"),
        ("accumulate=0", "accumulate: expected 1 or more, found 0"),
    ):
        with pytest.raises(EntracteError, match=says.replace("[", r"\[")):
            read_settings(EXAMPLE, [*own, wrong])


def test_the_command_tells_edge_and_vision_language_training_apart(
    data: Path, tiny: Path, tmp_path: Path
) -> None:
    def called(*words: object) -> Exception | None:
        done = CliRunner().invoke(app, ["train", *map(str, words)])
        error = done.exception
        return error if isinstance(error, EntracteError) else None

    assert "--config" in str(called("--data", data, "--set", "a=1"))
    assert "--steps" in str(called("--config", EXAMPLE, "--steps", 3))
    assert "for the edge model" in str(called())
    small = (f"vlm.model={tiny}", "vlm.device=cpu", "steps=1", "accumulate=1", "precision=float32")
    words = [word for change in small for word in ("--set", change)]
    error = called("--config", EXAMPLE, "--data", data, "--output", tmp_path / "o", *words)
    assert error is None
    assert (tmp_path / "o" / "best" / "adapter_model.safetensors").is_file()
