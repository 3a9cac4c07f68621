"""A policy's config as numbers in a package's settings, and back: from a package alone torch is made again.

Features are not among them; the manifest has those as its own specs and golden inputs.
"""

from __future__ import annotations

from typing import Any

import msgspec

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import OBSERVATION_STEPS
from export.lerobot.config import ACTION, IMAGES, STATE, ActConfig, DiffusionConfig
from export.lerobot.resnet import DEPTHS

_WORDS: dict[str, tuple[str, ...]] = {
    "vision_backbone": tuple(DEPTHS),
    "feedforward_activation": ("relu", "gelu"),
    "prediction_type": ("epsilon", "sample"),
    "noise_scheduler_type": ("DDPM", "DDIM"),
    "beta_schedule": ("squaredcos_cap_v2", "linear", "scaled_linear"),
}
_ELSEWHERE = {"input_features", "output_features", "normalization_mapping", "n_obs_steps"}


def settings_of(config: ActConfig | DiffusionConfig) -> dict[str, float]:
    """Every field as a number: words by their place in a list, tuples one entry each, None left out."""
    found: dict[str, float] = {}
    for name, value in msgspec.structs.asdict(config).items():
        if name in _ELSEWHERE or value is None:
            continue
        if isinstance(value, str):
            found[name] = float(_WORDS[name].index(value))
        elif isinstance(value, tuple):
            found |= {f"{name}.{index}": float(entry) for index, entry in enumerate(value)}
        else:
            found[name] = float(value)
    found[OBSERVATION_STEPS] = float(config.n_obs_steps)
    return found


def config_of_package(
    package: Package, kind: type[ActConfig] | type[DiffusionConfig]
) -> ActConfig | DiffusionConfig:
    """The config behind a package. Raises `PackageError` where the settings are incomplete."""
    manifest = package.manifest
    shapes = {spec.name: spec.shape for spec in manifest.graph("trunk").inputs}
    inputs = {
        f"{IMAGES}{camera}": {
            "type": "VISUAL",
            "shape": (3, *shapes[f"images.{camera}"][1:3]),
        }
        for camera in manifest.cameras
    }
    joints = (len(manifest.observation.state_names),)
    fields: dict[str, Any] = {
        "input_features": {**inputs, STATE: {"type": "STATE", "shape": joints}},
        "output_features": {ACTION: {"type": "ACTION", "shape": joints}},
        "n_obs_steps": int(manifest.settings.get(OBSERVATION_STEPS, 1)),
    }
    for field in msgspec.structs.fields(kind):
        if field.name not in _ELSEWHERE:
            value = _read(field.name, field.type, manifest.settings)
            if value is not None:
                fields[field.name] = value
    try:
        return msgspec.convert(fields, type=kind, strict=False)
    except msgspec.ValidationError as error:
        raise PackageError(
            f"settings of {package.folder} are no config of a LeRobot policy", found=str(error)
        ) from error


def _read(name: str, type: Any, settings: dict[str, float]) -> Any:
    if f"{name}.0" in settings:
        count = sum(key.startswith(f"{name}.") for key in settings)
        return [int(settings[f"{name}.{index}"]) for index in range(count)]
    if name not in settings:
        return None
    value = settings[name]
    if name in _WORDS:
        return _WORDS[name][int(value)]
    return int(value) if "int" in str(type) or type is bool else value
