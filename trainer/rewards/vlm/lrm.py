"""The three signals of Large Reward Models: progress, completion and contrastive, each one question.

Owns which pictures each looks at and what its choices mean. arXiv 2603.16065; the prompts are our own words,
or those of an adapter's own prompt folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from contracts.choices import among_choices, doubt
from contracts.errors import ConfigError
from contracts.frames import FrameContract, Video
from trainer.rewards.prompts import PromptText
from trainer.rewards.vlm.question import Prompt, Reading, clip_of, prompt_of


class Progress:
    """`Question`: how much is done, from the first and the current picture. The choices are levels, evenly
    from nothing to all (11 in the paper); process is their expectation."""

    gives: tuple[str, ...] = ("process",)

    def __init__(self, text: PromptText, frames: FrameContract, adapter: str = "") -> None:
        self.text, self.frames, self._adapter = text, frames, adapter

    @property
    def settings(self) -> Mapping[str, object]:
        return {}

    def ask(self, video: Video, instruction: str) -> list[Prompt]:
        shown = self.frames.shown(video)
        clips = {
            "INITIAL": clip_of(shown.take([0]), self.frames, as_video=False),
            "CURRENT": clip_of(shown.take([len(shown) - 1]), self.frames, as_video=False),
        }
        return [prompt_of(self.text, clips, instruction, self.frames, self._adapter)]

    def read(self, log_probabilities: Sequence[np.ndarray]) -> Reading:
        shares = among_choices(log_probabilities[0])
        value = float(shares @ np.linspace(0.0, 1.0, len(shares)))
        return Reading({"process": min(1.0, value)}, doubt(log_probabilities[0]))


class Completion:
    """`Question`: done or not, from the current picture alone; completion is the share of the last choice."""

    gives: tuple[str, ...] = ("completion",)

    def __init__(self, text: PromptText, frames: FrameContract, adapter: str = "") -> None:
        """Raises `ConfigError` unless the prompt has two choices."""
        self.text, self.frames, self._adapter = two_choices(text), frames, adapter

    @property
    def settings(self) -> Mapping[str, object]:
        return {}

    def ask(self, video: Video, instruction: str) -> list[Prompt]:
        shown = self.frames.shown(video)
        last = clip_of(shown.take([len(shown) - 1]), self.frames, as_video=False)
        return [prompt_of(self.text, {"CURRENT": last}, instruction, self.frames, self._adapter)]

    def read(self, log_probabilities: Sequence[np.ndarray]) -> Reading:
        shares = among_choices(log_probabilities[0])
        return Reading({"completion": float(shares[1])}, doubt(log_probabilities[0]))


class Contrastive:
    """`Question`: which of two moments, `earlier_s` apart, is closer to the goal. Asked in both orders, so
    that a liking for either place cancels: swapping the moments changes the sign and nothing else."""

    gives: tuple[str, ...] = ("contrastive",)

    def __init__(
        self, text: PromptText, frames: FrameContract, adapter: str = "", earlier_s: float = 2.0
    ) -> None:
        """Raises `ConfigError` unless the prompt has two choices."""
        self.text, self.frames, self._adapter = two_choices(text), frames, adapter
        self._earlier_s = earlier_s

    @property
    def settings(self) -> Mapping[str, object]:
        return {"earlier_s": self._earlier_s}

    def ask(self, video: Video, instruction: str) -> list[Prompt]:
        shown = self.frames.shown(video)
        ago = shown.times_s[-1] - shown.times_s
        earlier, current = int(np.abs(ago - self._earlier_s).argmin()), len(shown) - 1
        if earlier == current and current > 0:
            earlier = current - 1
        if earlier == current:
            return []
        one = clip_of(shown.take([earlier]), self.frames, as_video=False)
        two = clip_of(shown.take([current]), self.frames, as_video=False)
        return self.compare(one, two, instruction)

    def compare(self, one: object, two: object, instruction: str) -> list[Prompt]:
        """The two prompts for pictures `one` (earlier) and `two` (current), each a `Clip`."""
        orders = ({"ONE": one, "TWO": two}, {"ONE": two, "TWO": one})
        return [
            prompt_of(self.text, clips, instruction, self.frames, self._adapter)  # type: ignore[arg-type]
            for clips in orders
        ]

    def read(self, log_probabilities: Sequence[np.ndarray]) -> Reading:
        as_shown, swapped = (among_choices(row) for row in log_probabilities)
        value = float((as_shown[1] - as_shown[0]) - (swapped[1] - swapped[0])) / 2
        unsure = max(doubt(row) for row in log_probabilities)
        return Reading({"contrastive": float(np.clip(value, -1.0, 1.0))}, unsure)


def two_choices(text: PromptText) -> PromptText:
    """`text`; raises `ConfigError` unless it has exactly two choices."""
    if len(text.choices) != 2:
        raise ConfigError(
            f"choices of the prompt '{text.name}'", expected="two", found=list(text.choices)
        )
    return text
