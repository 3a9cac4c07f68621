"""What a vision-language model is asked and how its answer is read: prompts, questions, readings. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np

from contracts.frames import FrameContract, Video
from trainer.rewards.prompts import PromptText


@dataclass(frozen=True)
class Clip:
    """What a prompt shows in one place: a picture (`video` False, one image) or a video.

    `images` uint8[N, H, W, 3] RGB; `times_s` float64[N] since the episode's first moment; `rate_hz`: how
    many of them a second; `size`: (width, height) they are scaled to, None: the checkpoint's own rule.
    """

    images: np.ndarray
    times_s: np.ndarray
    video: bool
    rate_hz: float = 2.0
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """One user's message: texts and clips in order, the forced beginning of the answer, and the texts that
    may follow it. `adapter`: which LoRA adapter answers ("": the base model)."""

    parts: tuple[str | Clip, ...]
    answer: str
    choices: tuple[str, ...]
    adapter: str = ""


@dataclass(frozen=True)
class Reading:
    """What one question's answer says, as fields of `RewardSignal`, and an uncertainty in [0, 1]."""

    fields: Mapping[str, float]
    uncertainty: float
    distribution: tuple[float, ...] = field(default=())


class Question(Protocol):
    """One or more prompts whose answers give some of a signal's fields."""

    @property
    def text(self) -> PromptText: ...

    @property
    def gives(self) -> tuple[str, ...]: ...

    @property
    def frames(self) -> FrameContract: ...

    @property
    def settings(self) -> Mapping[str, object]:
        """All else that changes its answers; part of the model's identity."""
        ...

    def ask(self, video: Video, instruction: str) -> list[Prompt]:
        """None where there is nothing to ask yet (two moments of an episode that has one)."""
        ...

    def read(self, log_probabilities: Sequence[np.ndarray]) -> Reading:
        """float64[K] of each prompt's choices, over the whole vocabulary, finite."""
        ...


def side_by_side(video: Video) -> np.ndarray:
    """uint8[N, H, W, 3]: the views left to right in the video's order, scaled to the first one's height.
    One view is given as it is. Prompts have one place for a moment, whatever the number of cameras."""
    views = list(video.views.values())
    height = views[0].shape[1]
    if len(views) == 1:
        return views[0]
    scaled = [
        images if images.shape[1] == height else _to_height(images, height) for images in views
    ]
    return np.concatenate(scaled, axis=2)


def _to_height(images: np.ndarray, height: int) -> np.ndarray:
    size = (max(1, round(images.shape[2] * height / images.shape[1])), height)
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])


def clip_of(video: Video, frames: FrameContract, *, as_video: bool) -> Clip:
    """The frames of `video` (already those that are shown) as one clip, sized by the frame contract."""
    images = side_by_side(video)
    size = frames.size(images.shape[2], images.shape[1]) if frames.pixels else None
    span = float(video.times_s[-1] - video.times_s[0])
    rate = frames.rate_hz
    if frames.layout == "spread" and span > 0:
        rate = (len(video) - 1) / span
    return Clip(images, video.times_s, as_video, rate, size)


def prompt_of(
    text: PromptText,
    clips: Mapping[str, Clip],
    instruction: str,
    frames: FrameContract,
    adapter: str,
) -> Prompt:
    """The prompt's text with the clips in their places. Raises `ConfigError` as `PromptText.parts`."""
    pieces = text.parts(instruction, tuple(clips), frames.text_first)
    places = {f"<{name}>": clip for name, clip in clips.items()}
    parts = tuple(places.get(piece, piece) for piece in pieces)
    return Prompt(parts, text.answer, text.choices, adapter)
