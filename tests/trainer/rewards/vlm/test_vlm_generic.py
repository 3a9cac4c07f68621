"""A model of another class, through its own processor."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tiny_vlm import build_llava, some_video
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from contracts.errors import ConfigError, MissingDependency
from trainer.rewards.episodes import score_moments
from trainer.rewards.prompts import load_prompt
from trainer.rewards.vlm import generic, loading
from trainer.rewards.vlm.factory import probe
from trainer.rewards.vlm.generic import GenericEngine
from trainer.rewards.vlm.model import VlmReward

Judge = Callable[..., VlmReward]
TASK = "open the drawer"


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("other") / "llava")


def test_another_class_scores_as_its_own_forward_says(llava: Path, judge: Judge) -> None:
    model = judge(llava, signals=["completion"])
    found = model.score(some_video(3), TASK).completion
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(llava, use_fast=False)
    net = AutoModelForImageTextToText.from_pretrained(llava).eval()
    text = model.questions[0].text
    picture, question = text.fill(TASK).split("<CURRENT>\n")
    content = [
        {"type": "text", "text": picture},
        {"type": "image"},
        {"type": "text", "text": question},
    ]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    image = Image.fromarray(some_video(3).views["front"][-1])
    inputs = processor(images=[image], text=f"{rendered}DONE:", return_tensors="pt")
    with torch.inference_mode():
        logits = net(**inputs).logits[0, -1]
    first = [
        processor.tokenizer.encode(choice, add_special_tokens=False)[0]
        for choice in (" no", " yes")
    ]
    assert found == pytest.approx(float(torch.softmax(logits[first].double(), 0)[1]), abs=1e-5)


def test_another_class_batches_and_grows(llava: Path, judge: Judge) -> None:
    model = judge(llava, signals=["roboreward"])
    requests = [(some_video(n), TASK) for n in (2, 6)]
    before = model.engine.forwards
    batch = model.score_batch(requests)
    assert model.engine.forwards == before + 1
    alone = [model.score(*request) for request in requests]
    grown = [score_moments(model, video, TASK, [len(video) - 1])[0] for video, _ in requests]
    for signals in (alone, grown):
        np.testing.assert_allclose(
            [s.process for s in signals], [s.process for s in batch], atol=1e-5
        )
    assert not math.isclose(batch[0].process, batch[1].process, abs_tol=1e-4)


@pytest.mark.parametrize("keeps", [True, False])
def test_only_logits_that_are_read_are_made_where_the_class_can(
    llava: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch, keeps: bool
) -> None:
    model = judge(llava, signals=["roboreward"])
    requests = [(some_video(n), TASK) for n in (2, 6)]
    plain = [signal.process for signal in model.score_batch(requests)]
    shapes = []
    net = model.engine._model  # type: ignore[attr-defined]
    hook = net.register_forward_hook(lambda net, given, out: shapes.append(out.logits.shape[:2]))
    monkeypatch.setattr(generic, "keeps_logits", lambda kind: keeps)
    again = [signal.process for signal in model.score_batch(requests)]
    hook.remove()
    np.testing.assert_allclose(again, plain, atol=1e-5)
    assert len(shapes) == 1 and (shapes[0] == (2, 2)) is keeps


def test_logits_of_every_token_are_expected_of_classes_that_make_them() -> None:
    made = {
        kind: loading._every_logit(transformers, getattr(transformers, kind)())
        for kind in ("LlavaConfig", "Qwen2VLConfig", "Qwen3VLConfig")
    }
    assert made == {"LlavaConfig": False, "Qwen2VLConfig": True, "Qwen3VLConfig": False}


def test_a_config_that_leaves_its_class_the_defaults_is_measured(
    llava: Path, judge: Judge, tmp_path: Path
) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(llava, folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("num_attention_heads", "num_key_value_heads", "head_dim"):
        del config["text_config"][name]
    (folder / "config.json").write_text(json.dumps(config))
    assert not judge(folder).score(some_video(2), TASK).abstained


def test_a_text_begins_once(llava: Path, judge: Judge, tmp_path: Path) -> None:
    """A template that writes BOS before a tokenizer that adds one, as Gemma 3's and Llama 3.2's."""
    folder = tmp_path / "llava"
    shutil.copytree(llava, folder)
    path = folder / "tokenizer.json"
    cutter, begin = Tokenizer.from_file(str(path)), "<|endoftext|>"
    first = cutter.token_to_id(begin)
    cutter.post_processor = TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, first)]
    )
    cutter.save(str(path))
    path = folder / "tokenizer_config.json"
    own = {"bos_token": begin, "tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **own}))
    engine: Any = judge(folder).engine
    assert engine._tokenizer("hi").input_ids[0] == first
    path = folder / "chat_template.jinja"
    template = path.read_text()
    for begins, text in ((False, template), (True, "{{- bos_token -}}" + template)):
        path.write_text(text)
        engine = judge(folder).engine
        prompt = probe(load_prompt("completion"))
        rendered = engine._render(prompt)
        assert rendered.startswith(begin) is begins
        fed = engine._inputs([prompt], [rendered])["input_ids"][0].tolist()
        assert fed[0] == first and fed.count(first) == 1


def test_another_class_writes_its_answer(llava: Path, judge: Judge) -> None:
    signal = judge(llava, mode="generate").score(some_video(2), TASK)
    assert signal.abstained.startswith("unparsable answer")


def test_adapters_are_refused_where_they_cannot_be_proven(
    llava: Path, adapters: dict[str, str], judge: Judge
) -> None:
    with pytest.raises(ConfigError, match="llava"):
        judge(llava, signals=["progress"], adapters={"progress": adapters["progress"]})


def test_a_processor_without_its_library_is_one_sentence(qwen3: Path) -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependency, match="torchvision"):
            GenericEngine(None, qwen3)
    else:
        pytest.skip("torchvision is here")


def test_choices_that_begin_alike_are_refused_before_an_episode(
    llava: Path, judge: Judge, tmp_path: Path
) -> None:
    (tmp_path / "answers.yaml").write_text('progress: {answer: "LEVEL: ", choices: ["1", "10"]}\n')
    with pytest.raises(ConfigError, match=r"token of its own.*letters"):
        judge(llava, signals=["progress"], prompts=str(tmp_path))
