"""What a fine-tuning is told: one YAML file plus `--set` overrides.

Owns the options and which of them make no sense together. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from contracts.config import apply_overrides, convert, parse
from contracts.errors import ConfigError
from trainer.rewards.vlm.factory import Options

TRAINABLE = ("roboreward", "progress", "completion", "contrastive")
"""Signals that the built data has labels for."""


class Lora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rank and alpha as in Large Reward Models. `targets`: linear layers of the language model by the last
    part of their names; with `freeze_vision: false` all linear layers of the vision tower's blocks too."""

    rank: int = 64
    alpha: int = 128
    dropout: float = 0.05
    targets: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a fine-tuning.

    `vlm`: how the model is asked, exactly the options of the reward model `vlm` that will use it; `signals`
    of it are what is learnt, in equal shares. `data`: a folder of `robot-reward build-data`, or one in
    RoboReward's format. `epochs`: passes over the signal with the most rows; `steps` above 0 counts optimiser
    steps instead. A step sees `batch` x `accumulate` x processes rows. `precision` "bfloat16": computed in
    bfloat16, trained weights and moments in float32. `warmup`: share of the steps; then a half cosine down to
    `final_rate` of `learning_rate`. `every`: steps between validations, each of which also saves where the
    training stands. `validation_rows`: at most so many a signal. `progress_label`: "state" where the data
    knows it, "time" (normalised video time, as in Large Reward Models) always.
    """

    vlm: Options = Options()
    data: str = ""
    output: str = ""
    method: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    freeze_vision: bool = True
    learning_rate: float = 1e-4
    warmup: float = 0.03
    final_rate: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    epochs: float = 1.0
    steps: int = 0
    batch: int = 1
    accumulate: int = 16
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    gradient_checkpointing: bool = True
    every: int = 200
    validation_rows: int = 500
    progress_label: Literal["state", "time"] = "state"
    loaders: int = 2
    seed: int = 0
    tensorboard: Literal["auto", "on", "off"] = "auto"


def read_settings(path: Path, overrides: Sequence[str] = ()) -> Tuning:
    """The file with `section.key=value` overrides on it. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} can't be read", found=error.strerror) from error
    return checked(convert(apply_overrides(parse(text, str(path)), overrides), Tuning, str(path)))


def checked(settings: Tuning) -> Tuning:
    """`settings`; raises `ConfigError` for values that no training can use."""
    for name in ("data", "output"):
        if not getattr(settings, name):
            raise ConfigError(f"{name} of a fine-tuning", expected="a folder", found="none")
    asked = settings.vlm
    if not asked.model:
        raise ConfigError(
            "vlm.model", expected="a folder, or a name such as teetone/RoboReward-4B", found="none"
        )
    odd = [signal for signal in asked.signals if signal not in TRAINABLE]
    if odd or not asked.signals or len(set(asked.signals)) < len(asked.signals):
        raise ConfigError("vlm.signals to learn", expected=f"of {TRAINABLE}", found=asked.signals)
    for name, plain in (("quantize", "none"), ("adapters", {}), ("mode", "expect")):
        if getattr(asked, name) != plain:
            raise ConfigError(f"vlm.{name} in a fine-tuning", expected=plain, found="another")
    if asked.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            "vlm.device in a fine-tuning",
            expected="auto, cpu or cuda (CUDA_VISIBLE_DEVICES says which)",
            found=asked.device,
        )
    if len(asked.cameras) > 1:
        raise ConfigError(
            "vlm.cameras in a fine-tuning",
            expected="at most one (the data shows one picture a moment)",
            found=asked.cameras,
        )
    _in_range(settings)
    return settings


def _in_range(settings: Tuning) -> None:
    whole = {
        "batch": settings.batch,
        "accumulate": settings.accumulate,
        "every": settings.every,
        "validation_rows": settings.validation_rows,
        "lora.rank": settings.lora.rank,
        "lora.alpha": settings.lora.alpha,
    }
    for name, count in whole.items():
        if count < 1:
            raise ConfigError(name, expected="1 or more", found=count)
    shares = {
        "warmup": settings.warmup,
        "final_rate": settings.final_rate,
        "lora.dropout": settings.lora.dropout,
    }
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ConfigError(name, expected="0 or more, below 1", found=share)
    positive = {
        "learning_rate": settings.learning_rate,
        "clip_norm": settings.clip_norm,
        "steps or epochs": settings.steps or settings.epochs,
    }
    for name, value in positive.items():
        if not value > 0:
            raise ConfigError(name, expected="above 0", found=value)
    if settings.method == "lora" and not settings.lora.targets:
        raise ConfigError("lora.targets", expected="names of linear layers", found="none")
