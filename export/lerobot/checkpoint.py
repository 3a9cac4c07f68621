"""A LeRobot checkpoint on disk: its config, its tensors by name, its normalisation. Knows no network.

The folder is what LeRobot 0.4 writes (config.json, model.safetensors, policy_preprocessor.json and
policy_postprocessor.json with their tensors); before 0.4 the normalisation was in model.safetensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import safetensors
import safetensors.torch
import torch

from contracts.errors import PackageError
from contracts.files import atomic
from export.lerobot.config import ActConfig, DiffusionConfig, FeatureType
from export.lerobot.processors import Normaliser, Processors, old_statistics, read_processors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CONFIGS: dict[str, type[ActConfig] | type[DiffusionConfig]] = {
    "act": ActConfig,
    "diffusion": DiffusionConfig,
}
_MAX_CONFIG_BYTES = 1 << 22
_MAX_WEIGHTS_BYTES = 4 << 30
_REMEDY = "give the folder that LeRobot calls pretrained_model"


class _Type(msgspec.Struct, frozen=True):
    type: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """`tensors`: float32, by LeRobot's names. `processors`: how LeRobot normalised, see `normaliser`."""

    folder: Path
    config: ActConfig | DiffusionConfig
    tensors: Mapping[str, torch.Tensor]
    processors: Processors

    @property
    def kind(self) -> str:
        return "act" if isinstance(self.config, ActConfig) else "diffusion"

    def normaliser(self, feature: str, type: FeatureType) -> Normaliser:
        """How LeRobot normalises that feature. Raises `PackageError` where its statistics are missing."""
        mode = self.processors.modes.get(type, "IDENTITY")
        statistics = self.processors.statistics.get(feature)
        # LeRobot leaves a feature without statistics as it is; a robot that moved so would be wrong quietly.
        if mode != "IDENTITY" and statistics is None:
            raise PackageError(
                f"{self.folder}: no statistics of '{feature}', which is to be normalised ({mode})",
                found=sorted(self.processors.statistics),
                remedy="save the checkpoint with its processors (LeRobot's "
                "migrate_policy_normalization writes them for old ones)",
            )
        return Normaliser(feature, mode, statistics or {}, self.processors.eps)


def find_checkpoint(folder: Path) -> Path | None:
    """The folder of a LeRobot checkpoint: `folder` itself or its pretrained_model/; None if neither is."""
    for place in (folder, folder / "pretrained_model"):
        if (place / CONFIG_FILE).is_file():
            return place
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Raises `PackageError` unless the folder holds a whole ACT or Diffusion checkpoint."""
    folder = find_checkpoint(folder) or folder
    text = _read(folder / CONFIG_FILE, _MAX_CONFIG_BYTES)
    kind = _decode(text, _Type, folder).type
    if kind not in CONFIGS:
        raise PackageError(
            f"{folder} is no LeRobot checkpoint that can be exported",
            expected=f'config.json with "type" one of {list(CONFIGS)}',
            found=repr(kind),
            remedy=_REMEDY,
        )
    config = _decode(text, CONFIGS[kind], folder)
    config.check(str(folder))
    tensors = _tensors(folder / WEIGHTS_FILE)
    processors = read_processors(folder)
    if processors is None:
        statistics = old_statistics(tensors, config)
        # The oldest configs name their modes elsewhere: not knowing them is not "as it is".
        if not statistics or not config.normalization_mapping:
            raise PackageError(
                f"{folder} does not say how it was normalised",
                expected="policy_preprocessor.json and policy_postprocessor.json, or the buffers "
                "normalize_inputs.* in model.safetensors and normalization_mapping in config.json",
                remedy=_REMEDY,
            )
        processors = Processors(dict(config.normalization_mapping), statistics)
    # torch.compile puts its own name between module and parameter.
    tensors = {name.replace("._orig_mod.", "."): tensor for name, tensor in tensors.items()}
    return Checkpoint(folder, config, tensors, processors)


def fill(
    checkpoint: Checkpoint, modules: Mapping[str, torch.nn.Module], unused: tuple[str, ...]
) -> None:
    """Put the checkpoint's tensors into `modules` (trunk, head), whose own names are LeRobot's; names that
    start with one of `unused` serve training alone. Raises `PackageError` naming what has no place."""
    left = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith(unused) and not name.endswith("num_batches_tracked")
    }
    prefix = checkpoint.config.prefix
    for what, module in modules.items():
        wanted = {name: t for name, t in module.state_dict().items() if name.startswith(prefix)}
        missing = sorted(wanted.keys() - left.keys())
        unlike = [
            f"{name} {list(left[name].shape)} for {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in left and left[name].shape != tensor.shape
        ]
        if missing or unlike:
            raise PackageError(
                f"{checkpoint.folder}: weights of the {what} do not fit config.json",
                found=f"missing {missing[:4]} ({len(missing)} in all), of other shapes {unlike[:4]}",
                remedy="take config.json and model.safetensors from the same checkpoint",
            )
        module.load_state_dict({name: left.pop(name) for name in wanted}, strict=False)
    if left:
        raise PackageError(
            f"{checkpoint.folder}: {len(left)} tensors have no place in this architecture",
            found=sorted(left)[:6],
            remedy="this LeRobot may be newer than 0.4.4, which is what is known here",
        )


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        held = safetensors.torch.load(_read(path, _MAX_WEIGHTS_BYTES))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise PackageError(
            f"{path} is not a whole safetensors file",
            found=str(error),
            remedy="copy or download the checkpoint again",
        ) from error
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in held.items()
    }
    for name, tensor in tensors.items():
        # Old checkpoints keep infinity as the mark of statistics that were never filled.
        if tensor.is_floating_point() and not bool(np.isfinite(tensor.numpy()).all()):
            raise PackageError(f"{path}: tensor '{name}' holds NaN or infinity")
    return tensors


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return atomic.read_bytes(path, max_bytes)
    except (atomic.FileError, OSError) as error:
        raise PackageError(
            f"{path.parent} holds no LeRobot checkpoint", found=str(error), remedy=_REMEDY
        ) from error


_Decoded = TypeVar("_Decoded")


def _decode(text: bytes, type: type[_Decoded], folder: Path) -> _Decoded:
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PackageError(
            f"{folder / CONFIG_FILE} is not a config of LeRobot's ACT or Diffusion policy",
            found=str(error),
            remedy=_REMEDY,
        ) from error
