"""One prefill says what generation would; batches and growing episodes too; what isn't sound abstains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_vlm import some_video

from contracts.choices import doubt
from contracts.errors import ConfigError
from contracts.reward import RewardSignal
from trainer.rewards.episodes import score_moments
from trainer.rewards.prompts import load_prompt
from trainer.rewards.vlm import roboreward
from trainer.rewards.vlm.model import VlmReward
from trainer.rewards.vlm.question import Prompt
from trainer.rewards.vlm.topreward import TopReward, top_of

Judge = Callable[..., VlmReward]
TASK = "open the drawer"
LRM = ["progress", "completion", "contrastive"]


def values(signal: RewardSignal) -> list[float]:
    return [signal.process, signal.completion, signal.contrastive, signal.uncertainty]


def close(found: RewardSignal, expected: RewardSignal, tolerance: float) -> None:
    assert (found.abstained, found.step) == (expected.abstained, expected.step)
    np.testing.assert_allclose(values(found), values(expected), atol=tolerance)


@pytest.mark.parametrize("frames", [8, 7])
def test_one_prefill_equals_generation_step_by_step(
    checkpoint: Path, judge: Judge, frames: int
) -> None:
    """Against transformers' `generate` with its own pixels path, positions and cache, one token at a time."""
    model = judge(checkpoint)
    found = model.score(some_video(frames), TASK)
    layout = model.engine.layout
    prompt = model.questions[0].ask(some_video(frames), TASK)[0]
    ids, grids = layout.text_and_grid(prompt)
    begin, choices = layout.unanswered(prompt), list(layout.lay_out(prompt)[0][1])
    count = sum(len(segment.ids) for segment in begin)
    forced = [*ids[count:], choices[0]]
    pixels = np.concatenate([layout.pixels(s) for s in begin if s.images is not None])
    from transformers import AutoModelForImageTextToText

    theirs = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    extra = {"second_per_grid_ts": torch.tensor([1.0])} if "qwen25" in str(checkpoint) else {}
    output = theirs.generate(
        input_ids=torch.tensor([ids[:count]]),
        attention_mask=torch.ones(1, count, dtype=torch.long),
        pixel_values_videos=torch.from_numpy(pixels),
        video_grid_thw=torch.tensor(grids),
        max_new_tokens=len(forced),
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, seen: [forced[len(seen) - count]],
        output_logits=True,
        return_dict_in_generate=True,
        **extra,
    )
    assert output.sequences[0, count:].tolist() == forced
    logits = output.logits[-1][0, choices].double()
    shares = torch.softmax(logits, 0).numpy()
    expected = float(shares @ np.arange(1, 6))
    assert 1 + 4 * found.process == pytest.approx(expected, abs=1e-4)
    np.testing.assert_allclose(found.score_distribution, shares, atol=1e-4)
    assert shares.max() - shares.min() > 0.05, (
        "the model must tell the scores apart for this to mean anything"
    )


@pytest.mark.parametrize(
    "signals", [["roboreward"], ["topreward"], LRM, ["roboreward", "contrastive"]]
)
def test_a_padded_batch_is_one_forward_pass_and_says_the_same(
    qwen3: Path, judge: Judge, signals: list[str]
) -> None:
    model = judge(qwen3, signals=signals)
    requests = [
        (some_video(n), t) for n, t in ((3, TASK), (8, "put the cup on the tray"), (5, TASK))
    ]
    before = model.engine.forwards
    batch = model.score_batch(requests)
    assert model.engine.forwards == before + 1
    for signal, request in zip(batch, requests, strict=True):
        close(signal, model.score(*request), 1e-5)
    assert len({tuple(values(signal)) for signal in batch}) == 3


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("signals", [["roboreward"], ["topreward"], LRM])
def test_a_growing_episode_scores_as_each_prefix_alone(
    checkpoint: Path, judge: Judge, signals: list[str], text_first: bool
) -> None:
    whole = signals == ["roboreward"] and not text_first and "qwen3" in str(checkpoint)
    frames = 40 if whole else 7
    options = {"layout": "append", "most_frames": 60, "pixels": 32 * 32, "text_first": text_first}
    model = judge(checkpoint, signals=signals, **options)
    video = some_video(frames)
    growing = score_moments(model, video, TASK, range(frames))
    seen = []
    for row, signal in enumerate(growing):
        model.engine.forget()
        close(signal, model.score(video.until(row), TASK), 1e-3)
        seen.append(tuple(values(signal)))
    assert len(set(seen)) > frames // 2


def test_a_growing_episode_runs_only_what_is_new(qwen3: Path, judge: Judge) -> None:
    model = judge(qwen3, layout="append", most_frames=60, pixels=32 * 32, text_first=True)
    run: list[int] = []
    language = model.engine._parts.language_model
    language.register_forward_pre_hook(
        lambda _, args, kwargs: run.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    score_moments(model, some_video(20), TASK, range(20))
    # A temporal patch of 4 tokens in its block with its time, and the short tail up to the score.
    assert run[0] > 150
    assert max(run[1:]) < 40


def test_more_frames_than_allowed_fall_back_to_rescoring(qwen3: Path, judge: Judge) -> None:
    model = judge(qwen3, layout="append", most_frames=6, pixels=32 * 32)
    video = some_video(12)
    for row, signal in enumerate(score_moments(model, video, TASK, range(12))):
        close(signal, model.score(video.until(row), TASK), 1e-5)


def test_written_answers_are_parsed_strictly() -> None:
    assert roboreward.parse("ANSWER: 4") == 4
    assert roboreward.parse(" ANSWER:4.\n") == 4
    for wrong in ("4", "ANSWER: 6", "ANSWER: 0", "answer is 5", "ANSWER: 4 or 5", "ANSWER: 45", ""):
        assert roboreward.parse(wrong) is None, wrong


def test_an_answer_that_is_no_score_abstains(
    qwen3: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = judge(qwen3, mode="generate")
    signal = model.score(some_video(4), TASK)
    assert signal.abstained.startswith("unparsable answer: ")
    assert math.isnan(signal.process)
    assert math.isnan(signal.completion)
    monkeypatch.setattr(model.engine, "complete", lambda prompt, most: "ANSWER: 4")
    signal = model.score(some_video(4), TASK)
    assert (signal.process, signal.completion) == (0.75, 0.0)
    assert signal.score_distribution == (0.0, 0.0, 0.0, 1.0, 0.0)


def test_what_it_writes_is_its_likeliest_token_each_time(checkpoint: Path, judge: Judge) -> None:
    from transformers import AutoModelForImageTextToText

    model = judge(checkpoint, mode="generate")
    prompt = model.questions[0].ask(some_video(6), TASK)[0]
    layout = model.engine.layout
    begin = layout.unanswered(prompt)
    _, grids = layout.text_and_grid(prompt)
    ids = [token for segment in begin for token in segment.ids]
    theirs = AutoModelForImageTextToText.from_pretrained(checkpoint).eval()
    extra = {"second_per_grid_ts": torch.tensor([1.0])} if "qwen25" in str(checkpoint) else {}
    output = theirs.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixel_values_videos=torch.from_numpy(
            np.concatenate([layout.pixels(s) for s in begin if s.images is not None])
        ),
        video_grid_thw=torch.tensor(grids),
        max_new_tokens=8,
        do_sample=False,
        **extra,
    )
    expected = model.engine.layout.decode(output[0, len(ids) :].tolist())
    assert model.engine.complete(prompt, 8) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_abstain(qwen3: Path, judge: Judge, bad: float) -> None:
    model = judge(qwen3, signals=LRM)
    with torch.no_grad():
        model.engine._head.weight[5, 0] = bad
    for signal in (model.score(some_video(4), TASK), model.grow(TASK).see(some_video(4))):
        assert "not finite" in signal.abstained
        assert math.isnan(signal.process)
        assert signal.model_id == model.model_id


def test_a_model_that_would_say_something_else_abstains(qwen3: Path, judge: Judge) -> None:
    signal = judge(qwen3, least_mass=0.9).score(some_video(4), TASK)
    assert "answers something else" in signal.abstained


def test_swapping_the_pictures_changes_the_sign_alone(qwen3: Path, judge: Judge) -> None:
    model = judge(qwen3, signals=["contrastive"])
    question = model.questions[0]
    video = some_video(6)
    forth, back = question.ask(video, TASK)[0], question.ask(video, TASK)[1]
    there = question.read(model.engine.choose([forth, back])).fields["contrastive"]
    again = question.read(model.engine.choose([back, forth])).fields["contrastive"]
    assert there == pytest.approx(-again, abs=1e-6)
    assert abs(there) > 1e-3
    assert "nothing to compare" in model.score(video.until(0), TASK).abstained


def test_topreward_needs_nothing_of_the_future() -> None:
    text = load_prompt("topreward")
    from contracts.frames import FrameContract

    question = TopReward(text, FrameContract("append", most=40), top=-0.5)

    def process(now: float, start: float) -> float:
        rows = [np.array([math.log(-math.expm1(v)), v]) for v in (now, start)]
        return question.read(rows).fields["process"]

    assert process(-2.5, -2.5) == 0.0
    assert process(-1.5, -2.5) == pytest.approx(0.5)
    assert process(-0.1, -2.5) == 1.0
    assert process(-0.2, -0.2) == 1.0, "it began where finished episodes end"
    assert top_of([-0.4, -0.6, -9.0]) == -0.6
    with pytest.raises(ConfigError, match="log-probability"):
        TopReward(text, FrameContract(), top=0.5)


def test_choices_of_several_tokens_are_read_in_one_pass(qwen3: Path, judge: Judge) -> None:
    model = judge(qwen3, signals=["progress"])
    asked = model.questions[0].ask(some_video(4), TASK)[0]
    levels = (*(f"0.{k}" for k in range(10)), "1.0")

    def read(answer: str, choices: tuple[str, ...]) -> np.ndarray:
        return model.engine.choose([Prompt(asked.parts, answer, choices)])[0]

    before = model.engine.forwards
    found = read("LEVEL: ", levels)
    assert model.engine.forwards == before + 1
    grown = model.engine.session().choose([Prompt(asked.parts, "LEVEL: ", levels)])[0]
    # The chain rule, a token at a time.
    first, tenths = read("LEVEL: ", ("0", "1")), read("LEVEL: 0.", tuple("0123456789"))
    tenths -= np.log(np.exp(tenths).sum())
    for scores in (found, grown):
        np.testing.assert_allclose(scores, [*(first[0] + tenths), first[1]], atol=1e-5)
    # One choice that another begins with: they part where it ends its turn.
    one, ten = read("LEVEL: ", ("1", "10"))
    assert ten == pytest.approx(read("LEVEL: 1", ("0", "2"))[0], abs=1e-5)
    assert one != ten


def test_doubt_is_none_for_one_sure_choice_and_full_for_none() -> None:
    assert doubt(np.log([1 - 4e-9, 1e-9, 1e-9, 1e-9, 1e-9])) == pytest.approx(0.0, abs=1e-6)
    assert doubt(np.log(np.full(5, 0.2))) == pytest.approx(1.0)
    assert doubt(np.log([1e-6, 1e-12])) == pytest.approx(1.0, abs=1e-5)


def test_two_questions_may_not_give_the_same_signal(qwen3: Path, judge: Judge) -> None:
    with pytest.raises(ConfigError, match="same signal"):
        judge(qwen3, signals=["roboreward", "progress"])


def test_the_identity_changes_with_prompt_frames_and_settings_alone(
    qwen3: Path, judge: Judge, tmp_path: Path
) -> None:
    text = load_prompt("completion").text
    (tmp_path / "completion.txt").write_text(text.replace("finished", "done"))
    ids = [
        judge(qwen3, signals=["completion"]).model_id,
        judge(qwen3, signals=["completion"], prompts=str(tmp_path)).model_id,
        judge(qwen3, signals=["completion"], pixels=4096).model_id,
        judge(qwen3, signals=["contrastive"]).model_id,
        judge(qwen3, signals=["contrastive"], earlier_s=1.0).model_id,
    ]
    assert len(set(ids)) == len(ids)
    assert judge(qwen3, signals=["completion"], threads=1).model_id == ids[0]


def test_several_cameras_stand_side_by_side(qwen3: Path, judge: Judge) -> None:
    from contracts.frames import Video

    front, wrist = some_video(4), some_video(4, width=32, height=24)
    both = Video({**front.views, "wrist": wrist.views["front"]}, front.times_s, front.steps)
    model = judge(qwen3, cameras=["wrist", "front"], pixels=4096)
    clip = model.questions[0].ask(both, TASK)[0].parts[0]
    assert clip.images.shape == (4, 24, 64, 3)  # type: ignore[union-attr]
    assert clip.size == (64, 32)  # type: ignore[union-attr]
    one = judge(qwen3, cameras=["front"], pixels=4096)
    assert model.score(both, TASK).process != one.score(both, TASK).process
