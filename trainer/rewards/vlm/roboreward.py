"""RoboReward's score of 1 to 5, by expectation over the score tokens or as the model writes it.

Owns the meaning of the score. Lee et al., *RoboReward*, arXiv 2601.00675.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from contracts.choices import among_choices, doubt
from contracts.frames import FrameContract, Video
from trainer.rewards.prompts import PromptText
from trainer.rewards.vlm.question import Prompt, Reading, clip_of, prompt_of

SCORES = 5
_ANSWER = re.compile(r"ANSWER:\s*([1-5])\.?")


class RoboReward:
    """`Question`. process = (n - 1) / 4 of the expected score n, as the paper's users normalise it.
    completion = P(5): the rubric's "satisfies all requirements" is the only score that means done."""

    gives: tuple[str, ...] = ("process", "completion")

    def __init__(self, text: PromptText, frames: FrameContract, adapter: str = "") -> None:
        self.text, self.frames, self._adapter = text, frames, adapter

    @property
    def settings(self) -> Mapping[str, object]:
        return {}

    def ask(self, video: Video, instruction: str) -> list[Prompt]:
        clip = clip_of(self.frames.shown(video), self.frames, as_video=True)
        return [prompt_of(self.text, {"VIDEO": clip}, instruction, self.frames, self._adapter)]

    def read(self, log_probabilities: Sequence[np.ndarray]) -> Reading:
        return reading(among_choices(log_probabilities[0]), doubt(log_probabilities[0]))


def reading(shares: np.ndarray, uncertainty: float) -> Reading:
    """`shares` float64[5]: probabilities of the scores 1..5."""
    expected = float(shares @ np.arange(1, SCORES + 1))
    fields = {"process": (expected - 1) / (SCORES - 1), "completion": float(shares[-1])}
    return Reading(fields, uncertainty, tuple(map(float, shares)))


def parse(answer: str) -> int | None:
    """The score 1..5 of a written answer, None unless it is "ANSWER: <score>" and nothing else: a score
    fished out of other words is a guess, and a guess is no reward."""
    found = _ANSWER.fullmatch(answer.strip())
    return int(found.group(1)) if found else None


def written(score: int) -> Reading:
    """What a written score says. It comes without doubt, so it gives none: its uncertainty is unknown."""
    shares = np.zeros(SCORES)
    shares[score - 1] = 1.0
    return reading(shares, float("nan"))
