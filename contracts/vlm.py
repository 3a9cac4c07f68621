"""What a package of a vision-language reward model says besides graphs: frames, prompts in tokens, scores.

Data and checks. With it a robot asks the questions that the workstation's `vlm` reward model asks, without
its tokenizer. Tokens are the package's own: rows of the prefill graph's table, which holds only the
embeddings that the prompts need; the vectors of what was seen follow behind them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import msgspec

from contracts.errors import PackageError
from contracts.frames import FrameContract
from contracts.pictures import PictureRule

if TYPE_CHECKING:
    from contracts.package import GraphSpec, TensorSpec

MAX_PICTURE_PIXELS = 1 << 21
MAX_HELD_BYTES = 1 << 30
"""Of all inputs and outputs of both graphs, which a robot holds for good: a large model's are a tenth."""

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
        if not self.questions or not self.instructions:
            raise PackageError("a vision-language package asks no question")
        times = self.times
        dated = (*times.digits, times.point, *times.behind) if times else ()
        if any(not 0 <= token < self.first_seen for token in (*self.between, *dated)):
            raise PackageError("tokens between the pictures of a video do not fit the package")
        if times and len(times.digits) != 10:
            raise PackageError("tokens of digits", expected=10, found=len(times.digits))
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

    def check_graphs(self, vision: GraphSpec, prefill: GraphSpec) -> None:
        """`check`, and that both graphs take and give just what this says, in bounds: to be called before
        anything of these sizes is allocated. Raises `PackageError`."""
        self.check()
        picture = self.picture
        sizes = {
            "picture width": picture.width, "picture height": picture.height, "temporal": self.temporal,
            "rows": self.rows, "columns": self.columns, "most_patches": self.most_patches,
            "length": self.length, "tokens_per_second": self.tokens_per_second,
        }  # fmt: skip
        low = {name: size for name, size in sizes.items() if size < 1}
        if low or picture.width * picture.height > MAX_PICTURE_PIXELS:
            raise PackageError(
                "sizes of a vision-language package",
                expected=f"all above 0, pictures of at most {MAX_PICTURE_PIXELS} pixels",
                found=low or f"{picture.width}x{picture.height}",
            )
        specs = (*vision.inputs, *vision.outputs, *prefill.inputs, *prefill.outputs)
        if any(side < 1 for spec in specs for side in spec.shape):
            raise PackageError("graphs of a vision-language package", expected="fixed shapes")
        held = sum(math.prod(spec.shape) * _itemsize(spec) for spec in specs)
        if held > MAX_HELD_BYTES:
            raise PackageError(
                "inputs and outputs of a vision-language package",
                expected=f"<= {MAX_HELD_BYTES} bytes",
                found=held,
            )
        for graph, side, wanted, found in (
            (VISION, "inputs", self._vision_inputs(), vision.inputs),
            (VISION, "outputs", self._vision_outputs(vision), vision.outputs),
            (PREFILL, "inputs", self._prefill_inputs(vision), prefill.inputs),
            (PREFILL, "outputs", self._prefill_outputs(prefill), prefill.outputs),
        ):
            _require_tensors(f"{side} of graph '{graph}'", wanted, found)
        scores = next(spec.shape[0] for spec in prefill.outputs if spec.name == "logits")
        for asked in self.questions:
            self._check_question(asked, scores)

    def _vision_inputs(self) -> _Wanted:
        return {"frames": ("uint8", (self.temporal, self.picture.height, self.picture.width, 3))}

    def _vision_outputs(self, vision: GraphSpec) -> _Wanted:
        """`features` and perhaps `deep`, as wide as the graph says."""
        shapes = {spec.name: spec.shape for spec in vision.outputs}
        wide = shapes.get("features", (1,))[-1:]
        wanted: _Wanted = {"features": ("float32", (self.patch_tokens, *wide))}
        if "deep" in shapes:
            wanted["deep"] = ("float32", (*shapes["deep"][:1], self.patch_tokens, *wide))
        return wanted

    def _prefill_inputs(self, vision: GraphSpec) -> _Wanted:
        seen = self.most_patches * self.patch_tokens
        return {
            "tokens": ("int64", (self.length,)),
            "positions": ("int64", (3, self.length)),
            "last": ("int64", (1,)),
            **{
                name: (dtype, (*shape[:-2], seen, *shape[-1:]))
                for name, (dtype, shape) in self._vision_outputs(vision).items()
            },
        }

    def _prefill_outputs(self, prefill: GraphSpec) -> _Wanted:
        shapes = {spec.name: spec.shape for spec in prefill.outputs}
        wanted: _Wanted = {"logits": ("float32", shapes.get("logits", ())[:1] or (1,))}
        return wanted | ({"normaliser": ("float32", (1,))} if self.normaliser else {})

    def _check_question(self, asked: Asked, scores: int) -> None:
        """That its answers can be read off `scores` logits and its prompts fit the graphs."""
        count = len(asked.choices)
        good = all(len(worth) == count for worth in asked.values.values()) and count > 1
        good &= bool(asked.values) or ("earlier" in asked.clips and count == 2)
        for prompt in asked.prompts.values():
            for branch in prompt.branches:
                good &= len(branch.columns) == count and max(branch.columns, default=-1) >= 0
                good &= all(-1 <= column < scores for column in branch.columns)
        if not good or not asked.frames.cameras:
            raise PackageError(
                f"choices of question '{asked.name}'",
                expected=f"a camera, and of each of {count} choices a worth and a place in {scores} logits",
            )
        shown = {"ends": 2, "last": 1}.get(asked.frames.layout, asked.frames.most)
        frames = (shown if clip == "video" else 1 for clip in asked.clips)
        patches = sum(-(-number // self.temporal) for number in frames)
        # At least: the times of dated patches and what stands between them come on top.
        used = patches * self.patch_tokens + max(
            sum(map(len, prompt.texts)) + max(len(branch.ids) for branch in prompt.branches)
            for prompt in asked.prompts.values()
        )
        if patches > self.most_patches or used > self.length:
            raise PackageError(
                f"prompts of question '{asked.name}' are longer than the graphs",
                expected=f"<= {self.length} tokens and {self.most_patches} temporal patches",
                found=f"{used} and {patches}",
            )


_Wanted = dict[str, tuple[str, tuple[int, ...]]]
"""dtype and shape of each tensor by name."""


def _itemsize(spec: TensorSpec) -> int:
    """Of a tensor of these graphs; what has another dtype is refused by name later."""
    return {"uint8": 1, "float32": 4}.get(spec.dtype, 8)


def _require_tensors(
    what: str, wanted: Mapping[str, object], specs: tuple[TensorSpec, ...]
) -> None:
    found = {spec.name: (spec.dtype, spec.shape) for spec in specs}
    if found != wanted:
        raise PackageError(
            f"{what} are not what the package's prompts need", expected=wanted, found=found
        )


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
