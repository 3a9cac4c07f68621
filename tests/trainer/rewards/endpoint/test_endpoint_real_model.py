"""The same questions to a real, tiny, random Qwen3-VL behind HTTP and at hand: the same answers."""

from __future__ import annotations

import base64
import re
import threading
from typing import Any

import numpy as np
import pytest
import torch
from chat_server import Asked, chatting
from tiny_video import some_video
from tiny_vlm import build_vlm

from contracts.frames import Video
from contracts.images import decode_jpeg, encode_jpeg
from trainer.rewards.endpoint.factory import make, read_options
from trainer.rewards.vlm.factory import make as make_vlm
from trainer.rewards.vlm.factory import read_options as read_vlm_options
from trainer.rewards.vlm.model import VlmReward
from trainer.rewards.vlm.question import Clip, Prompt

SIGNALS = ("progress", "completion", "contrastive")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> VlmReward:
    folder = build_vlm(tmp_path_factory.mktemp("vlm") / "qwen3")
    return make_vlm(read_vlm_options({"model": str(folder), "signals": SIGNALS, "least_mass": 0.0}))


class Served:
    """Answers chat completions with the model: the given beginning of the answer, then its own tokens."""

    def __init__(self, model: VlmReward) -> None:
        self._engine: Any = model.engine
        self._one_at_a_time = threading.Lock()

    def __call__(self, asked: Asked) -> dict[str, Any]:
        user, *rest = asked.body["messages"]
        parts = tuple(map(_part, user["content"]))
        begun = rest[0]["content"] if rest else ""
        with self._one_at_a_time:
            if not begun:
                text = self._engine.complete(
                    Prompt(parts, "", ("a", "b")), asked.body["max_tokens"]
                )
                return {"choices": [{"message": {"role": "assistant", "content": text}}]}
            choices = tuple(" " + c for c in _choices_of(begun))
            logits = self._engine.logits([Prompt(parts, begun, choices)])[0]
        listed = torch.log_softmax(logits.double(), -1).sort(descending=True)
        count = asked.body["top_logprobs"]
        top = [
            {"token": self._engine.layout.decode([token]), "logprob": value}
            for token, value in zip(
                listed.indices[:count].tolist(), listed.values.tolist(), strict=False
            )
        ]
        content = [{**top[0], "top_logprobs": top}]
        message = {"role": "assistant", "content": top[0]["token"]}
        return {"choices": [{"message": message, "logprobs": {"content": content}}]}


def _part(item: dict[str, Any]) -> str | Clip:
    if item["type"] == "text":
        return str(item["text"])
    image = decode_jpeg(base64.b64decode(item["image_url"]["url"].split(",")[1]))
    return Clip(image[None], np.zeros(1), video=False)


def _choices_of(begun: str) -> tuple[str, ...]:
    return {"LEVEL:": tuple("ABCDEFGHIJK"), "DONE:": ("no", "yes"), "CLOSER:": ("one", "two")}[
        begun
    ]


def through_jpeg(video: Video) -> Video:
    images = np.stack([decode_jpeg(encode_jpeg(i, 90)) for i in video.views["front"]])
    return Video({"front": images}, video.times_s, video.steps)


def at_hand(model: VlmReward, video: Video) -> dict[str, float]:
    """The signals from the model's own logits; whatever tokens say or begin one choice count for it."""
    engine: Any = model.engine
    fields: dict[str, float] = {}
    for question in model.questions:
        rows = []
        for prompt in question.ask(video, "open the drawer"):
            shares = torch.softmax(engine.logits([prompt])[0].double(), -1).tolist()
            sums = dict.fromkeys(prompt.choices, 0.0)
            for token, share in enumerate(shares):
                word = engine.layout.decode([token]).strip().rstrip(".")
                meant = [c for c in prompt.choices if word and c.startswith(word)]
                if len(meant) == 1:
                    sums[meant[0]] += share
            rows.append(np.log(list(sums.values())))
        fields |= question.read(rows).fields
    return fields


def test_three_signals_over_http_are_those_of_the_model_at_hand(local: VlmReward) -> None:
    videos = [some_video(frames) for frames in (5, 9)]
    direct = [at_hand(local, through_jpeg(video)) for video in videos]
    with chatting(Served(local)) as chat:
        model = make(
            read_options(
                {
                    **{"url": chat.url, "model": "tiny", "signals": SIGNALS, "top": 2000},
                    **{"deadline_s": 20, "force_answer": True, "least_mass": 0.0, "pixels": 0},
                }
            )
        )
        found = model.score_batch([(v, "open the drawer") for v in videos])
        assert len(chat.asked) == 8, "two videos, progress and completion once, contrastive twice"
        model.caller.close()
    for one, other in zip(found, direct, strict=True):
        assert not one.abstained and len(other) == 3
        for name, value in other.items():
            assert getattr(one, name) == pytest.approx(value, abs=1e-4), name
    assert found[0].process != pytest.approx(found[1].process, abs=1e-3), "it looks at the pictures"


def test_what_a_random_model_writes_by_itself_abstains(local: VlmReward) -> None:
    with chatting(Served(local)) as chat:
        model = make(
            read_options({"url": chat.url, "model": "tiny", "pixels": 0, "deadline_s": 20})
        )
        signal = model.score(some_video(5), "open the drawer")
        model.caller.close()
    assert re.match(r"roboreward: unparsable answer: .+", signal.abstained)
