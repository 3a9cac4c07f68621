"""How much memory a fine-tuning will take, from the checkpoint's files, before any of it is allocated.

Weights, gradients and moments are counted; activations are an estimate of the language model's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import EntracteError
from trainer.rewards.tuning.settings import Tuning
from trainer.rewards.vlm.memory import DTYPE_BYTES, tensors

_LEARNT_BYTES = 12
"""Of a trained float32 number besides itself: its gradient and AdamW's two moments."""
_KEPT = 24
"""Vectors as wide as the hidden state that the backward pass of one layer keeps, its MLP's apart."""


@dataclass(frozen=True)
class TuningMemory:
    """Bytes on each process. `weights`: all of them, as they are held and used; `learning`: gradients and
    moments of what is learnt; `working`: activations of the longest batch, and its logits. `learnt`, `of`:
    numbers."""

    weights: int
    learning: int
    working: int
    learnt: int
    of: int

    @property
    def peak(self) -> int:
        return self.weights + self.learning + self.working

    def __str__(self) -> str:
        return (
            f"{_gib(self.peak)} ({_gib(self.weights)} weights, {_gib(self.learning)} gradients and "
            f"moments, {_gib(self.working)} activations)"
        )


def estimate_tuning(
    folder: Path, settings: Tuning, held: str, tokens: int, reads: int, shards: int
) -> TuningMemory:
    """For batches of `tokens` tokens in all, `reads` of which have logits; weights `held` as a dtype and
    spread over `shards` processes."""
    shapes = {name: shape for name, (_, shape) in tensors(folder).items()}
    of = sum(math.prod(shape) for shape in shapes.values())
    learnt = _learnt(shapes, settings)
    extra = learnt if settings.method == "lora" else 0
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    width = DTYPE_BYTES[settings.precision]
    hidden, inner = int(text["hidden_size"]), int(text["intermediate_size"])
    layers = int(text["num_hidden_layers"])
    one = tokens * (_KEPT * hidden + 3 * inner) * width
    kept = (
        layers * tokens * hidden * width + one if settings.gradient_checkpointing else layers * one
    )
    logits = 3 * 4 * reads * int(text.get("vocab_size", 0))
    # autocast works on a bfloat16 copy of each float32 weight, kept until the forward pass is over.
    copies = of * width if width < DTYPE_BYTES[held] else 0
    return TuningMemory(
        (of * DTYPE_BYTES[held] + extra * 4 + copies) // shards,
        learnt * _LEARNT_BYTES // shards,
        kept + logits,
        learnt,
        of,
    )


def check_tuning_fits(needed: TuningMemory, available: int, where: str, settings: Tuning) -> None:
    """Raises `EntracteError`, one sentence, where `needed` is more than `available` bytes of `where`."""
    if needed.peak > available:
        raise EntracteError(
            f"the fine-tuning won't fit into {where}",
            expected=f"{needed}",
            found=f"{_gib(available)} free",
            remedy=remedy(settings),
        )


def remedy(settings: Tuning) -> str:
    """What would make it smaller, most telling first."""
    ways = [
        ("method: lora", settings.method == "full"),
        ("gradient_checkpointing: true", not settings.gradient_checkpointing),
        ("precision: bfloat16", settings.precision != "bfloat16"),
        ("batch: 1 with more accumulate", settings.batch > 1),
        ("fewer vlm.pixels or vlm.most_frames", True),
        ("a smaller model", True),
        ("more GPUs with fsdp.yaml", True),
    ]
    return "try " + ", ".join(way for way, open_ in ways if open_)


def _learnt(shapes: dict[str, tuple[int, ...]], settings: Tuning) -> int:
    sight = {name for name in shapes if "visual." in name}
    if settings.method == "full":
        names = set(shapes) - (sight if settings.freeze_vision else set())
        return sum(math.prod(shapes[name]) for name in names)
    mine = [
        shape
        for name, shape in shapes.items()
        if len(shape) == 2
        and (
            (name not in sight and name.split(".")[-2] in settings.lora.targets)
            or (name in sight and ".blocks." in name and not settings.freeze_vision)
        )
    ]
    return sum(settings.lora.rank * (shape[0] + shape[1]) for shape in mine)


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
