"""Which questions are asked of a video, over which frames: what `vlm` and `endpoint` have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from contracts.frames import FrameContract
from trainer.rewards.prompts import load_prompt
from trainer.rewards.vlm.lrm import Completion, Contrastive, Progress
from trainer.rewards.vlm.question import Question
from trainer.rewards.vlm.roboreward import RoboReward
from trainer.rewards.vlm.several import LONGEST
from trainer.rewards.vlm.topreward import TopReward

SignalName = Literal["roboreward", "progress", "completion", "contrastive", "topreward"]


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`signals`: the questions. `prompts`: a folder of the user's own prompt texts. `layout`: "spread" as
    RoboReward was trained (2 Hz, 4 to 8 frames over the whole episode), "append" at a fixed rate, so that a
    growing episode only adds frames. `calibration_top`, `slope`, `offset`: the scale of `topreward`.
    `least_mass`: probability on the choices below which an answer counts as none. `scores_per_s` 0: an
    episode's first moment and, at its end, as many at `rate_hz` as `completion_consecutive` wants."""

    signals: tuple[SignalName, ...] = ("roboreward",)
    prompts: str = ""
    layout: Literal["spread", "append"] = "spread"
    rate_hz: float = 2.0
    least_frames: int = 4
    most_frames: int = 8
    cameras: tuple[str, ...] = ()
    text_first: bool = False
    earlier_s: float = 2.0
    calibration_top: float = 0.0
    slope: float = 1.0
    offset: float = 0.0
    least_mass: float = 0.05
    completion_threshold: float = 0.5
    completion_consecutive: int = 1
    scores_per_s: float = 0.0


def question_of(
    signal: SignalName,
    asking: Asking,
    *,
    video_pixels: int,
    picture_pixels: int,
    multiple: int = 1,
    adapter: str = "",
) -> Question:
    """The question that gives `signal`. `video_pixels`, `picture_pixels`: most of a frame of a video and of a
    single picture (0: the checkpoint's rule); `multiple`: of which width and height must be; `adapter`
    answers. Raises `ConfigError` for a prompt folder that can't be used."""
    text = load_prompt(signal, Path(asking.prompts) if asking.prompts else None)
    video = FrameContract(
        asking.layout,
        asking.rate_hz,
        asking.least_frames,
        asking.most_frames,
        asking.cameras,
        video_pixels,
        multiple,
        text_first=asking.text_first,
    )
    if signal == "roboreward":
        return RoboReward(text, video, adapter)
    if signal == "topreward":
        scale = asking.calibration_top, asking.slope, asking.offset
        return TopReward(text, video, adapter, *scale)
    # Single pictures of a moment: any frame may be the one a while ago.
    single = msgspec.structs.replace(
        video, layout="append", least=1, most=LONGEST, pixels=picture_pixels
    )
    if signal == "progress":
        return Progress(text, single, adapter)
    if signal == "completion":
        return Completion(text, single, adapter)
    return Contrastive(text, single, adapter, asking.earlier_s)
