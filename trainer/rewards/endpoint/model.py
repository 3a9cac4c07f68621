"""`EndpointReward`: the questions of `vlm` put to a chat-completions server, their answers as one signal.

Owns when it abstains, and what its identity is. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from contracts.choices import something_else
from contracts.errors import ConfigError
from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.rewards.endpoint.caller import Caller
from trainer.rewards.endpoint.protocol import (
    Answered,
    Completion,
    read_answer,
    request_body,
)
from trainer.rewards.vlm.question import Prompt, Question, Reading
from trainer.rewards.vlm.several import QuestionModel, ask_all, merged, refuse_twice, signals_of
from trainer.rewards.vlm.topreward import TopReward

SURE_AFTER = 3
"""So many batches in a row must be answered only without log-probabilities until they are given up."""


@dataclass(frozen=True)
class Manner:
    """How it is asked and judged; all of it changes scores. `logprobs`: "auto" falls back to the written
    answer where the server has none (its signal then has no `uncertainty`), "require" abstains there, "never"
    reads the written answer. `top`: how many tokens' log-probabilities; `forced`: the answer's beginning is
    given (vLLM); `quality` of JPEGs; `least_mass`: probability on the choices below which an answer counts as
    none."""

    logprobs: Literal["auto", "require", "never"] = "auto"
    top: int = 20
    forced: bool = False
    quality: int = 90
    least_mass: float = 0.05
    threshold: float = 0.5
    consecutive: int = 1


class EndpointReward(QuestionModel):
    """`VideoRewardModel`, batched: all questions of a batch are under way at once.

    Its `model_id` is of the server's name of the model, prompts, frames and manner; not of where the server
    is. What the server runs under that name can't be seen from here."""

    def __init__(
        self, caller: Caller, model: str, questions: Sequence[Question], manner: Manner
    ) -> None:
        """`model`: the server's name of it. Raises `ConfigError` for no question, two that give the same
        signal, or `topreward` without log-probabilities."""
        refuse_twice(questions, "endpoint")
        if manner.logprobs == "never" and any(isinstance(q, TopReward) for q in questions):
            raise ConfigError(
                "signal 'topreward'", expected="logprobs: auto or require", found="never"
            )
        identity = _identity(model, questions, manner)
        super().__init__(questions, identity, manner.threshold, manner.consecutive)
        self.caller, self._model, self._manner = caller, model, manner
        self._listed = manner.logprobs != "never"
        self._in_vain = 0
        """Batches in a row that were answered only without log-probabilities."""

    def require_reachable(self) -> None:
        """Raises `EntracteError` where no server answers; asks for no score."""
        self.caller.require_reachable()

    def score_batch(self, requests: Sequence[tuple[Video, str]]) -> list[RewardSignal]:
        """Abstains for each that the server didn't answer in time, or not in the way that was asked for."""
        asked, prompts = ask_all(self.questions, requests)
        answers = self._answers(prompts)
        return signals_of(requests, asked, answers, self._model_id, self._signal)

    def _answers(self, prompts: Sequence[Prompt]) -> list[Answered | str]:
        replies = self._ask(prompts, self._listed)
        if self._listed and self._manner.logprobs == "auto":
            self._ask_again_without(prompts, replies)
        return [self._read(*pair) for pair in zip(replies, prompts, strict=True)]

    def _ask_again_without(
        self, prompts: Sequence[Prompt], replies: list[Completion | str]
    ) -> None:
        """Those that may have been refused for the log-probabilities. Only an answer without them shows it: a
        server that refuses a request for anything else may repeat all of it in its reason."""
        again = [row for row, reply in enumerate(replies) if _names_logprobs(reply)]
        if _answered(replies):
            self._in_vain = 0
        if not again:
            return
        found = self._ask([prompts[row] for row in again], listed=False)
        if _answered(found) and not _answered(replies):
            self._in_vain += 1
            self._listed = self._in_vain < SURE_AFTER
        for row, reply in zip(again, found, strict=True):
            replies[row] = reply

    def _ask(self, prompts: Sequence[Prompt], listed: bool) -> list[Completion | str]:
        manner = self._manner
        top = manner.top if listed else 0
        bodies: list[Mapping[str, Any]] = [
            request_body(self._model, prompt, top=top, forced=manner.forced, quality=manner.quality)
            for prompt in prompts
        ]
        return self.caller.ask(bodies)

    def _read(self, reply: Completion | str, prompt: Prompt) -> Answered | str:
        if isinstance(reply, str):
            return reply
        found = read_answer(reply, prompt, forced=self._manner.forced)
        if isinstance(found, str):
            self.caller.spent.failures[found.partition(" ")[0]] += 1
        elif found.written and self._manner.logprobs == "require":
            return "the server gives no log-probabilities"
        return found

    def _signal(self, step: int, rows: Sequence[Sequence[Answered | str]]) -> RewardSignal:
        readings: list[Reading] = []
        for question, answers in zip(self.questions, rows, strict=True):
            name = question.text.name
            scores = []
            for answer in answers:
                reason = answer if isinstance(answer, str) else self._doubtful(question, answer)
                if isinstance(answer, str) or reason:
                    return abstain(step, f"{name}: {reason}", self._model_id)
                scores.append(answer.log_probabilities)
            if scores:
                reading = question.read(scores)
                if any(isinstance(a, Answered) and a.written for a in answers):
                    # A written answer comes without doubt, so how much there was is unknown.
                    reading = replace(reading, uncertainty=math.nan)
                readings.append(reading)
        return merged(step, readings, self._model_id)

    def _doubtful(self, question: Question, answer: Answered) -> str:
        """Why an answer is none; "" for one that is."""
        if isinstance(question, TopReward) and (answer.written or answer.unlisted):
            # Its score is the log-probability itself: a bound on it is not one.
            return "the server lists no log-probability of one of the choices"
        return something_else(answer.log_probabilities, self._manner.least_mass)


def _answered(replies: Sequence[Completion | str]) -> bool:
    return any(isinstance(reply, Completion) for reply in replies)


def _names_logprobs(reply: Completion | str) -> bool:
    """The server refused the request and speaks of log-probabilities."""
    return isinstance(reply, str) and reply.startswith("refused: HTTP 4") and "logprobs" in reply


def _identity(model: str, questions: Sequence[Question], manner: Manner) -> str:
    described = [
        [question.text.digest, msgspec.to_builtins(question.frames), dict(question.settings)]
        for question in questions
    ]
    whole = json.dumps([model, described, vars(manner)], sort_keys=True)
    return f"endpoint-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
