"""LeRobot's processors: which normalisation each feature has, and what it means as arithmetic.

`policy_preprocessor.json` and `policy_postprocessor.json` list steps; those that only move data between
devices or add a batch axis mean nothing here, and one that is not known is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from contracts.errors import PackageError
from contracts.files import atomic

if TYPE_CHECKING:
    from export.lerobot.config import ActConfig, DiffusionConfig, Mode

PREPROCESSOR_FILE = "policy_preprocessor.json"
POSTPROCESSOR_FILE = "policy_postprocessor.json"
_RENAMER = "rename_observations_processor"
_NORMALISER = "normalizer_processor"
_DENORMALISER = "unnormalizer_processor"
_WITHOUT_EFFECT = {"to_batch_processor", "device_processor"}
_MAX_BYTES = 1 << 24
_BOUNDS = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}

Statistics = Mapping[str, torch.Tensor]


class Affine(nn.Module):
    """y = (x - offset) * gain + shift, with buffers that broadcast against x. Kept apart in this form: as
    one product and sum a joint that never moved (gain 1e8) would drown in rounding."""

    offset: torch.Tensor
    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, offset: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("offset", offset.float())
        self.register_buffer("gain", gain.float())
        self.register_buffer("shift", shift.float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.offset) * self.gain + self.shift


@dataclass(frozen=True)
class Normaliser:
    """What LeRobot does to one feature (`NormalizationMode`): MEAN_STD to zero mean and unit deviation,
    MIN_MAX and the quantiles to [-1, 1], IDENTITY nothing."""

    feature: str
    mode: Mode
    statistics: Statistics
    eps: float

    def forwards(self, shape: tuple[int, ...]) -> Affine:
        """Robot's units -> what the network sees; `shape` of the feature, a picture's as (3, 1, 1)."""
        if self.mode == "IDENTITY":
            return blank(shape)
        if self.mode == "MEAN_STD":
            mean, std = self._of(shape, "mean", "std")
            return Affine(mean, 1.0 / (std + self.eps), torch.zeros_like(mean))
        low, high = self._of(shape, *_BOUNDS[self.mode])
        return Affine(low, 2.0 / self._span(low, high), -torch.ones_like(low))

    def backwards(self, shape: tuple[int, ...]) -> Affine:
        """What the network says -> robot's units."""
        if self.mode == "IDENTITY":
            return blank(shape)
        if self.mode == "MEAN_STD":
            mean, std = self._of(shape, "mean", "std")
            return Affine(torch.zeros_like(mean), std, mean)
        low, high = self._of(shape, *_BOUNDS[self.mode])
        return Affine(-torch.ones_like(low), self._span(low, high) / 2.0, low)

    def range(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Lowest and highest values in the data, as far as the statistics say: their own bounds, or four
        deviations about the mean."""
        for low, high in (("min", "max"), ("q01", "q99"), ("q10", "q90")):
            if low in self.statistics and high in self.statistics:
                return self.statistics[low].double(), self.statistics[high].double()
        if "mean" in self.statistics and "std" in self.statistics:
            mean, std = self.statistics["mean"].double(), self.statistics["std"].double()
            return mean - 4.0 * std, mean + 4.0 * std
        return None

    def _span(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        return torch.where(high == low, torch.full_like(low, self.eps), high - low)

    def _of(self, shape: tuple[int, ...], *names: str) -> list[torch.Tensor]:
        missing = [name for name in names if name not in self.statistics]
        if missing:
            raise PackageError(
                f"normalisation {self.mode} of '{self.feature}' lacks statistics",
                expected=list(names),
                found=sorted(self.statistics),
            )
        found = []
        for name in names:
            values = self.statistics[name].double()
            if values.numel() != torch.Size(shape).numel():
                raise PackageError(
                    f"statistic '{name}' of '{self.feature}'",
                    expected=f"{torch.Size(shape).numel()} values",
                    found=list(values.shape),
                )
            found.append(values.reshape(shape))
        return found


@dataclass(frozen=True)
class Processors:
    """`modes` by type of feature, `statistics` by feature, `renamed`: the policy's name of an observation
    -> the name that the robot gives it."""

    modes: Mapping[Any, Mode]
    statistics: Mapping[str, Statistics]
    eps: float = 1e-8
    renamed: Mapping[str, str] = field(default_factory=dict)


class _Step(msgspec.Struct, frozen=True):
    registry_name: str = ""
    config: dict[str, Any] = {}
    state_file: str = ""


class _Pipeline(msgspec.Struct, frozen=True):
    steps: list[_Step]


def read_processors(folder: Path) -> Processors | None:
    """The normalisation from the checkpoint's processors; None if it has none. Raises `PackageError`."""
    if not (folder / PREPROCESSOR_FILE).is_file():
        return None
    before, after = (
        _steps(folder / PREPROCESSOR_FILE, {_RENAMER, _NORMALISER}),
        _steps(folder / POSTPROCESSOR_FILE, {_DENORMALISER}),
    )
    step, back = before.get(_NORMALISER), after.get(_DENORMALISER)
    if step is None or back is None:
        raise PackageError(
            f"{folder}: processors without normalisation",
            expected=f"{_NORMALISER} and {_DENORMALISER}",
            found=[*before, *after],
        )
    modes = dict(step.config.get("norm_map", {}))
    statistics = _state(folder, step)
    # Actions leave through the postprocessor: its own word counts for them.
    statistics["action"] = _state(folder, back).get("action", {}) or statistics.get("action", {})
    modes["ACTION"] = back.config.get("norm_map", {}).get("ACTION", "IDENTITY")
    eps = float(step.config.get("eps", 1e-8))
    if eps != float(back.config.get("eps", 1e-8)) or step.config.get("normalize_observation_keys"):
        raise PackageError(
            f"{folder}: processors of a kind that is not known here",
            found="two values of eps, or normalisation of some keys only",
        )
    renamer = before.get(_RENAMER)
    names = renamer.config.get("rename_map", {}) if renamer else {}
    renamed = {policy: robot for robot, policy in names.items()}
    return Processors(modes, {n: s for n, s in statistics.items() if s}, eps, renamed)


def old_statistics(
    tensors: dict[str, torch.Tensor], config: ActConfig | DiffusionConfig
) -> dict[str, Statistics]:
    """Statistics from the buffers of checkpoints before 0.4 ("normalize_inputs.buffer_<feature>.mean", dots
    of the feature as underscores); takes them out of `tensors`."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for features, owner in (
        (config.input_features, "normalize_inputs"),
        (config.output_features, "unnormalize_outputs"),
    ):
        for feature in features:
            prefix = f"{owner}.buffer_{feature.replace('.', '_')}."
            for name in [name for name in tensors if name.startswith(prefix)]:
                found.setdefault(feature, {})[name[len(prefix) :]] = tensors.pop(name)
    for name in [name for name in tensors if name.startswith("normalize_targets.")]:
        del tensors[name]
    return dict(found)


def blank(shape: tuple[int, ...]) -> Affine:
    """Changes nothing."""
    return Affine(torch.zeros(shape), torch.ones(shape), torch.zeros(shape))


def _steps(path: Path, known: set[str]) -> dict[str, _Step]:
    try:
        pipeline = msgspec.json.decode(atomic.read_bytes(path, _MAX_BYTES), type=_Pipeline)
    except (atomic.FileError, OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PackageError(f"{path} is not a processor of LeRobot's", found=str(error)) from error
    names = [step.registry_name for step in pipeline.steps]
    if set(names) - known - _WITHOUT_EFFECT or len(set(names)) != len(names):
        raise PackageError(
            f"{path} has steps that are not known here",
            expected=sorted(known | _WITHOUT_EFFECT),
            found=[name or "a step of its own class" for name in names],
            remedy="save the checkpoint with LeRobot's default processors",
        )
    return {step.registry_name: step for step in pipeline.steps}


def _state(folder: Path, step: _Step) -> dict[str, dict[str, torch.Tensor]]:
    """Statistics by feature from a step's tensors, named "<feature>.<statistic>"."""
    if not step.state_file:
        return {}
    if Path(step.state_file).name != step.state_file:
        raise PackageError(f"{folder}: a processor names a file elsewhere", found=step.state_file)
    path = folder / step.state_file
    try:
        held = load(atomic.read_bytes(path, _MAX_BYTES))
    except (atomic.FileError, OSError, SafetensorError, ValueError) as error:
        raise PackageError(f"{path} is not a processor's tensors", found=str(error)) from error
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in held.items():
        feature, _, statistic = name.rpartition(".")
        found.setdefault(feature, {})[statistic] = tensor.float()
    return found
