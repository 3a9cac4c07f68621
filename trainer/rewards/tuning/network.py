"""The model that is trained: loaded, made trainable as asked, and written as the reward model reads it.

Owns what peft and transformers are called for. LoRA: Hu et al., arXiv 2106.09685.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from contracts.errors import ConfigError, MissingDependency, PackageError
from trainer.rewards.tuning.settings import Tuning
from trainer.rewards.vlm.layout import Layout
from trainer.rewards.vlm.loading import OUR_LAYOUT, Dtype, load
from trainer.rewards.vlm.qwen import layout_of

_SIDE_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_INDEX = "model.safetensors.index.json"
_SIGHT = r".*visual\.blocks\..*\.(qkv|proj|gate_proj|up_proj|down_proj|linear_fc1|linear_fc2)"


def open_layout(folder: Path) -> tuple[Layout, Any]:
    """The layout and config of a checkpoint, no weight read. Raises `PackageError`, `ConfigError`."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except Exception as error:  # transformers' own types
        raise PackageError(
            f"config of {folder}", found=f"{type(error).__name__}: {error}"
        ) from error
    if config.model_type not in OUR_LAYOUT:
        raise ConfigError(
            "model to fine-tune", expected=f"one of {OUR_LAYOUT}", found=config.model_type
        )
    return layout_of(SimpleNamespace(config=config), folder), config


def held_as(settings: Tuning, sharded: bool) -> Dtype:
    """How the base weights are held. What is trained is float32 always, and FSDP wants all weights alike."""
    frozen = settings.method == "lora" and not sharded
    return "bfloat16" if frozen and settings.precision == "bfloat16" else "float32"


def open_trainable(settings: Tuning, folder: Path, device: str, sharded: bool, tokens: int) -> Any:
    """The model in training mode, gradients on for what is learnt and nothing else."""
    loaded = load(
        str(folder),
        dtype=held_as(settings, sharded),
        device=device,
        tokens=tokens,
        batch=settings.batch,
    )
    model = loaded.model
    if settings.freeze_vision or settings.method == "lora":
        model.model.visual.requires_grad_(False)
    if settings.method == "lora":
        model = _with_adapter(model, settings)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    return model


def _with_adapter(model: Any, settings: Tuning) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingDependency(
            "LoRA fine-tuning needs peft", remedy="pip install 'entracte[vlm]'"
        ) from error
    lora = settings.lora
    targets = rf".*language_model\..*\.({'|'.join(lora.targets)})"
    if not settings.freeze_vision:
        targets = f"({targets})|({_SIGHT})"
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(
            "lora.targets",
            expected="names of linear layers of this model",
            found=list(lora.targets),
        ) from error


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """What an optimiser is given: matrices decay, vectors (norms, biases) don't."""
    learnt = [tensor for tensor in model.parameters() if tensor.requires_grad]
    return [
        {"params": [t for t in learnt if t.ndim >= 2], "weight_decay": weight_decay},
        {"params": [t for t in learnt if t.ndim < 2], "weight_decay": 0.0},
    ]


def write_weights(model: Any, tensors: dict[str, torch.Tensor], base: Path, target: Path) -> None:
    """The new folder `target`: an adapter, or a whole checkpoint that loads like `base`.

    `model` unwrapped; `tensors`: its state (of an adapter, at least what is learnt)."""
    from trainer.rewards.vlm.memory import tensors as stored_tensors

    if hasattr(model, "peft_config"):
        # The embeddings are not touched; looking whether they were would ask the hub.
        model.save_pretrained(
            target, state_dict=tensors, safe_serialization=True, save_embedding_layers=False
        )
        (target / "README.md").unlink(missing_ok=True)
        return
    kinds = {kind for kind, _ in stored_tensors(base).values()}
    if kinds <= {"BF16", "F16"}:
        half = torch.float16 if kinds == {"F16"} else torch.bfloat16
        tensors = {name: tensor.to(half) for name, tensor in tensors.items()}
    model.save_pretrained(target, state_dict=tensors, safe_serialization=True)
    for pattern in _SIDE_FILES:
        for path in base.glob(pattern):
            if path.name != _INDEX:
                shutil.copyfile(path, target / path.name)


def replace_folder(fresh: Path, place: Path) -> None:
    """`fresh` becomes `place`; `recover_folder` mends what a stop in between leaves."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    fresh.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(place: Path) -> None:
    """Puts the folder back that a stopped `replace_folder` had moved aside."""
    old = place.with_name(place.name + ".old")
    if old.exists() and not place.exists():
        old.rename(place)
    shutil.rmtree(place.with_name(place.name + ".new"), ignore_errors=True)
