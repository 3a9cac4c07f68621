"""What a served model must show before it is asked: it answers, repeats itself, and batches as it scores."""

from __future__ import annotations

import math

import numpy as np

from contracts.frames import Video
from contracts.reward import RewardSignal
from trainer.interfaces import BatchedRewardModel, VideoRewardModel
from trainer.reward_service.calls import checked

TOLERANCE = 1e-2
"""Most that a score may change in a batch: half-precision kernels differ with the batch's shape."""


def selftest(model: VideoRewardModel, instruction: str = "") -> str:
    """ "passed", or what is wrong in one line. A model that abstains on these made-up pictures passes:
    that is an answer. It never raises."""
    try:
        videos = [made_up_video(model, seed) for seed in (0, 1)]
        first = [_answer(model, video, instruction) for video in videos]
        again = _answer(model, videos[0], instruction)
        if (problem := _differ(first[0], again)) != "":
            return f"asked twice it answers differently: {problem}"
        if isinstance(model, BatchedRewardModel):
            together = model.score_batch([(video, instruction) for video in videos])
            if len(together) != len(videos):
                return f"gave {len(together)} answers to a batch of {len(videos)}"
            for one, other in zip(first, together, strict=True):
                if (problem := _differ(one, other)) != "":
                    return f"in a batch it answers differently: {problem}"
    except Exception as error:  # whatever a model raises, the server goes on without it
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "passed"


def _answer(model: VideoRewardModel, video: Video, instruction: str) -> RewardSignal:
    signal, kind = checked(model.score(video, instruction), video, model.model_id)
    if kind == "nan":
        raise ValueError(signal.abstained)
    return signal


def made_up_video(model: VideoRewardModel, seed: int) -> Video:
    """A patch that moves over a gradient, as many frames as the model's contract wants at least."""
    contract = model.contract
    count = min(max(contract.least, 2), 8)
    down, across = np.mgrid[0:96, 0:128]
    frames = np.zeros((count, 96, 128, 3), np.uint8)
    for row in range(count):
        at = 8 + (60 * row) // count + 20 * seed
        frames[row] = (down + across)[..., None] % 256
        frames[row, 30:50, at : at + 16] = (200, 40, 40)
    views = dict.fromkeys(contract.cameras or ("camera",), frames)
    return Video(views, np.arange(count) / contract.rate_hz, np.arange(count))


def _differ(one: RewardSignal, other: RewardSignal) -> str:
    if bool(one.abstained) != bool(other.abstained):
        return f"'{one.abstained}' and '{other.abstained}'"
    for name in ("process", "completion", "contrastive"):
        a, b = getattr(one, name), getattr(other, name)
        if not (math.isnan(a) and math.isnan(b)) and not abs(a - b) <= TOLERANCE:
            return f"{name} {a:.4f} and {b:.4f}"
    return ""
