"""What a package of a vision-language reward model says besides graphs: frames, prompts in tokens, scores.

Data and checks. With it a robot asks the questions that the workstation's `vlm` reward model asks, without
its tokenizer. Tokens are the package's own: rows of the prefill graph's table, which holds only the
embeddings that the prompts need; the vectors of what was seen follow behind them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from contracts.errors import PackageError
from contracts.frames import FrameContract
from contracts.pictures import PictureRule

VISION, PREFILL = "vision", "prefill"
"""The two graphs. vision: `frames` uint8[temporal, H, W, 3] -> `features` float32[patch_tokens, D] (and
`deep` float32[levels, patch_tokens, D]). prefill: `tokens` int64[length], `positions` int64[3, length],
`last` int64[1], `features` float32[most_patches * patch_tokens, D] (and `deep`) -> `logits` float32[scores]
(and `normaliser` float32[1], log of the sum over the whole vocabulary)."""


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`ids`: the text behind the last picture, up to where the choices part. `columns`: of each choice the
    place of its next token in `logits`, -1 for one that parted from these before."""

    ids: tuple[int, ...]
    columns: tuple[int, ...]


class PromptTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt for one instruction: the text before each of its clips, and what follows the last."""

    texts: tuple[tuple[int, ...], ...]
    branches: tuple[Branch, ...]


class TimeTokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the moment of a temporal patch is said: seconds with one decimal, each digit a token (`digits`
    has 0 to 9), then `behind`."""

    digits: tuple[int, ...]
    point: int
    behind: tuple[int, ...]

    def said(self, seconds: float) -> tuple[int, ...]:
        """Tokens of a time, from its first digit to `behind`'s last. Raises `ValueError` below 0."""
        whole, _, tenth = f"{seconds:.1f}".partition(".")
        if not (whole + tenth).isdigit():
            raise ValueError(f"a time from 0 on is expected, found {seconds}")
        said = [*(self.digits[int(d)] for d in whole), self.point, self.digits[int(tenth)]]
        return (*said, *self.behind)


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question. `clips`: what it shows, in order: "video" (the frames of its contract), "first", "last",
    or "earlier" (`earlier_s` ago; asked twice, the second time with the pictures swapped). `values`: field
    of the reward signal -> worth of each choice, the field is their expectation; none for "contrastive".
    `distribution`: the choices are the scores 1..5. `prompts`: by instruction."""

    name: str
    frames: FrameContract
    clips: tuple[Literal["video", "first", "last", "earlier"], ...]
    choices: tuple[str, ...]
    prompts: dict[str, PromptTokens]
    values: dict[str, tuple[float, ...]] = {}
    distribution: bool = False
    earlier_s: float = 0.0


class VlmSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`temporal` frames make a temporal patch of `rows` x `columns` tokens of the language model, at most
    `most_patches` in a prompt of at most `length` tokens; vectors of the first are `first_seen` on in the
    prefill's table. `grid`: picture tokens have places in time, row and column (multimodal rotary positions),
    else they stand in line with the text. `tokens_per_second`: places in time a second. `between`: the text
    between two patches of a video; `times`: how each of them is dated, where the model wants it.
    `normaliser`: the prefill gives it."""

    picture: PictureRule
    temporal: int
    rows: int
    columns: int
    most_patches: int
    length: int
    first_seen: int
    grid: bool
    questions: tuple[Asked, ...]
    tokens_per_second: int = 1
    between: tuple[int, ...] = ()
    times: TimeTokens | None = None
    normaliser: bool = True
    least_mass: float = 0.05
    completion_threshold: float = 0.5
    completion_consecutive: int = 1

    @property
    def patch_tokens(self) -> int:
        return self.rows * self.columns

    @property
    def instructions(self) -> tuple[str, ...]:
        """What can be asked about."""
        return tuple(self.questions[0].prompts)

    def check(self) -> None:
        """Raise `PackageError` for prompts that its graphs could not hold, or that differ in instructions."""
        for asked in self.questions:
            if set(asked.prompts) != set(self.instructions):
                raise PackageError(
                    f"instructions of question '{asked.name}'",
                    expected=sorted(self.instructions),
                    found=sorted(asked.prompts),
                )
            for prompt in asked.prompts.values():
                texts = [*prompt.texts, *(branch.ids for branch in prompt.branches)]
                ids = [token for text in texts for token in text]
                good = ids and min(ids) >= 0 and max(ids) < self.first_seen
                if not good or len(prompt.texts) != len(asked.clips) or not prompt.branches:
                    raise PackageError(f"tokens of question '{asked.name}' do not fit the package")


class EncoderSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pair of encoders of pictures and texts into one space (CLIP, SigLIP): how a picture is prepared, and
    `texts`, prepared at export: text -> tokens int[L]. The match of two normalised embeddings is
    `logit_scale` times their product plus `logit_bias`; through a sigmoid where `sigmoid` (SigLIP), else
    a softmax over the texts."""

    picture: PictureRule
    texts: dict[str, tuple[int, ...]]
    logit_scale: float
    logit_bias: float = 0.0
    sigmoid: bool = False
