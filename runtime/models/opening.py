"""A package's parts as engines: what opening a policy and opening a reward model have in common."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from contracts.errors import ConfigError, PackageError
from contracts.files import atomic
from contracts.files.packages import Package, load_package, read_safetensors
from contracts.release import MAX_WEIGHTS_BYTES
from runtime.engines import Engine, EngineOptions, open_engine
from runtime.engines.golden import require_golden
from runtime.run import Run
from runtime.weights.slots import SlotStore
from runtime.weights.swap import Swapper


def open_package(folder: str, *models: str) -> Package:
    """A checked package of one of those kinds. Raises `PackageError`."""
    package = load_package(Path(folder))
    if package.manifest.model not in models:
        raise PackageError(
            f"{folder} is another kind of package",
            expected=" or ".join(models),
            found=package.manifest.model,
        )
    return package


def open_parts(
    opened: ExitStack,
    run: Run,
    target: str,
    package: Package,
    options: EngineOptions,
    weights: str = "",
) -> tuple[Engine, Swapper]:
    """The trunk, and the swapper of the head (`open_head`) with the slots of `target`. `opened` closes both
    engines: the caller takes that back once somebody owns them. Raises `EntracteError`."""
    trunk = open_engine(package, "trunk", options)
    opened.callback(trunk.close)
    require_golden(trunk, package, "trunk")
    head = open_head(package, options, weights)
    opened.callback(head.close)
    slots = SlotStore(run.slots_dir / target, package.package_id)
    robot_id, rules = run.config.robot.id, run.config.probation
    return trunk, Swapper(target, slots, package, head, robot_id=robot_id, rules=rules)


def open_head(package: Package, options: EngineOptions, weights: str) -> Engine:
    """The head with the package's own weights, or those of a safetensors file. Raises `EntracteError`."""
    if not weights:
        return _proven_head(package, options)
    try:
        data = atomic.read_bytes(Path(weights), MAX_WEIGHTS_BYTES)
    except (atomic.FileError, OSError) as error:
        raise ConfigError(f"can't read weights {weights}", found=error) from error
    tensors = read_safetensors(data, weights)
    head = _proven_head(package, options)
    try:
        return head.standby(tensors)
    finally:
        head.close()


def _proven_head(package: Package, options: EngineOptions) -> Engine:
    head = open_engine(package, "head", options)
    try:
        require_golden(head, package, "head")
    except BaseException:
        head.close()
        raise
    return head
