"""Several questions about one moment: asked together, answered as one signal. Pure.

For whatever answers them: a model at hand (`trainer.rewards.vlm.model`) or a server
(`trainer.rewards.endpoint.model`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from contracts.errors import ConfigError, EntracteError
from contracts.frames import FrameContract, Video
from contracts.reward import RewardSignal, abstain
from trainer.rewards.vlm.question import Prompt, Question, Reading

LONGEST = 100_000
"""Frames of the longest episode that several questions, each with its own frames, may choose from."""
T = TypeVar("T")
Requests = Sequence[tuple[Video, str]]
Asked = Sequence["list[list[Prompt]] | EntracteError"]
"""One a request: each question's prompts, or why it can't be asked."""


class QuestionModel(ABC):
    """What a `VideoRewardModel` that asks questions is, whoever answers them; `score_batch` is its own."""

    def __init__(
        self, questions: Sequence[Question], model_id: str, threshold: float, consecutive: int
    ) -> None:
        self.questions, self._model_id = tuple(questions), model_id
        self._threshold, self._consecutive = threshold, consecutive

    @property
    def model_id(self) -> str:
        return self._model_id

    @property
    def contract(self) -> FrameContract:
        return frames_of(self.questions)

    @property
    def completion_threshold(self) -> float:
        return self._threshold

    @property
    def completion_consecutive(self) -> int:
        return self._consecutive

    def score(self, video: Video, instruction: str) -> RewardSignal:
        return self.score_batch([(video, instruction)])[0]

    @abstractmethod
    def score_batch(self, requests: Requests) -> list[RewardSignal]:
        """One signal a request, in their order."""


def refuse_twice(questions: Sequence[Question], model: str) -> None:
    """Raise `ConfigError` for no question, or two that give the same signal."""
    given = [name for question in questions for name in question.gives]
    if not questions or len(set(given)) < len(given):
        raise ConfigError(
            f"questions of the reward model '{model}'",
            expected="one or more, no two of which give the same signal",
            found={question.text.name: question.gives for question in questions},
        )


def frames_of(questions: Sequence[Question]) -> FrameContract:
    """The question's; of several, all frames that any of them may choose from."""
    frames = [question.frames for question in questions]
    if len(frames) == 1:
        return frames[0]
    fastest = max(frame.rate_hz for frame in frames)
    return FrameContract("append", fastest, 1, LONGEST, frames[0].cameras)


def ask_all(questions: Sequence[Question], requests: Requests) -> tuple[Asked, list[Prompt]]:
    """What is asked of each request, and all its prompts in order."""
    asked: list[list[list[Prompt]] | EntracteError] = []
    for video, instruction in requests:
        try:
            asked.append([question.ask(video, instruction) for question in questions])
        except EntracteError as error:
            asked.append(error)
    rows = [each for each in asked if not isinstance(each, EntracteError)]
    return asked, [prompt for each in rows for question in each for prompt in question]


def signals_of(
    requests: Requests,
    asked: Asked,
    answers: Iterable[T],
    model_id: str,
    signal: Callable[[int, list[list[T]]], RewardSignal],
) -> list[RewardSignal]:
    """One a request; `answers` are those of `ask_all`'s prompts, given to `signal` by step and question."""
    following = iter(answers)
    signals = []
    for (video, _), each in zip(requests, asked, strict=True):
        step = int(video.steps[-1])
        if isinstance(each, EntracteError):
            signals.append(abstain(step, str(each), model_id))
        else:
            rows = [[next(following) for _ in question] for question in each]
            signals.append(signal(step, rows))
    return signals


def merged(step: int, readings: Sequence[Reading], model_id: str) -> RewardSignal:
    """The readings of different questions as one signal; its uncertainty is the largest, NaN where one is."""
    fields = {k: v for reading in readings for k, v in reading.fields.items()}
    if not fields:
        return abstain(step, "nothing to compare with yet", model_id)
    doubts = [reading.uncertainty for reading in readings]
    return RewardSignal(
        step,
        score_distribution=next((r.distribution for r in readings if r.distribution), ()),
        uncertainty=math.nan if any(map(math.isnan, doubts)) else max(doubts),
        model_id=model_id,
        process=fields.get("process", math.nan),
        completion=fields.get("completion", math.nan),
        contrastive=fields.get("contrastive", math.nan),
    )
