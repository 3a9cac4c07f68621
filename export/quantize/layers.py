"""What each layer costs when it alone is quantised, and which of them had better stay float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx

from calibration.quantization.card import Part
from contracts.errors import PackageError
from export.quantize.chain import Answers, Chain, worst
from export.quantize.graphs import Transformed
from export.quantize.progress import Tell, silent

MARGIN = 0.75
"""Layers are left in float32 until the error on the calibration samples is this much of the limit: on held
out ones it will be larger."""
MOST_FLOAT = 0.5
"""More than this share of layers in float32 is no quantised net any more: refuse."""

Quantise = Callable[[Sequence[str]], Transformed]


@dataclass(frozen=True)
class LayerError:
    """One layer quantised alone: the worst joint's p99 (percent of its range), its weights' count."""

    layer: str
    joint: str
    p99: float
    weights: int


def sensitivity(
    chain: Chain,
    part: Part,
    reference: Answers,
    model: onnx.ModelProto,
    layers: Sequence[str],
    quantise: Quantise,
    tell: Tell = silent,
) -> list[LayerError]:
    """`LayerError` of each layer, the most sensitive first. `quantise(layers)` makes the trunk."""
    sizes = {i.name: _size(i) for i in model.graph.initializer}
    weights = {
        node.name: sizes.get(node.input[1], 0) for node in model.graph.node if node.name in layers
    }
    found = []
    for done, layer in enumerate(layers):
        tell("what each layer alone costs", done, len(layers))
        error = worst(chain.errors(reference, chain.answers(part, quantise([layer]))))
        found.append(LayerError(layer, error.name, error.p99, weights[layer]))
    return sorted(found, key=lambda one: -one.p99)


@dataclass(frozen=True)
class Kept:
    """Layers left in float32, and the worst joint's p99 on the calibration samples after each try."""

    layers: list[str]
    tried: dict[int, float]


def keep_float(
    chain: Chain,
    part: Part,
    reference: Answers,
    order: Sequence[LayerError],
    quantise: Quantise,
    limit: float,
    precision: str = "int8",
    tell: Tell = silent,
) -> Kept:
    """The fewest of the most sensitive layers in float32 with which p99 <= `MARGIN` * `limit` on `part`.

    Raises `PackageError` when half of them are not enough.
    """
    names = [one.layer for one in order]
    tried: dict[int, float] = {}
    joint = ""
    for count in range(int(MOST_FLOAT * len(names)) + 1):
        tell(f"all layers but {count} of {len(names)} in {precision}", 0, 0)
        error = worst(chain.errors(reference, chain.answers(part, quantise(names[count:]))))
        tried[count], joint = error.p99, error.name
        if error.p99 <= MARGIN * limit:
            return Kept(names[:count], tried)
    raise PackageError(
        f"with {max(tried)} of {len(names)} layers in float32 the calibration samples still move {joint} "
        f"too far",
        expected=f"p99 <= {MARGIN * limit:.2f} % of its range",
        found=f"{min(tried.values()):.2f} %",
        remedy="draw a better calibration set, or use --precision fp16"
        if precision == "int8"
        else "this trunk does not go with fp16: leave it in float32",
    )


def _size(initializer: onnx.TensorProto) -> int:
    size = 1
    for dim in initializer.dims:
        size *= int(dim)
    return size
