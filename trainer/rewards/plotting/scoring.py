"""Scores a video as it would be seen online: each moment from the frames up to it. Draws nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.frames import Video
from contracts.reward import RewardSignal, abstain
from trainer.interfaces import BatchedRewardModel, GrowingRewardModel, VideoRewardModel
from trainer.judgement import judge

SIGNALS = ("process", "completion", "contrastive")


@dataclass(frozen=True)
class Scores:
    """Of one video under one instruction. `times_s` float64[M] and `signals` of the moments scored;
    `called[m]`: whether the episode would be labelled a success had it ended there (None: can't say)."""

    times_s: np.ndarray
    signals: tuple[RewardSignal, ...]
    called: tuple[bool | None, ...]
    model_id: str
    threshold: float
    consecutive: int

    def values(self, name: str) -> np.ndarray:
        """float64[M] of one of `SIGNALS` or "uncertainty"; NaN where there is none."""
        return np.array([getattr(signal, name) for signal in self.signals], np.float64)

    @property
    def distribution(self) -> np.ndarray | None:
        """float64[M, 5] probabilities of the scores 1 to 5 (NaN where abstained), where the model gives
        them."""
        given = [signal.score_distribution for signal in self.signals]
        if not any(given):
            return None
        return np.array([d or (math.nan,) * 5 for d in given], np.float64)

    @property
    def abstained(self) -> Counter[str]:
        """Why, without the figures of the moment, and how often; the most frequent first."""
        reasons = Counter(reason_of(s) for s in self.signals if s.abstained)
        return Counter(dict(reasons.most_common()))

    @property
    def first_called_s(self) -> float | None:
        """When success would have been called first."""
        return next((float(t) for t, c in zip(self.times_s, self.called, strict=True) if c), None)

    def gives(self, name: str) -> bool:
        """Whether the model gives this signal, as far as it can be known here."""
        said = [s for s in self.signals if not s.abstained]
        return not said or any(not math.isnan(getattr(s, name)) for s in said)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; NaN becomes null."""
        rows = [
            {
                "time_s": round(float(time_s), 4),
                **{n: _finite(getattr(s, n)) for n in (*SIGNALS, "uncertainty")},
                "score_distribution": list(s.score_distribution),
                "abstained": s.abstained,
                "called": called,
            }
            for time_s, s, called in zip(self.times_s, self.signals, self.called, strict=True)
        ]
        return {
            "model_id": self.model_id,
            "completion_threshold": self.threshold,
            "completion_consecutive": self.consecutive,
            "first_called_s": self.first_called_s,
            "success_at_end": self.called[-1],
            "moments": rows,
        }


def reason_of(signal: RewardSignal) -> str:
    """Why it abstained, without the figures in brackets: "outside the model's ground"."""
    return signal.abstained.split(" (")[0].strip()


def score_online(
    model: VideoRewardModel,
    video: Video,
    instruction: str,
    rows: Sequence[int],
    *,
    batch: int = 8,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """A model that raises abstains for the moments that it was asked about. `batch`: most moments in one
    call of a model that takes several; `report(done, total)` after each call."""
    signals: list[RewardSignal] = []
    for found in _calls(model, video, instruction, rows, batch):
        signals += found
        report(len(signals), len(rows))
    threshold, consecutive = model.completion_threshold, model.completion_consecutive
    called = [judge(signals[: n + 1], threshold, consecutive) for n in range(len(signals))]
    return Scores(
        video.times_s[np.array(rows)],
        tuple(signals),
        tuple(called),
        model.model_id,
        threshold,
        consecutive,
    )


def _calls(
    model: VideoRewardModel, video: Video, instruction: str, rows: Sequence[int], batch: int
) -> Iterator[list[RewardSignal]]:
    growing = model.grow(instruction) if isinstance(model, GrowingRewardModel) else None
    at_once = batch if growing is None and isinstance(model, BatchedRewardModel) else 1

    def ask(seen: list[Video]) -> list[RewardSignal]:
        if growing is not None:
            return [growing.see(one) for one in seen]
        if isinstance(model, BatchedRewardModel):
            return model.score_batch([(one, instruction) for one in seen])
        return [model.score(one, instruction) for one in seen]

    for start in range(0, len(rows), at_once):
        mine = rows[start : start + at_once]
        try:
            yield ask([_until(video, row) for row in mine])
        except Exception as error:  # a model may raise anything; it then has no score, never a 0
            why = f"the model failed: {type(error).__name__}: {error}"
            yield [abstain(int(video.steps[row]), why, model.model_id) for row in mine]


def _until(video: Video, row: int) -> Video:
    """`Video.until` without a copy: of a long video every prefix is asked about."""
    views = {camera: images[: row + 1] for camera, images in video.views.items()}
    return Video(views, video.times_s[: row + 1], video.steps[: row + 1])


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
