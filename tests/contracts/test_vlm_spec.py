"""What a vision-language package says against its graphs: one sentence, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from contracts.errors import PackageError
from contracts.frames import FrameContract
from contracts.package import GraphSpec, TensorSpec
from contracts.pictures import PictureRule
from contracts.vlm import (
    MAX_HELD_BYTES,
    MAX_PICTURE_PIXELS,
    Asked,
    Branch,
    PromptTokens,
    TimeTokens,
    VlmSpec,
)

LENGTH, PATCHES, TOKENS, WIDTH, SCORES = 40, 4, 6, 32, 5
PROMPT = PromptTokens(((1, 2),), (Branch((3,), (0, 1, 2, 3, 4)),))
ASKED = Asked(
    "roboreward",
    FrameContract(cameras=("front",)),
    ("video",),
    ("1", "2", "3", "4", "5"),
    {"open": PROMPT},
    {"process": (0.0, 0.25, 0.5, 0.75, 1.0)},
    distribution=True,
)
SPEC = VlmSpec(
    PictureRule(48, 32), temporal=2, rows=2, columns=3, most_patches=PATCHES, length=LENGTH,
    first_seen=20, grid=True, questions=(ASKED,), times=TimeTokens(tuple(range(10)), 10, (11,)),
)  # fmt: skip


def graphs(
    patches: int = PATCHES, length: int = LENGTH, wide: int = WIDTH, high: int = 32
) -> tuple[GraphSpec, GraphSpec]:
    def seen(count: int) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec("features", "float32", (count, wide)),
            TensorSpec("deep", "float32", (3, count, wide)),
        )

    frames = TensorSpec("frames", "uint8", (2, high, 48, 3))
    inputs = (
        TensorSpec("tokens", "int64", (length,)),
        TensorSpec("positions", "int64", (3, length)),
        TensorSpec("last", "int64", (1,)),
        *seen(patches * TOKENS),
    )
    outputs = (
        TensorSpec("logits", "float32", (SCORES,)),
        TensorSpec("normaliser", "float32", (1,)),
    )
    return (
        GraphSpec("vision", "", "", (frames,), seen(TOKENS)),
        GraphSpec("prefill", "", "", inputs, outputs),
    )


def asking(**changes: object) -> VlmSpec:
    return msgspec.structs.replace(SPEC, questions=(msgspec.structs.replace(ASKED, **changes),))


def prompting(prompt: PromptTokens) -> VlmSpec:
    return asking(prompts={"open": prompt})


def columns(*places: int) -> VlmSpec:
    return prompting(PromptTokens(PROMPT.texts, (Branch((3,), places),)))


def with_(**changes: object) -> VlmSpec:
    return msgspec.structs.replace(SPEC, **changes)


def test_what_fits_is_taken() -> None:
    SPEC.check_graphs(*graphs())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (with_(length=1 << 40), "inputs of graph 'prefill'"),
        (with_(most_patches=1 << 30), "inputs of graph 'prefill'"),
        (with_(picture=PictureRule(1 << 20, 1 << 20)), f"at most {MAX_PICTURE_PIXELS} pixels"),
        (with_(picture=PictureRule(48, 33)), "inputs of graph 'vision'"),
        (with_(temporal=1 << 40), "inputs of graph 'vision'"),
        (with_(temporal=0), "all above 0"),
        (with_(rows=-2, columns=-3), "all above 0"),
        (with_(rows=1 << 30), "outputs of graph 'vision'"),
        (with_(normaliser=False), "outputs of graph 'prefill'"),
        (with_(questions=()), "asks no question"),
        (with_(between=(20,)), "between the pictures"),
        (with_(times=TimeTokens(tuple(range(9)), 10, (11,))), "tokens of digits"),
        (with_(times=TimeTokens(tuple(range(10)), 99, ())), "between the pictures"),
        (asking(values={"process": (0.0, 1.0)}), "a worth and a place in 5 logits"),
        (asking(values={}), "a worth and a place"),
        (asking(frames=FrameContract()), "a camera"),
        (asking(frames=FrameContract(cameras=("front",), most=9)), r"found .* and 5"),
        (columns(0, 1, 2, 3), "a worth and a place"),
        (columns(0, 1, 2, 3, 5), "a worth and a place"),
        (columns(0, 1, 2, 3, -2), "a worth and a place"),
        (columns(-1, -1, -1, -1, -1), "a worth and a place"),
        (prompting(PromptTokens(((1,) * 16,), PROMPT.branches)), "<= 40 tokens .* found 41"),
    ],
)
def test_what_does_not_fit_is_one_sentence(spec: VlmSpec, words: str) -> None:
    with pytest.raises(PackageError, match=words) as raised:
        spec.check_graphs(*graphs())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda: (with_(length=1 << 36), graphs(length=1 << 36)),
        lambda: (with_(most_patches=1 << 26), graphs(patches=1 << 26)),
        lambda: (SPEC, graphs(wide=1 << 28)),
    ],
)
def test_a_spec_and_graphs_that_agree_on_too_much_are_refused(
    change: Callable[[], tuple[VlmSpec, tuple[GraphSpec, GraphSpec]]],
) -> None:
    spec, both = change()
    with pytest.raises(PackageError, match=f"<= {MAX_HELD_BYTES} bytes"):
        spec.check_graphs(*both)


def test_shapes_that_a_call_would_decide_are_refused() -> None:
    with pytest.raises(PackageError, match="expected fixed shapes"):
        SPEC.check_graphs(*graphs(high=-1))
