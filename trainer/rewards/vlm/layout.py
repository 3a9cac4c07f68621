"""A prompt as the tokens and pictures that a Qwen-VL model reads, in segments that longer episodes add to.

Renders as the checkpoint's chat template and processor would; owns positions too. No torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from contracts.errors import ConfigError, EntracteError, PackageError
from trainer.rewards.vlm.pictures import PixelRule
from trainer.rewards.vlm.question import Clip, Prompt

START, END = "<|vision_start|>", "<|vision_end|>"
PICTURE, VIDEO = "<|image_pad|>", "<|video_pad|>"
_PLACE = re.compile(re.escape(START) + r"<\|(?:image|video)_pad\|>" + re.escape(END))


@dataclass(frozen=True)
class Segment:
    """A run of tokens: text, or the tokens of one temporal patch with its frames.

    `key` is its content. `images` uint8[N, H, W, 3], N up to a temporal patch's frames, as they came (what
    was seen before is never scaled again); `size` (width, height) that they are scaled to; `grid` (h, w) in
    patches. `time_offset`: how far along the time axis it lies from the first segment of its vision block,
    which `begins` with it.
    """

    ids: tuple[int, ...]
    key: bytes
    images: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    grid: tuple[int, int] = (0, 0)
    time_offset: int = 0
    begins: bool = False


@dataclass(frozen=True)
class Branch:
    """Where choices part: `tokens` has the next token of each choice, -1 for one that parted from these
    before. `ids`: the last text of the prompt up to there."""

    ids: tuple[int, ...]
    tokens: tuple[int, ...]


class Layout:
    """Lays prompts out for one checkpoint. `timestamps`: each temporal patch is a vision block of its own
    behind its time (Qwen3-VL); else a video is one block and time is in the positions (Qwen2.5-VL)."""

    def __init__(
        self,
        tokenizer: Any,
        rule: PixelRule,
        *,
        timestamps: bool,
        tokens_per_second: int = 1,
    ) -> None:
        """Raises `PackageError` for a tokenizer without a chat template or the vision tokens."""
        self._tokenizer, self.rule = tokenizer, rule
        self._timestamps, self._tokens_per_second = timestamps, tokens_per_second
        if not tokenizer.chat_template:
            raise PackageError("the tokenizer has no chat template", remedy="use an Instruct model")
        vocabulary = tokenizer.get_added_vocab()
        missing = [token for token in (START, END, PICTURE, VIDEO) if token not in vocabulary]
        if missing:
            raise PackageError("vision tokens of the tokenizer", found=f"none of {missing}")
        self._special = sorted(vocabulary, key=len, reverse=True)
        self._pad = {False: vocabulary[PICTURE], True: vocabulary[VIDEO]}
        self._read = lru_cache(256)(self._parting)
        self._encode = lru_cache(1024)(self._tokens)

    def check_tokens(self, picture: int, video: int) -> None:
        """Raises `PackageError` unless these, of the model's config, are the tokenizer's vision tokens."""
        found = (self._pad[False], self._pad[True])
        if found != (picture, video):
            raise PackageError(
                "tokens of pictures and videos",
                expected=f"{(picture, video)} as in config.json",
                found=found,
            )

    def render(self, prompt: Prompt) -> str:
        """The whole text, a vision token in each picture's place. Raises `EntracteError` for a text that
        holds a token with a meaning of its own: it could speak for the user or the model."""
        content: list[dict[str, str]] = []
        for part in prompt.parts:
            if isinstance(part, Clip):
                content.append({"type": "video" if part.video else "image"})
                continue
            forbidden = [token for token in self._special if token in part]
            if forbidden:
                raise EntracteError("a prompt's text holds tokens of the model", found=forbidden)
            content.append({"type": "text", "text": part})
        message = [{"role": "user", "content": content}]
        text: str = self._tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
        return text

    def begin(self, prompt: Prompt) -> tuple[list[Segment], str]:
        """Segments up to the last picture, and the text behind it up to where the answer begins."""
        texts = _PLACE.split(self.render(prompt))
        clips = [part for part in prompt.parts if isinstance(part, Clip)]
        if len(texts) != len(clips) + 1:
            raise PackageError(
                "the chat template loses pictures", expected=len(clips), found=len(texts) - 1
            )
        segments: list[Segment] = []
        before = texts[0]
        for clip, after in zip(clips, texts[1:], strict=True):
            before = self._add_clip(segments, before, clip) + after
        return segments, before

    def unanswered(self, prompt: Prompt) -> list[Segment]:
        """Segments up to where the answer begins, nothing of it forced."""
        segments, tail = self.begin(prompt)
        return [*segments, text_segment(self._encode(tail))]

    def lay_out(self, prompt: Prompt) -> list[tuple[list[Segment], tuple[int, ...]]]:
        """Segments up to each place where choices part, and their `Branch.tokens` there: one place where
        every choice begins with a token of its own."""
        segments, tail = self.begin(prompt)
        parting = self._read(tail, prompt.answer, prompt.choices)
        return [([*segments, text_segment(branch.ids)], branch.tokens) for branch in parting]

    def text_and_grid(self, prompt: Prompt) -> tuple[list[int], list[tuple[int, int, int]]]:
        """All token ids, and (T, h, w) of each picture or video: what a golden test pins."""
        segments, _ = self.lay_out(prompt)[0]
        grids: list[tuple[int, int, int]] = []
        left = [self._count(clip) for clip in prompt.parts if isinstance(clip, Clip)]
        for segment in segments:
            if segment.images is None:
                continue
            if not grids or grids[-1][0] == left[len(grids) - 1]:
                grids.append((0, *segment.grid))
            grids[-1] = (grids[-1][0] + 1, *segment.grid)
        return [token for segment in segments for token in segment.ids], grids

    def _count(self, clip: Clip) -> int:
        return -(-len(clip.images) // self.rule.temporal)

    def _add_clip(self, segments: list[Segment], before: str, clip: Clip) -> str:
        """Adds the clip behind the text `before`; returns the text that still has to follow it."""
        rule = self.rule
        height, width = clip.images.shape[1:3]
        size = clip.size or rule.size(width, height, len(clip.images), video=clip.video)
        grid = (size[1] // rule.patch, size[0] // rule.patch)
        ids = (self._pad[clip.video],) * (grid[0] * grid[1] // rule.merge**2)
        # transformers truncates the seconds of a temporal patch to a whole number (get_rope_index).
        step = int(rule.temporal / clip.rate_hz) * self._tokens_per_second
        for index in range(self._count(clip)):
            frames = clip.images[index * rule.temporal : (index + 1) * rule.temporal]
            if clip.video and self._timestamps:
                shown = clip.times_s[index * rule.temporal : (index + 1) * rule.temporal]
                between = (float(shown[0]) + float(shown[-1])) / 2
                text = f"{before}<{between:.1f} seconds>{START}"
                segments.append(text_segment(self._encode(text)))
                before, offset, begins = END, 0, True
            else:
                if index == 0:
                    segments.append(text_segment(self._encode(before + START)))
                before, offset, begins = END, index * step, index == 0
            key = hashlib.sha256(repr((ids[0], frames.shape, size, offset, begins)).encode())
            key.update(np.ascontiguousarray(frames).data)
            segments.append(Segment(ids, key.digest(), frames, size, grid, offset, begins))
        return before

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def pixels(self, segment: Segment) -> np.ndarray:
        """float32[h*w, D] of a temporal patch, as `PixelRule.patches`."""
        assert segment.images is not None
        found: np.ndarray = self.rule.patches(segment.images, segment.size)[0]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens that the model wrote."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _parting(self, tail: str, answer: str, choices: tuple[str, ...]) -> tuple[Branch, ...]:
        """A space may belong to the token behind it, so whole answers are encoded and what they share is
        forced. Each ends its turn: "1" and "10" part where the one ends."""
        end = self._tokenizer.eos_token_id
        whole = [(*self._encode(tail + answer + choice), end) for choice in choices]
        if len(set(whole)) < len(whole):
            raise ConfigError(
                f"choices {list(choices)} after '{answer}'",
                expected="different tokens",
                found=whole,
            )
        found: list[Branch] = []

        def part(members: list[int], depth: int) -> None:
            while len({whole[m][depth] for m in members}) == 1:
                depth += 1
            tokens = tuple(ids[depth] if m in members else -1 for m, ids in enumerate(whole))
            found.append(Branch(whole[members[0]][:depth], tokens))
            for token in dict.fromkeys(tokens[m] for m in members):
                alike = [m for m in members if tokens[m] == token]
                if len(alike) > 1:
                    part(alike, depth + 1)

        part(list(range(len(choices))), 0)
        return tuple(found)


def text_segment(ids: tuple[int, ...]) -> Segment:
    """A segment of text."""
    return Segment(ids, hashlib.sha256(repr(ids).encode()).digest())


def positions(segments: Sequence[Segment], merge: int) -> list[np.ndarray]:
    """int64[3, L] of each segment: time, row and column of every token, as the models' `get_rope_index`
    (Qwen2.5-VL and Qwen3-VL reports: multimodal rotary positions). A segment's depend on no later one."""
    found: list[np.ndarray] = []
    begin = following = 0
    for segment in segments:
        count = len(segment.ids)
        if segment.images is None:
            found.append(np.tile(np.arange(count) + following, (3, 1)))
            following += count
            continue
        if segment.begins:
            begin = following
        high, wide = segment.grid[0] // merge, segment.grid[1] // merge
        row, column = np.divmod(np.arange(high * wide), wide)
        time = np.full(count, segment.time_offset)
        found.append(np.stack([time, row, column]) + begin)
        following = max(following, int(found[-1].max()) + 1)
    return found
