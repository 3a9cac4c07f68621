"""TOPReward: progress as the model's own log P("True") that the task is done, on a scale known as it runs.

Owns that scale. Chen et al., *TOPReward: Token Probabilities as Hidden Zero-Shot Rewards for Robotics*,
arXiv 2602.19313, whose log-probabilities are scaled within a whole episode, which looks at its future.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from contracts.choices import doubt
from contracts.errors import ConfigError
from contracts.frames import FrameContract, Video
from trainer.rewards.prompts import PromptText
from trainer.rewards.vlm.lrm import two_choices
from trainer.rewards.vlm.question import Prompt, Reading, clip_of, prompt_of

_ROOM = 1e-3
"""Nats between start and top below which there is no scale to speak of."""


class TopReward:
    """`Question`. With L the log P("True") of the video so far and L0 that of its first frame alone,

        process = (L - L0) / (top - L0), within [0, 1].

    Both ends are known at every moment of an episode: L0 from its first frame, `top` before it began: 0
    (certainty, no data needed) or, calibrated, what finished episodes reach (`top_of`). completion =
    sigmoid(`slope` x log P(True)/P(False) + `offset`): Platt's scaling (1999), the identity by default.
    """

    gives: tuple[str, ...] = ("process", "completion")

    def __init__(
        self,
        text: PromptText,
        frames: FrameContract,
        adapter: str = "",
        top: float = 0.0,
        slope: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        """Raises `ConfigError` for a `top` above 0 (a log-probability) or a slope that isn't positive."""
        if top > 0 or slope <= 0:
            raise ConfigError(
                "scale of the reward signal 'topreward'",
                expected="top <= 0 (a log-probability) and slope > 0",
                found=(top, slope),
            )
        self.text, self.frames, self._adapter = two_choices(text), frames, adapter
        self._top, self._slope, self._offset = top, slope, offset

    @property
    def settings(self) -> Mapping[str, object]:
        return {"top": self._top, "slope": self._slope, "offset": self._offset}

    def ask(self, video: Video, instruction: str) -> list[Prompt]:
        shown = self.frames.shown(video)
        return [
            prompt_of(
                self.text,
                {"VIDEO": clip_of(part, self.frames, as_video=True)},
                instruction,
                self.frames,
                self._adapter,
            )
            for part in (shown, shown.take([0]))
        ]

    def read(self, log_probabilities: Sequence[np.ndarray]) -> Reading:
        now, start = (float(row[1]) for row in log_probabilities)
        room = self._top - start
        # An episode that begins where finished ones end has no scale: it is done, or it went back.
        process = (now - start) / room if room > _ROOM else float(now >= self._top - _ROOM)
        odds = self._slope * (now - float(log_probabilities[0][0])) + self._offset
        completion = 1 / (1 + math.exp(-float(np.clip(odds, -60.0, 60.0))))
        fields = {"process": float(np.clip(process, 0.0, 1.0)), "completion": completion}
        return Reading(fields, doubt(log_probabilities[0]))


def top_of(log_true_at_success: Sequence[float]) -> float:
    """`top` from log P("True") at the ends of successful validation episodes: their median, which a few
    mislabelled ones don't move. Raises `ConfigError` for none."""
    values = np.asarray(log_true_at_success, np.float64)
    if not len(values) or not np.isfinite(values).all():
        raise ConfigError(
            "log-probabilities to calibrate 'topreward' with",
            expected="one or more finite values",
            found=values.tolist(),
        )
    return min(0.0, float(np.median(values)))
