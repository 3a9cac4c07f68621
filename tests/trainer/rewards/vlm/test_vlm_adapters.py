"""Three adapters on one base say what each says alone; one that isn't loaded is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_vlm import build_adapter, some_video

from contracts.errors import ConfigError, PackageError
from trainer.rewards.episodes import score_moments
from trainer.rewards.vlm.adapters import WEIGHTS
from trainer.rewards.vlm.model import VlmReward

Judge = Callable[..., VlmReward]
TASK = "open the drawer"
FIELD = {"progress": "process", "completion": "completion", "contrastive": "contrastive"}


def reference(folder: Path, adapter: str, signal: str, judge: Judge) -> float:
    """The signal from a model with the adapter merged into its weights: no peft left in it."""
    from peft import PeftModel

    model = judge(folder, signals=[signal])
    prompts = model.questions[0].ask(some_video(6), TASK)
    whole = PeftModel.from_pretrained(_whole(folder), adapter).merge_and_unload().eval()
    model.engine._parts, model.engine._head = whole.model, whole.lm_head  # type: ignore[attr-defined]
    answers = model.engine.choose(prompts)
    return float(model.questions[0].read(answers).fields[FIELD[signal]])


def _whole(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder)


def test_switched_and_batched_equal_separately_loaded(
    qwen3: Path, adapters: dict[str, str], judge: Judge
) -> None:
    together = judge(qwen3, signals=list(adapters), adapters=adapters)
    before = together.engine.forwards
    batched = together.score(some_video(6), TASK)
    assert together.engine.forwards == before + 1, "three adapters and the base's batch in one pass"
    plain = judge(qwen3, signals=list(adapters)).score(some_video(6), TASK)
    for question, (signal, folder) in zip(together.questions, adapters.items(), strict=True):
        alone = judge(qwen3, signals=[signal], adapters={signal: folder})
        expected = getattr(alone.score(some_video(6), TASK), FIELD[signal])
        merged = reference(qwen3, folder, signal, judge)
        prompts = question.ask(some_video(6), TASK)
        switched = question.read(together.engine.choose(prompts)).fields[FIELD[signal]]
        found = getattr(batched, FIELD[signal])
        np.testing.assert_allclose([found, switched, merged], expected, atol=1e-5)
        assert abs(found - getattr(plain, FIELD[signal])) > 1e-3, "an adapter that says as the base"


def test_adapters_in_a_growing_episode_score_as_alone(
    qwen3: Path, adapters: dict[str, str], judge: Judge
) -> None:
    model = judge(qwen3, signals=list(adapters), adapters=adapters)
    video = some_video(6)
    for row, signal in enumerate(score_moments(model, video, TASK, range(6))):
        model.engine.forget()
        expected = model.score(video.until(row), TASK)
        for field in FIELD.values():
            np.testing.assert_allclose(getattr(signal, field), getattr(expected, field), atol=1e-4)


def test_the_identity_changes_with_an_adapters_weights(
    qwen3: Path, adapters: dict[str, str], judge: Judge, tmp_path: Path
) -> None:
    other = build_adapter(qwen3, tmp_path / "other", 9)
    ids = {
        judge(qwen3, signals=["progress"], adapters={"progress": folder}).model_id
        for folder in (adapters["progress"], str(other))
    }
    assert len(ids | {judge(qwen3, signals=["progress"]).model_id}) == 3


def zeroed(path: Path) -> None:
    save_file({k: torch.zeros_like(v) for k, v in load_file(path).items()}, path)


def renamed(path: Path) -> None:
    tensors = load_file(path)
    save_file({k.replace("language_model", "text_model"): v for k, v in tensors.items()}, path)


def half_there(path: Path) -> None:
    save_file({k: v for k, v in load_file(path).items() if "layers.0" not in k}, path)


def poisoned(path: Path) -> None:
    tensors = load_file(path)
    next(iter(tensors.values()))[0] = torch.nan
    save_file(tensors, path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path) -> None:
    path.rename(path.with_suffix(".bin"))


def of_another_size(path: Path) -> None:
    save_file({k: torch.cat([v, v], dim=-1) for k, v in load_file(path).items()}, path)


def without_a_target(path: Path) -> None:
    config = path.with_name("adapter_config.json")
    settings = json.loads(config.read_text())
    config.write_text(json.dumps({**settings, "target_modules": ["no_such_layer"]}))


@pytest.mark.parametrize(
    "damage, says",
    [
        (zeroed, "changes nothing"),
        (renamed, "was not loaded"),
        (half_there, "was not loaded"),
        (poisoned, "not finite"),
        (cut_short, "corrupt"),
        (pickled, "safetensors"),
        (of_another_size, "won't load"),
        (without_a_target, "was not loaded"),
    ],
)
def test_an_adapter_that_is_not_in_effect_is_refused(
    qwen3: Path,
    adapters: dict[str, str],
    judge: Judge,
    tmp_path: Path,
    damage: Callable[[Path], None],
    says: str,
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(adapters["contrastive"], broken)
    damage(broken / WEIGHTS)
    with pytest.raises(PackageError, match=says) as refusal:
        judge(
            qwen3,
            signals=["progress", "contrastive"],
            adapters={"progress": adapters["progress"], "contrastive": str(broken)},
        )
    assert "contrastive" in str(refusal.value) or str(broken) in str(refusal.value)


def test_an_adapter_unloaded_after_loading_is_noticed(
    qwen3: Path, adapters: dict[str, str], judge: Judge
) -> None:
    model = judge(qwen3, signals=["progress"], adapters={"progress": adapters["progress"]})
    held = model.engine._adapters
    probe = model.questions[0].ask(some_video(3), TASK)[0]

    def answer(name: str) -> torch.Tensor:
        prompt = type(probe)(probe.parts, probe.answer, probe.choices, name)
        return model.engine.logits([prompt])[0]

    held.prove(answer)
    for layer in held._language:
        del layer.lora_A["progress"]
    with pytest.raises(PackageError, match="changes nothing"):
        held.prove(answer)


def test_an_adapter_belongs_to_a_signal_that_is_asked(qwen3: Path, judge: Judge) -> None:
    with pytest.raises(ConfigError, match="adapters of signals"):
        judge(qwen3, signals=["progress"], adapters={"completion": "x"})
