"""The package that is refined: who refines it, and its own weights as an update."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contracts import registry
from contracts.answers import pack
from contracts.errors import ConfigError, SpecMismatch
from contracts.files.packages import load_package, read_manifest
from contracts.package import PackageManifest, package_id
from trainer.config import RefinerSection, TrainerConfig
from trainer.interfaces import Refiner, Update


def open_refiner(config: TrainerConfig) -> tuple[Refiner, PackageManifest]:
    """As configured, and the manifest of its package. Raises `EntracteError`."""
    section = config.refiner
    if not section.package:
        raise ConfigError(
            "refiner.package is not set", remedy="name the folder of the policy package"
        )
    folder = Path(section.package)
    manifest = read_manifest(folder)
    factory = registry.load("refiners", section.kind)
    refiner: Refiner = factory(
        package=folder,
        demonstrations=[Path(path) for path in config.demonstrations],
        options=section.options,
        seed=config.seed,
        **_placed(factory, section),
    )
    if refiner.package_id != package_id(manifest):
        raise SpecMismatch(
            f"refiner '{section.kind}' is for another package",
            expected=package_id(manifest),
            found=refiner.package_id,
        )
    return refiner, manifest


def _placed(factory: Callable[..., Refiner], section: RefinerSection) -> dict[str, Any]:
    """Where it computes, told where that is not as ever: a user's own refiner need not know."""
    if (section.device, section.processes) == ("cpu", 1):
        return {}
    if "place" not in inspect.signature(factory).parameters:
        raise ConfigError(
            f"refiner '{section.kind}' says itself where it computes",
            expected="refiner.device=cpu and refiner.processes=1",
            found=f"{section.device} and {section.processes}",
        )
    # Here, as it takes torch, which other refiners may do without.
    from trainer.refiners.placement import placement_of

    return {"place": placement_of(section.device, section.processes)}


def own_update(folder: Path) -> Update:
    """The package's own weights, where nothing else was released yet."""
    package = load_package(folder)
    chunk = package.manifest.chunk
    golden = [case.outputs for case in package.golden.get("head", ())]
    samples, answers = chunk.samples if chunk else 1, pack(golden, golden)
    return Update(package.refinable_weights(), samples, answers=answers)
