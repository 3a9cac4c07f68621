"""What every source gives: one `SourceVideo` a recording, small enough to be a line of JSON.

Owns the record and the 1-5 score of a progress. Pictures are decoded by the readers, when asked for.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from trainer.reward_data.readers import AnyPictures
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST

COMPARED_BYTES = 1 << 16


class Goal(msgspec.Struct, frozen=True):
    """One command, and what is known of how far the video comes with it.

    `instructions`: ways to say it, the source's own first. `reward`: 1 to 5 at the video's end, None where
    nobody knows. `label_origin`: who says so ("human", "state", "demonstration", "caption", "unfinished").
    `progress` in [0, 1] and `done`, one a frame, where the source knows them, else empty.
    `meant`: the recording was made for this goal; the others are counterfactual.
    """

    instructions: tuple[str, ...]
    reward: int | None
    label_origin: str
    progress: tuple[float, ...] = ()
    done: tuple[bool, ...] = ()
    meant: bool = True

    @property
    def task(self) -> str:
        return self.instructions[0]


class SourceVideo(msgspec.Struct, frozen=True):
    """One recording. `source`: its name in the recipe; `video_id`: unique over all sources; `group`: what a
    split must keep together (two readings of one recording share it); `frames` at `rate_hz`; `goals`: the
    one that was meant first; `things`: names of what is known to be in the scene; `style`: how the
    episode was meant to go, where the source says so."""

    source: str
    video_id: str
    group: str
    pictures: AnyPictures
    frames: int
    rate_hz: float
    goals: tuple[Goal, ...]
    licence: str
    things: tuple[str, ...] = ()
    style: str = ""


def score_of(progress: float, done: bool) -> int:
    """The 1-5 score of a progress in [0, 1].

    5 is kept for what is done (the rubric's "perfect completion"); below that the nearest of the four
    others, as downstream reads a score n back as (n - 1) / 4:
    [0, .125) 1, [.125, .375) 2, [.375, .625) 3, else 4.
    """
    if done:
        return HIGHEST
    return min(HIGHEST - 1, LOWEST + int(4 * min(max(progress, 0.0), 1.0) + 0.5))


def digest(*parts: object) -> str:
    """16 hex digits that stand for these parts: names of files, and seeds that no order changes."""
    text = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_group(file: Path) -> str:
    """The group of a whole file: the same for every copy of it, in whatever folder and source (its size, its
    first and last 64 KiB)."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(COMPARED_BYTES)
        opened.seek(max(0, size - COMPARED_BYTES))
        return digest("content", size, head.hex(), opened.read().hex())
