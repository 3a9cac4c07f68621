"""Where a fine-tuning stands, in one safetensors file, so that a run that was stopped goes on bit for bit.

Row order, learning rate and dropout are functions of the step (`trainer.rewards.tuning.order`), so weights,
moments and the step are all there is. Gathers what FSDP has spread over processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from contracts.errors import PackageError
from contracts.files import atomic

_ABOUT = "fine-tuning"


def learnt_tensors(model: Any, whole: bool) -> dict[str, torch.Tensor]:
    """Full tensors on the CPU by name; on processes but the first maybe none. `whole`: frozen ones too.
    Every process must call it."""
    options = StateDictOptions(
        full_state_dict=True, cpu_offload=True, ignore_frozen_params=not whole
    )
    found: dict[str, Any] = dict(get_model_state_dict(model, options=options))
    # Tied weights are one tensor under two names, which safetensors refuses.
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def save_state(
    path: Path, what: str, told: dict[str, Any], model: Any, optimiser: Any, main: bool
) -> None:
    """Replaces the file. `told`: what `restore_state` gives back, as JSON; `what` names the training.
    Every process must call it; the first (`main`) writes."""
    weights = learnt_tensors(model, whole=False)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    moments: Any = get_optimizer_state_dict(model, optimiser, options=options)
    if not main:
        return
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    for name, values in moments["state"].items():
        for key, value in values.items():
            tensors[f"moments/{key}/{name}"] = value.detach().clone().contiguous()
    with atomic.replacing(path) as fresh:
        # One entry: of several, safetensors would write the order anew each time.
        save_file(tensors, fresh, {_ABOUT: json.dumps({"what": what, "told": told})})


def restore_state(
    path: Path, what: str, model: Any, optimiser: Any, main: bool, alone: bool
) -> None:
    """Weights and moments back in place. Every process must call it; `alone`: there is only one.

    Raises `PackageError` for a damaged file or another training's."""
    tensors = _opened(path, what, with_tensors=True)[1] if main else {}
    weights: dict[str, Any] = _under("weights/", tensors)
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in _under("moments/", tensors).items():
        key, parameter = name.split("/", 1)
        moments.setdefault(parameter, {})[key] = value
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=not alone, strict=False)
    set_model_state_dict(model, weights, options=options)
    groups = get_optimizer_state_dict(
        model, optimiser, options=StateDictOptions(full_state_dict=True)
    )
    told: Any = {"state": moments, "param_groups": groups["param_groups"]} if main else {}
    set_optimizer_state_dict(model, optimiser, told, options=options)


def told_in(path: Path, what: str) -> dict[str, Any]:
    """What `save_state` was told; no tensor is read. Raises `PackageError` as `restore_state`."""
    return _opened(path, what, with_tensors=False)[0]


def _opened(
    path: Path, what: str, with_tensors: bool
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
            names = file.keys() if with_tensors else ()
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError) as error:
        raise PackageError(
            f"{path} is damaged",
            found=str(error),
            remedy="delete it, and the training starts again",
        ) from error
    if about.get("what") != what:
        raise PackageError(
            f"{path} is of another training",
            expected=what,
            found=about.get("what", "nothing"),
            remedy="choose another output folder",
        )
    return dict(about["told"]), tensors


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
