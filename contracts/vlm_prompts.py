"""A question about a video as the inputs of a package's prefill graph. Pure; owns order and places.

Gives the same sequence as the trainer's layout of the checkpoint (`trainer.rewards.vlm.layout`), which a
test holds it to. Positions: multimodal rotary places of the Qwen2.5-VL and Qwen3-VL reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import EntracteError
from contracts.frames import Video
from contracts.vlm import Asked, Branch, PromptTokens, VlmSpec


@dataclass(frozen=True)
class Shown:
    """Pictures in one place of a prompt: `rows` of the video that the question is asked about, `times_s` of
    each, `rate_hz`: how many a second, `moving`: they are a video and not a picture."""

    rows: tuple[int, ...]
    times_s: tuple[float, ...]
    rate_hz: float
    moving: bool


@dataclass(frozen=True)
class Laid:
    """One pass of the prefill. `patches`: rows of the video in each temporal patch, in the order of its
    vectors; `tokens` int64[length], `positions` int64[3, length], `last` int64[1]; `columns`: as `Branch`."""

    patches: tuple[tuple[int, ...], ...]
    tokens: np.ndarray
    positions: np.ndarray
    last: np.ndarray
    columns: tuple[int, ...]


def clips_of(asked: Asked, video: Video) -> list[list[Shown]]:
    """What each prompt of a question shows, clip by clip: one prompt, two of "earlier" (the second with the
    pictures swapped), none where there is no earlier moment yet."""
    rows = asked.frames.choose(video.times_s)
    times = video.times_s[rows]

    def shown(picked: np.ndarray, moving: bool) -> Shown:
        rate, span = asked.frames.rate_hz, float(times[-1] - times[0])
        if moving and asked.frames.layout == "spread" and span > 0:
            rate = (len(rows) - 1) / span
        chosen = rows[picked]
        seconds = tuple(map(float, video.times_s[chosen]))
        return Shown(tuple(map(int, chosen)), seconds, rate, moving)

    newest = len(rows) - 1
    places = {"first": 0, "last": newest}
    if "earlier" in asked.clips:
        before = int(np.abs(times[-1] - times - asked.earlier_s).argmin())
        places["earlier"] = before if before < newest else newest - 1
        if newest == 0:
            return []
    clips = [
        shown(np.arange(len(rows)), True)
        if clip == "video"
        else shown(np.array([places[clip]]), False)
        for clip in asked.clips
    ]
    return [clips, clips[::-1]] if "earlier" in asked.clips else [clips]


def lay_out(spec: VlmSpec, prompt: PromptTokens, clips: Sequence[Shown]) -> list[Laid]:
    """A pass for each place where the choices part. Raises `EntracteError` for more than the graphs hold."""
    return [_laid(spec, prompt, clips, branch) for branch in prompt.branches]


def _laid(spec: VlmSpec, prompt: PromptTokens, clips: Sequence[Shown], branch: Branch) -> Laid:
    line = _Line(spec)
    for text, clip in zip(prompt.texts, clips, strict=True):
        line.say(text)
        line.show(clip)
    line.say(branch.ids)
    used = len(line.tokens)
    if used > spec.length or len(line.patches) > spec.most_patches:
        raise EntracteError(
            "a prompt is longer than the package's graphs",
            expected=f"<= {spec.length} tokens and {spec.most_patches} temporal patches",
            found=f"{used} and {len(line.patches)}",
            remedy="export it again with more frames",
        )
    tokens = np.zeros(spec.length, np.int64)
    tokens[:used] = line.tokens
    positions = np.zeros((3, spec.length), np.int64)
    positions[:, :used] = np.concatenate(line.positions, axis=1)
    return Laid(tuple(line.patches), tokens, positions, np.array([used - 1]), branch.columns)


class _Line:
    """A sequence that grows."""

    def __init__(self, spec: VlmSpec) -> None:
        self._spec, self._following = spec, 0
        self.tokens: list[int] = []
        self.positions: list[np.ndarray] = []
        self.patches: list[tuple[int, ...]] = []

    def say(self, ids: Sequence[int]) -> None:
        self.tokens += ids
        self.positions.append(np.tile(np.arange(len(ids)) + self._following, (3, 1)))
        self._following += len(ids)

    def show(self, clip: Shown) -> None:
        spec = self._spec
        dated = spec.times if clip.moving else None
        # A temporal patch's seconds are truncated to a whole number (transformers' get_rope_index).
        step = int(spec.temporal / clip.rate_hz) * spec.tokens_per_second
        begin = self._following
        for index, at in enumerate(range(0, len(clip.rows), spec.temporal)):
            self.say(spec.between if index else ())
            if dated is not None:
                seconds = clip.times_s[at : at + spec.temporal]
                self.say(dated.said((seconds[0] + seconds[-1]) / 2))
                begin = self._following
            self._see(clip.rows[at : at + spec.temporal], begin, 0 if dated else index * step)

    def _see(self, rows: tuple[int, ...], begin: int, offset: int) -> None:
        spec, count = self._spec, self._spec.patch_tokens
        first = spec.first_seen + len(self.patches) * count
        self.tokens += range(first, first + count)
        self.patches.append(rows)
        if not spec.grid:
            self.positions.append(np.tile(np.arange(count) + self._following, (3, 1)))
            self._following += count
            return
        row, column = np.divmod(np.arange(count), spec.columns)
        places = np.stack([np.full(count, offset), row, column]) + begin
        self.positions.append(places)
        self._following = max(self._following, int(places.max()) + 1)
