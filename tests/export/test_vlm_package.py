"""A vision-language package on engines against the trainer's torch backend: same frames, same answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_smolvlm import build_smolvlm
from tiny_vlm import ANYTHING, build_vlm, some_video

from contracts.files.packages import Package
from contracts.frames import Video
from export.vlm import VlmOptions, export_vlm
from runtime.engines import EngineOptions
from runtime.models.vlm import open_scorer
from trainer.rewards.prompts import load_prompt
from trainer.rewards.vlm.asking import Asking
from trainer.rewards.vlm.factory import make, read_options

TASKS = ("open the drawer", "put the cup on the tray")
SIGNALS = ("roboreward", "contrastive")
PIXELS = 64 * 48
SIZE = (80, 60)


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def exported(
    request: pytest.FixtureRequest,
    recorded_pictures: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Package]:
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint = build_vlm(folder / "checkpoint", request.param)
    asking = Asking(signals=SIGNALS, least_mass=0.0)
    options = VlmOptions(TASKS, camera_size=SIZE, pixels=PIXELS, asking=asking)
    return checkpoint, export_vlm(str(checkpoint), recorded_pictures, folder / "package", options)


def moments(rate_hz: float, count: int) -> Video:
    return some_video(count, rate_hz=rate_hz, width=SIZE[0], height=SIZE[1])


def test_same_frames_and_instruction_give_the_trainers_scores(
    exported: tuple[Path, Package],
) -> None:
    checkpoint, package = exported
    options = {
        "model": str(checkpoint),
        "pixels": PIXELS,
        "signals": list(SIGNALS),
        "dtype": "float32",
    }
    reference = make(read_options({**options, **ANYTHING}))
    scorer = open_scorer(package, EngineOptions())
    for video in (moments(2.0, 8), moments(7.3, 5), moments(0.7, 12)):
        for task in TASKS:
            wanted, found = reference.score(video, task), scorer.score(video, task)
            assert not wanted.abstained and not found.abstained, found.abstained
            near = pytest.approx(np.array(wanted.score_distribution), abs=1e-4)
            assert np.array(found.score_distribution) == near
            for name in ("process", "completion", "contrastive", "uncertainty"):
                assert getattr(found, name) == pytest.approx(getattr(wanted, name), abs=1e-4), name
    scorer.close()


def test_smolvlm_scores_as_transformers_own_forward(
    recorded_pictures: Path, tmp_path: Path
) -> None:
    """The trainer reads SmolVLM through its AutoProcessor, which needs torchvision, so the reference here is
    the model class itself on a prompt written out by hand."""
    checkpoint = build_smolvlm(tmp_path / "checkpoint")
    asking = Asking(most_frames=4, least_mass=0.0)
    options = VlmOptions(TASKS, camera_size=SIZE, asking=asking)
    package = export_vlm(str(checkpoint), recorded_pictures, tmp_path / "package", options)
    scorer = open_scorer(package, EngineOptions())
    video = moments(2.0, 4)
    wanted = _smolvlm_scores(checkpoint, video.views["front"], TASKS[1])
    found = scorer.score(video, TASKS[1])
    assert np.array(found.score_distribution) == pytest.approx(wanted, abs=1e-4), found.abstained
    scorer.close()


def _smolvlm_scores(checkpoint: Path, images: np.ndarray, task: str) -> np.ndarray:
    model = transformers.SmolVLMForConditionalGeneration.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    text = load_prompt("roboreward")
    vectors = model.model.image_seq_len
    picture = f"<fake_token_around_image><global-img>{'<image>' * vectors}<fake_token_around_image>"
    asked = f"<|im_start|>user\n{picture * len(images)}{text.fill(task)}<|im_end|>\n"
    forced = f"{asked}<|im_start|>assistant\n{text.answer}"
    whole = [tokenizer.encode(forced + c, add_special_tokens=False) for c in text.choices]
    # One token a choice in this tokenizer: all but the last is the same.
    ids, choices = whole[0][:-1], [tokens[-1] for tokens in whole]
    assert all(tokens[:-1] == ids for tokens in whole)
    small = [Image.fromarray(i).resize((32, 32), Image.Resampling.LANCZOS) for i in images]
    pixels = torch.tensor(np.stack([np.asarray(i) for i in small])).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels[None]).logits[0, -1]
    return logits[choices].softmax(0).double().numpy()


def test_an_instruction_without_tokens_or_a_broken_engine_abstains(
    exported: tuple[Path, Package],
) -> None:
    scorer = open_scorer(exported[1], EngineOptions())
    video = moments(2.0, 6)
    other = scorer.score(video, "dance")
    assert "'dance' is not in the package" in other.abstained and np.isnan(other.process)
    wide = some_video(6, width=120, height=40)
    assert "would be shown as" in scorer.score(wide, TASKS[0]).abstained
    scorer.close()
    assert "closed" in scorer.score(video, TASKS[0]).abstained


def test_frames_already_seen_are_not_looked_at_again(
    exported: tuple[Path, Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = open_scorer(exported[1], EngineOptions())
    looked: list[int] = []
    run = scorer._vision.run
    monkeypatch.setattr(scorer._vision, "run", lambda inputs: looked.append(1) or run(inputs))
    first = scorer.score(moments(2.0, 6), TASKS[0])
    count = len(looked)
    again = scorer.score(moments(2.0, 6), TASKS[1])
    assert len(looked) == count > 0 and first.process != again.process
    scorer.close()


def test_without_the_sum_over_the_vocabulary_the_distribution_is_the_same(
    exported: tuple[Path, Package], recorded_pictures: Path, tmp_path: Path
) -> None:
    checkpoint, package = exported
    asking = Asking(signals=SIGNALS, least_mass=0.0)
    options = VlmOptions(TASKS, camera_size=SIZE, pixels=PIXELS, asking=asking, normaliser=False)
    small = export_vlm(str(checkpoint), recorded_pictures, tmp_path / "small", options)
    assert small.manifest.vlm is not None and not small.manifest.vlm.normaliser
    with_sum, without = (open_scorer(one, EngineOptions()) for one in (package, small))
    video = moments(2.0, 8)
    wanted, found = (one.score(video, TASKS[0]) for one in (with_sum, without))
    assert found.score_distribution == pytest.approx(wanted.score_distribution, abs=1e-6)
    assert found.uncertainty <= wanted.uncertainty, "what isn't summed can't be doubted"
