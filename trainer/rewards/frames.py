"""The trainer's name for `contracts.frames`, where a reward model's videos and frame contracts are."""

from contracts.frames import FrameContract, Video

__all__ = ["FrameContract", "Video"]
