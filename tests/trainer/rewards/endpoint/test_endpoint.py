"""The reward model `endpoint` over real HTTP: what it sends and reads, when it tries again or abstains."""

from __future__ import annotations

import base64
import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Asked, Chat, Reply, chatting, said
from tiny_video import some_episode, some_video

from contracts.errors import ConfigError, EntracteError
from contracts.images import decode_jpeg
from trainer.rewards import opening
from trainer.rewards.endpoint.factory import endpoint, make, read_options
from trainer.rewards.endpoint.model import EndpointReward
from trainer.rewards.episodes import OnEpisodes
from trainer.rewards.evaluation.models import video_models
from trainer.rewards.prompts import load_prompt
from trainer.scoring import Scorer

FOUR = {"4": 0.5, " 4": 0.1, "5": 0.2, "3": 0.1, "2": 0.06, "many": 0.04}
SCORED = said("ANSWER: 4", ("ANSWER", {"ANSWER": 0.9}), (": ", {": ": 0.9}), ("4", FOUR))


@contextmanager
def asking(answer: Any, **options: Any) -> Iterator[tuple[EndpointReward, Chat]]:
    with chatting(answer if callable(answer) else lambda _: answer) as chat:
        model = make(read_options({"url": chat.url, "model": "tiny", **options}))
        yield model, chat
        model.caller.close()


def test_the_score_is_the_expectation_over_the_listed_tokens() -> None:
    with asking(SCORED) as (model, _):
        signal = model.score(some_video(9), "open the drawer")
    shares = np.array([0.0, 0.06, 0.1, 0.6, 0.2]) / 0.96
    assert signal.score_distribution == pytest.approx(shares, abs=1e-9)
    assert signal.process == pytest.approx((shares @ np.arange(5)) / 4)
    assert signal.completion == pytest.approx(0.2 / 0.96)
    entropy = -sum(p * math.log(p) for p in shares if p) / math.log(5)
    assert signal.uncertainty == pytest.approx(1 - 0.96 * (1 - entropy))
    assert (signal.step, signal.model_id) == (40, model.model_id)


def test_it_sends_the_prompt_of_the_files_and_the_frames_of_the_contract() -> None:
    video = some_video(9)
    with asking(SCORED, jpeg_quality=95) as (model, chat):
        model.score(video, "open the drawer")
        body = chat.asked[0].body
    *pictures, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": load_prompt("roboreward").fill("open the drawer")}
    assert len(pictures) == 8, "2 Hz over four seconds, at most 8 of them"
    shown = model.contract.shown(video).views["front"]
    for picture, image in zip(pictures, shown, strict=True):
        kind, data = picture["image_url"]["url"].split(",")
        assert kind == "data:image/jpeg;base64"
        found = decode_jpeg(base64.b64decode(data)).astype(int)
        assert np.abs(found - image).mean() < 6
    assert (body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0.0)


def test_a_server_without_logprobs_is_read_by_its_words_from_then_on() -> None:
    def answer(asked: Asked) -> Reply | dict:
        if "logprobs" in asked.body:
            return Reply({"detail": "Unsupported fields: {'logprobs', 'top_logprobs'}"}, 422)
        return said("ANSWER: 2")

    with asking(answer) as (model, chat):
        first, *_ = (model.score(some_video(n), "open the drawer") for n in (4, 5, 6, 7, 8))
        assert ["logprobs" in asked.body for asked in chat.asked] == [True, False] * 3 + [False] * 2
    assert (first.process, first.completion) == (0.25, 0.0)
    assert math.isnan(first.uncertainty), "a written score comes without doubt"
    with asking(answer, logprobs="require") as (model, _):
        assert "422" in model.score(some_video(4), "open the drawer").abstained


def test_one_request_that_is_refused_does_not_cost_the_others_their_log_probabilities() -> None:
    """Servers repeat what they refuse, log-probabilities and all."""

    def answer(asked: Asked) -> Reply | dict:
        said_of = str(asked.body["messages"][0]["content"][-1])
        if "tray" in said_of or ("box" in said_of and "logprobs" in asked.body):
            shown = {name: value for name, value in asked.body.items() if name != "messages"}
            return Reply({"detail": "too long", "input": shown, "why": "logprobs"}, 422)
        return SCORED if "logprobs" in asked.body else said("ANSWER: 2")

    with asking(answer) as (model, _):
        for _ in range(5):
            refused = model.score(some_video(4), "open the tray")
        mixed = model.score_batch([(some_video(4), f"open the {it}") for it in ("drawer", "box")])
        after = model.score(some_video(4), "open the drawer")
    assert "too long" in refused.abstained
    assert [math.isnan(signal.uncertainty) for signal in (*mixed, after)] == [False, True, False]
    assert mixed[0].process == after.process > mixed[1].process


def test_a_person_is_told_at_once_that_no_server_is_there() -> None:
    with asking(SCORED) as (model, chat):
        opening.require_reachable(model)
        assert not chat.asked, "no question is asked, which may cost"
    lost = endpoint(options={"url": chat.url, "model": "tiny"})
    with pytest.raises(EntracteError, match=rf"no server at {chat.url}.*start it"):
        opening.require_reachable(lost)
    with pytest.raises(EntracteError, match="no server"):
        video_models([], ["endpoint"], {"url": chat.url, "model": "tiny"}, 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "ANSWER: 6",
        "ANSWER: 44",
        "ANSWER: 4 or 5",
        "answer: four",
        "I say ANSWER: 4",
        "ANSWER:",
    ],
)
def test_words_that_are_not_the_answer_abstain(text: str) -> None:
    with asking(said(text), logprobs="never") as (model, _):
        signal = model.score(some_video(4), "open the drawer")
        assert signal.abstained.startswith("roboreward: unparsable answer")
        assert math.isnan(signal.process) and math.isnan(signal.completion)
        assert model.caller.spent.failures == {"unparsable": 1}


def test_the_trainer_goes_on_where_a_model_writes_what_cannot_be_read() -> None:
    # An episode is asked about at its first and its last step.
    replies = iter([said("The drawer looks open to me.")] * 2 + [said("ANSWER: 5")] * 2)
    with asking(lambda _: next(replies), logprobs="never") as (model, _):
        scorer = Scorer(OnEpisodes(model, scores_per_s=0.0), timeout_s=20.0)
        silent, judged = (scorer.score(some_episode(9)) for _ in range(2))
    assert silent.success is None
    assert silent.signals[-1].abstained.startswith("roboreward: unparsable answer")
    assert math.isnan(silent.signals[-1].process)
    assert judged.signals[-1].process == 1.0
    assert not scorer.failures, "the model said itself that it can't say"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"<html>busy</html>", "unparsable reply"),
        (b'{"choices": []}', "unparsable reply: no choices"),
        (b'{"choices": [{"message": {"content": 4}}]}', "unparsable reply"),
        (b"[" * 100_000, "unparsable reply"),
        (b"x" * (5 << 20), "larger than any answer"),
        (said("ANSWER: 4", ("DONE: 4", {"DONE: 4": 0.9})), "tokens are not those of the text"),
        (said("ANSWER: 4", ("ANSWER: ", {"ANSWER: ": 0.9}), ("4", {"4": 3.0})), "log-probability"),
        (
            said("ANSWER: 4", ("ANSWER: ", {"ANSWER: ": 0.9}), ("4", {"4": 0.02, "x": 0.9})),
            "answers something else",
        ),
        ({"choices": [{"message": {"refusal": "I can't"}}]}, "refused by the model"),
        (SCORED["choices"][0], "unparsable reply"),
    ],
)
def test_replies_that_cannot_be_used_abstain(reply: Any, reason: str) -> None:
    with asking(reply) as (model, _):
        signal = model.score(some_video(4), "open the drawer")
    assert reason in signal.abstained and math.isnan(signal.process)


def test_busy_servers_are_asked_again_and_waited_for_as_long_as_they_say() -> None:
    times: list[float] = []

    def answer(_: Asked) -> Reply | dict:
        times.append(time.monotonic())
        if len(times) == 1:
            return Reply({"error": "slow down"}, 429, {"Retry-After": "0.4"})
        return Reply({"error": "restarting"}, 503) if len(times) == 2 else SCORED

    with asking(answer) as (model, _):
        signal = model.score(some_video(4), "open the drawer")
        spent = model.caller.spent
    assert not signal.abstained
    assert (spent.requests, spent.attempts, dict(spent.failures)) == (1, 3, {})
    waits = np.diff(times)
    assert 0.4 <= waits[0] < 0.6 and 0.5 <= waits[1] < 1.2, (
        "then twice as long, half of it by chance"
    )


@pytest.mark.parametrize("after", ["0", "-5", "Mon, 01 Jan 2024 00:00:00 GMT"])
def test_a_server_that_says_now_every_time_is_not_asked_without_end(after: str) -> None:
    busy = Reply({"error": "busy"}, 429, {"Retry-After": after})
    with asking(busy, deadline_s=0.6) as (model, chat):
        signals = model.score_batch([(some_video(4), "open the drawer")] * 4)
        assert len(chat.asked) <= 8, "at most twice in 0.6 s"
    assert all(signal.abstained.startswith("roboreward: timeout:") for signal in signals)


@pytest.mark.parametrize("count", [10**400, -1], ids=["no float", "negative"])
def test_tokens_that_can_not_be_counted_cost_one_reply_and_not_the_batch(count: int) -> None:
    def answer(asked: Asked) -> dict:
        tray = "tray" in str(asked.body["messages"][0]["content"][-1])
        return {**SCORED, "usage": {"prompt_tokens": count}} if tray else SCORED

    with asking(answer, prompt_price=1.0) as (model, _):
        found = model.score_batch([(some_video(4), f"open the {it}") for it in ("tray", "drawer")])
        assert model.caller.spent.prompt_tokens == 100
    assert found[0].abstained.startswith("roboreward: unparsable reply")
    assert not found[1].abstained


@pytest.mark.parametrize("kind", ["silent", "always busy", "come back tomorrow", "nobody there"])
def test_the_deadline_ends_it_whatever_the_server_does(kind: str) -> None:
    leave = threading.Event()

    def answer(_: Asked) -> Reply | dict:
        if kind == "silent":
            leave.wait(10)
        after = {"Retry-After": "86400"} if kind == "come back tomorrow" else {}
        return Reply({"error": "busy"}, 503, after)

    options = {"url": "http://127.0.0.1:1/v1"} if kind == "nobody there" else {}
    with asking(answer, deadline_s=0.7, **options) as (model, chat):
        started = time.monotonic()
        signal = model.score(some_video(4), "open the drawer")
        took_s = time.monotonic() - started
        leave.set()
        if kind == "come back tomorrow":
            assert took_s < 0.5 and len(chat.asked) == 1, "no use in waiting"
    assert took_s < 1.2
    assert signal.abstained.startswith("roboreward: timeout:") and math.isnan(signal.process)
    assert model.caller.spent.failures == {"timeout": 1}


def test_a_batch_is_under_way_at_once_up_to_the_limit() -> None:
    def answer(_: Asked) -> dict:
        time.sleep(0.1)
        return SCORED

    with asking(answer, at_once=4) as (model, chat):
        started = time.monotonic()
        signals = model.score_batch([(some_video(n + 4), "open the drawer") for n in range(12)])
        took_s = time.monotonic() - started
    assert chat.most == 4 and took_s < 0.9, "12 of 0.1 s each, four at a time"
    assert [s.step for s in signals] == [5 * (n + 3) for n in range(12)]


def test_one_late_answer_costs_only_its_own_video() -> None:
    def answer(asked: Asked) -> dict:
        if "tray" in str(asked.body["messages"][0]["content"][-1]):
            time.sleep(1.0)
        return SCORED

    with asking(answer, deadline_s=0.5) as (model, _):
        clips = [(some_video(4), f"open the {what}") for what in ("drawer", "tray", "box")]
        found = model.score_batch(clips)
    assert [bool(s.abstained) for s in found] == [False, True, False]


def test_tokens_and_cost_are_counted_and_the_budget_is_kept() -> None:
    prices = {"prompt_price": 1000.0, "completion_price": 10_000.0, "at_once": 1}
    with asking(SCORED, **prices, most_cost=0.3) as (model, chat):
        found = model.score_batch([(some_video(4), "open the drawer")] * 5)
        spent = model.caller.spent
        assert len(chat.asked) == 3, "0.14 each: the third goes over it, a fourth isn't asked"
    assert (spent.prompt_tokens, spent.completion_tokens) == (300, 12)
    assert spent.cost == pytest.approx(0.42)
    assert [s.abstained[:18] for s in found] == ["", "", "", *["roboreward: budget"] * 2]


def test_a_budget_that_can_not_be_counted_is_not_spent_unseen() -> None:
    silent = {**SCORED, "usage": None}
    with asking(silent, prompt_price=1.0, most_cost=1.0) as (model, _):
        assert "how many tokens" in model.score(some_video(4), "open the drawer").abstained
    with asking(silent, prompt_price=1.0) as (model, _):
        assert not model.score(some_video(4), "open the drawer").abstained


def test_the_key_goes_into_the_header_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-3d1c0ffee"
    file = tmp_path / "key"
    file.write_text(f"{secret}\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"), asking(SCORED, key_file=str(file)):
        pass
    file.chmod(0o600)
    monkeypatch.setenv("REWARD_KEY", secret)

    def answer(asked: Asked) -> Reply:
        return Reply({"error": f"bad key: {asked.headers['authorization']}"}, 401)

    caplog.set_level(logging.DEBUG)
    for where in ({"key_file": str(file)}, {"key_env": "REWARD_KEY"}):
        with asking(answer, **where) as (model, chat):
            signal = model.score(some_video(4), "open the drawer")
            assert chat.asked[0].headers["authorization"] == f"Bearer {secret}"
            assert len(chat.asked) == 1, "401 is not tried again"
            assert "refused: HTTP 401" in signal.abstained and "***" in signal.abstained
            shown = f"{vars(model)} {vars(model.caller)} {signal} {caplog.text}"
            assert secret not in shown and model.caller.spent.failures == {"refused": 1}
    with pytest.raises(ConfigError, match="plain http"):
        make(read_options({"url": "http://192.0.2.1/v1", "model": "m", "key_env": "REWARD_KEY"}))


def test_two_pictures_are_asked_about_in_both_orders_and_a_liking_for_one_place_cancels() -> None:
    shares = {" two": 0.7, " one": 0.3}
    biased = said("CLOSER: two", ("CLOSER:", {"CLOSER:": 1.0}), (" two", shares))
    with asking(biased, signals=("contrastive",)) as (model, chat):
        signal = model.score(some_video(9), "open the drawer")
        assert len(chat.asked) == 2
        first, second = (
            [p for p in a.body["messages"][0]["content"] if "url" in str(p)] for a in chat.asked
        )
    assert signal.contrastive == pytest.approx(0.0, abs=1e-9)
    assert first == second[::-1] and first[0] != first[1]


def test_a_log_probability_that_is_not_listed_is_no_progress() -> None:
    listed = said("True", ("True", {"True": 0.6, "False": 0.3}))
    with asking(listed, signals=("topreward",)) as (model, _):
        assert not model.score(some_video(4), "open the drawer").abstained
    for other in (said("False", ("False", {"False": 0.9, "maybe": 0.1})), said("True")):
        with asking(other, signals=("topreward",)) as (model, _):
            assert "lists no log-probability" in model.score(some_video(4), "open it").abstained


def test_options_that_cannot_be_are_refused() -> None:
    good = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    for wrong in (
        {"url": "127.0.0.1:1/v1"},
        {"url": "http://me:secret@127.0.0.1:1/v1"},
        {"top": 0},
        {"at_once": 0},
        {"extra": {"model": "other"}},
        {"models": "m"},
        {"key_env": "ENTRACTE_NO_SUCH_KEY"},
        {"logprobs": "never", "signals": ["topreward"]},
        {"signals": ["roboreward", "progress"]},
        {"most_cost": 1.0},
        {"prompt_price": -1.0},
    ):
        with pytest.raises(ConfigError):
            endpoint(options={**good, **wrong})
    with pytest.raises(ConfigError):
        endpoint(package=Path("x"), options=good)
    made = endpoint(options=good)
    assert made.model_id == endpoint(options={**good, "url": "http://127.0.0.1:2/v1"}).model_id
    assert made.model_id != endpoint(options={**good, "model": "n"}).model_id
