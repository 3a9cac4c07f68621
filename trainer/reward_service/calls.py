"""Asking a reward model so that nothing it does harms the server: it raises or says nonsense, one question
abstains with the reason. Owns what is kept of growing episodes, no thread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import (
    BatchedRewardModel,
    Growing,
    GrowingRewardModel,
    VideoRewardModel,
)
from trainer.plain import plain_signal

MAX_GROWING = 64
"""Growing episodes of one model that are kept; the longest unused is computed anew when asked about."""


@dataclass
class Said:
    """Answers in the order of the questions; `kinds`: "" for a value, else why there is none ("model": it
    abstained itself, "exception", "nan"). `passes`: calls of the model that it took."""

    signals: list[RewardSignal] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    passes: int = 0

    def add(self, signal: RewardSignal, kind: str) -> None:
        self.signals.append(signal)
        self.kinds.append(kind)


def score_all(model: VideoRewardModel, questions: Sequence[tuple[Video, str]]) -> Said:
    """One call where the model can; one by one where it can't, or where a batch failed: one bad video must
    not take the answers of the others with it."""
    said = Said()
    if isinstance(model, BatchedRewardModel) and len(questions) > 1:
        said.passes = 1
        try:
            signals = list(model.score_batch(questions))
        except Exception:  # whatever it does; each question then shows what it does by itself
            signals = []
        if len(signals) == len(questions):
            for (video, _), signal in zip(questions, signals, strict=True):
                said.add(*checked(signal, video, model.model_id))
            return said
    for video, instruction in questions:
        said.passes += 1
        try:
            signal = model.score(video, instruction)
        except Exception as error:  # whatever a model raises, it never becomes a 0
            said.add(*_failed(error, video, model.model_id))
            continue
        said.add(*checked(signal, video, model.model_id))
    return said


def checked(signal: object, video: Video, model_id: str) -> tuple[RewardSignal, str]:
    """The signal, in Python's own numbers, if it can be used, else one that abstains; and the kind as in
    `Said`."""
    step = int(video.steps[-1])
    if not isinstance(signal, RewardSignal):
        return abstain(step, f"nan: the model returned {type(signal).__name__}", model_id), "nan"
    try:
        signal = plain_signal(signal)
    except (TypeError, ValueError) as error:
        return abstain(step, f"nan: the model's output is no number: {error}", model_id), "nan"
    if signal.step != step:
        return abstain(step, f"nan: the model scored step {signal.step}", model_id), "nan"
    if signal.abstained:
        return signal, "model"
    if all(math.isnan(v) for v in (signal.process, signal.completion, signal.contrastive)):
        return abstain(step, "nan: the model's output is not finite", model_id), "nan"
    return signal, ""


def _failed(error: Exception, video: Video, model_id: str) -> tuple[RewardSignal, str]:
    reason = f"exception: {type(error).__name__}: {str(error)[:300]}"
    return abstain(int(video.steps[-1]), reason, model_id), "exception"


class GrowingQuestion(Protocol):
    """What `Growths` needs of a request; `growing`: content names of the video's frames."""

    client: bytes
    session: str
    instruction: str
    video: Video
    growing: tuple[bytes, ...]


@dataclass
class _Growth:
    growing: Growing
    seen: tuple[bytes, ...] = ()


class Growths:
    """What a model keeps of episodes that go on. Used by the model's thread."""

    def __init__(self, model: VideoRewardModel) -> None:
        self._model = model
        self._kept: OrderedDict[tuple[bytes, str, str], _Growth] = OrderedDict()

    @property
    def possible(self) -> bool:
        return isinstance(self._model, GrowingRewardModel)

    def __len__(self) -> int:
        return len(self._kept)

    def see(self, question: GrowingQuestion) -> Said:
        """From what is kept where the video only adds to it, else from the start."""
        model = self._model
        assert isinstance(model, GrowingRewardModel)
        said, video = Said(passes=1), question.video
        key = (question.client, question.session, question.instruction)
        growth = self._kept.pop(key, None)
        try:
            if growth is None or question.growing[: len(growth.seen)] != growth.seen:
                growth = _Growth(model.grow(question.instruction))
            signal = growth.growing.see(video)
        except Exception as error:  # what was kept may be half-changed: it goes
            said.add(*_failed(error, video, self._model.model_id))
            return said
        growth.seen = question.growing
        self._kept[key] = growth
        if len(self._kept) > MAX_GROWING:
            self._kept.popitem(last=False)
        said.add(*checked(signal, video, self._model.model_id))
        return said

    def forget(self, client: bytes, session: str) -> None:
        for key in [key for key in self._kept if key[:2] == (client, session)]:
            del self._kept[key]
