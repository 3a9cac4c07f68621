"""`VlmReward`: questions asked of a vision-language model about a video, and their answers as one signal.

Owns when it abstains and what its identity is. Knows no model class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import msgspec
import numpy as np

from contracts.choices import something_else
from contracts.errors import ConfigError, EntracteError
from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import Growing
from trainer.rewards.vlm import roboreward
from trainer.rewards.vlm.engine import Engine, Session
from trainer.rewards.vlm.question import Prompt, Question, Reading
from trainer.rewards.vlm.several import QuestionModel, ask_all, merged, refuse_twice, signals_of

_MOST_WORDS = 16
"""Tokens of a written answer: "ANSWER: 5" has four; more is no answer."""


@dataclass(frozen=True)
class Judging:
    """`least_mass`: probability on the choices below which an answer counts as none; `threshold` and
    `consecutive`: when completion means done; `written`: the model writes its score instead of being read."""

    least_mass: float = 0.05
    threshold: float = 0.5
    consecutive: int = 1
    written: bool = False


class VlmReward(QuestionModel):
    """`VideoRewardModel`, batched and growing. One thread at a time."""

    def __init__(
        self, engine: Engine, questions: Sequence[Question], weights: str, judging: Judging
    ) -> None:
        """`weights`: content hash of checkpoint and adapters, and how they were loaded. Raises `ConfigError`
        for no question, two that give the same signal, or written answers of anything but RoboReward."""
        refuse_twice(questions, "vlm")
        if judging.written and [type(q) for q in questions] != [roboreward.RoboReward]:
            raise ConfigError(
                "written answers",
                expected="signals: [roboreward]",
                found=[q.text.name for q in questions],
            )
        identity = _identity(questions, weights, judging)
        super().__init__(questions, identity, judging.threshold, judging.consecutive)
        self.engine, self._judging = engine, judging

    def score_batch(self, requests: Sequence[tuple[Video, str]]) -> list[RewardSignal]:
        """All questions about all requests in one padded forward pass."""
        return self._score(requests, self.engine)

    def grow(self, instruction: str) -> Growing:
        return _GrowingEpisode(self, self.engine.session(), instruction)

    def _score(
        self, requests: Sequence[tuple[Video, str]], answerer: Engine | Session
    ) -> list[RewardSignal]:
        asked, prompts = ask_all(self.questions, requests)
        if self._judging.written:
            return [self._written(r, a) for r, a in zip(requests, asked, strict=True)]
        answers = self._answers(prompts, answerer)
        return signals_of(requests, asked, answers, self._model_id, self._signal)

    def _answers(
        self, prompts: list[Prompt], answerer: Engine | Session
    ) -> Sequence[np.ndarray | str]:
        """Log-probabilities of each prompt's choices, or why it got none: one prompt that can't be laid out
        (an instruction with tokens of the model's in it) costs only its own request the answer."""
        try:
            return answerer.choose(prompts) if prompts else []
        except ConfigError:
            raise
        except EntracteError as error:
            if len(prompts) == 1:
                return [str(error)]
        return [answer for prompt in prompts for answer in self._answers([prompt], self.engine)]

    def _signal(self, step: int, rows: list[list[np.ndarray | str]]) -> RewardSignal:
        readings: list[Reading] = []
        for question, answers in zip(self.questions, rows, strict=True):
            name = question.text.name
            scores = []
            for answer in answers:
                if isinstance(answer, str):
                    return abstain(step, f"{name}: {answer}", self._model_id)
                if not np.isfinite(answer).all():
                    return abstain(
                        step, f"{name}: the model's logits are not finite", self._model_id
                    )
                reason = something_else(answer, self._judging.least_mass)
                if reason:
                    return abstain(step, f"{name}: {reason}", self._model_id)
                scores.append(answer)
            if scores:
                readings.append(question.read(scores))
        return merged(step, readings, self._model_id)

    def _written(
        self, request: tuple[Video, str], asked: list[list[Prompt]] | EntracteError
    ) -> RewardSignal:
        step = int(request[0].steps[-1])
        if isinstance(asked, EntracteError):
            return abstain(step, str(asked), self._model_id)
        try:
            answer = self.engine.complete(asked[0][0], _MOST_WORDS)
        except EntracteError as error:
            return abstain(step, str(error), self._model_id)
        score = roboreward.parse(answer)
        if score is None:
            return abstain(step, f"unparsable answer: {answer[:80]!r}", self._model_id)
        return merged(step, [roboreward.written(score)], self._model_id)


class _GrowingEpisode:
    """`Growing` of a `VlmReward`: the engine's session keeps what the episode's earlier moments cost."""

    def __init__(self, model: VlmReward, session: Session, instruction: str) -> None:
        self._model, self._session, self._instruction = model, session, instruction

    def see(self, video: Video) -> RewardSignal:
        return self._model._score([(video, self._instruction)], self._session)[0]


def _identity(questions: Sequence[Question], weights: str, judging: Judging) -> str:
    """Changes with checkpoint, prompt texts, frame contracts and what else changes a score, nothing else."""
    described: list[Mapping[str, object]] = [
        {
            "prompt": question.text.digest,
            "frames": msgspec.to_builtins(question.frames),
            "settings": dict(question.settings),
        }
        for question in questions
    ]
    whole = json.dumps([weights, described, asdict(judging)], sort_keys=True)
    return f"vlm-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
