"""What is learnt is what is asked later: tokens, positions and pixels of training against inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_vlm import ANYTHING, build_vlm

from trainer.rewards.tuning.network import open_layout
from trainer.rewards.tuning.order import Order, rate_at, steps_of
from trainer.rewards.tuning.rows import read_data
from trainer.rewards.tuning.sequences import Writer, answer_loss, predictions
from trainer.rewards.tuning.settings import TRAINABLE
from trainer.rewards.tuning.subjects import Subject
from trainer.rewards.tuning.validation import lay_out, scores_of
from trainer.rewards.vlm.factory import make, read_options
from trainer.rewards.vlm.loading import load


@pytest.fixture(scope="module", params=["qwen3_vl", "qwen2_5_vl"])
def asked(request: Any, tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Any]:
    """A reward model of all trainable signals but one of those with the same field, and the writer."""
    folder = build_vlm(tmp_path_factory.mktemp("asked") / "model", request.param)
    questions: dict[str, Any] = {}
    for signals in (("roboreward", "contrastive"), ("progress", "completion")):
        reward = make(
            read_options({"model": str(folder), "signals": signals, "device": "cpu", **ANYTHING})
        )
        questions |= dict(zip(signals, reward.questions, strict=True))
    layout, config = open_layout(folder)
    rows = {found.signal: found for found in read_data(data, TRAINABLE, "state").signals}
    return {
        "engine": reward.engine,
        "model": load(str(folder), device="cpu").model,
        "subjects": {name: Subject(name, question) for name, question in questions.items()},
        "writer": Writer(layout, folder, config),
        "rows": rows,
    }


@pytest.mark.parametrize("signal", TRAINABLE)
def test_tokens_that_are_learnt_are_those_that_are_asked(
    asked: dict[str, Any], signal: str
) -> None:
    subject, writer = asked["subjects"][signal], asked["writer"]
    layout = asked["engine"].layout
    for row in asked["rows"][signal].train[:5]:
        prompt = subject.prompts(row)[0]
        choice = subject.answer(row)
        laid = writer.answered(prompt, choice)
        question, _ = layout.text_and_grid(prompt)
        _, tokens = layout.lay_out(prompt)[0]
        assert laid.ids[: len(question)] == question
        assert laid.ids[len(question)] == tokens[choice]
        # Only the answer is learnt, and it is what a model that writes would have to write.
        answer = prompt.answer + prompt.choices[choice]
        assert layout._tokenizer.decode(laid.ids[-laid.answer :]) == answer + "<|im_end|>"
        before = layout._tokenizer.decode(laid.ids[: -laid.answer])
        assert before.endswith("<|im_start|>assistant\n")


def test_a_padded_mixed_batch_gives_the_log_probabilities_of_inference(
    asked: dict[str, Any],
) -> None:
    """Videos and pictures of all signals, asked by training's forward and by the reward model's engine."""
    for signal, subject in asked["subjects"].items():
        for index, row in enumerate(asked["rows"][signal].val[:2]):
            question = lay_out(asked["writer"], subject, row, index)
            with torch.no_grad():
                ours = scores_of(asked["model"], question, "cpu")
            theirs = asked["engine"].choose(subject.prompts(row))
            np.testing.assert_allclose(ours, theirs, atol=2e-4)
    first = [(s, asked["rows"][name].train[1]) for name, s in asked["subjects"].items()]
    laid = [asked["writer"].answered(s.prompts(row)[0], s.answer(row)) for s, row in first]
    with torch.no_grad():
        together = float(answer_loss(asked["model"], asked["writer"].collate(laid)))
        alone = [float(answer_loss(asked["model"], asked["writer"].collate([x]))) for x in laid]
    assert together == pytest.approx(sum(alone), rel=1e-4)


def test_only_the_answer_moves_the_loss(asked: dict[str, Any]) -> None:
    """The gradient of the logits is nowhere but at the answer's tokens; their number is the answer's."""
    subject = asked["subjects"]["completion"]
    row = asked["rows"]["completion"].train[0]
    laid = asked["writer"].answered(subject.prompts(row)[0], subject.answer(row))
    batch = asked["writer"].collate([laid])
    assert batch.targets.tolist() == laid.ids[-laid.answer :]
    with torch.no_grad():
        assert predictions(asked["model"], batch).shape[0] == laid.answer


@pytest.mark.parametrize("signal", TRAINABLE)
def test_right_answers_have_no_error_and_wrong_ones_all(asked: dict[str, Any], signal: str) -> None:
    subject, rows = asked["subjects"][signal], asked["rows"][signal].val
    choices = len(subject.question.text.choices)

    def answered(choice: int) -> float:
        sure = [np.log(np.full(choices, 1e-9)) for _ in range(2)]
        sure[0][choice] = sure[1][choices - 1 - choice] = 0.0
        return float(subject.read(sure if signal == "contrastive" else sure[:1]))

    labels = np.array([row.label for row in rows])
    right = np.array([answered(subject.answer(row)) for row in rows])
    wrong = np.array([answered(choices - 1 - subject.answer(row)) for row in rows])
    assert subject.error(subject.figure(labels, right)) == pytest.approx(0.0, abs=1e-6)
    assert subject.error(subject.figure(labels, wrong)) > 0.5


def test_every_row_comes_once_a_pass_and_signals_take_turns() -> None:
    order = Order([5, 3], seed=1)
    found = order.rows(0, 20)
    assert [signal for signal, _ in found] == [0, 1] * 10
    first = [row for signal, row in found if signal == 0]
    assert sorted(first[:5]) == sorted(first[5:]) == list(range(5)) and first[:5] != first[5:]
    assert Order([5, 3], seed=1).rows(7, 5) == found[7:12]
    assert Order([5, 3], seed=2).rows(0, 20) != found
    assert steps_of([5, 3], epochs=1, steps=0, rows_a_step=4) == 3


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    rates = [rate_at(step, 100, 0.1, 0.2) for step in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[10] == 1.0 and rates[55] == pytest.approx(0.6)
    assert rates[-1] == pytest.approx(0.2, abs=1e-3) and min(rates[10:]) > 0.2
