"""What can be known to be wrong before any process starts: names, packages, rates. Opens no device.

Control checks again what it opens (specs against the real devices); this only answers sooner.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts import registry
from contracts.errors import ConfigError, EntracteError
from contracts.files.packages import load_package, read_manifest
from contracts.package import PackageManifest
from runtime.config import PolicySection, RewardSection, RobotConfig, RunPlan
from runtime.engines import options_of, survey

MIN_FREE_BYTES = 1 << 30


class Line(msgspec.Struct, frozen=True):
    """One finding of `robot-run doctor` or `selftest`."""

    what: str
    ok: bool
    found: str


def check(config: RobotConfig, plan: RunPlan) -> None:
    """Raise the first thing that would keep this run from starting."""
    _known("arms", config.arm.kind)
    for camera in config.cameras.values():
        _known("cameras", camera.kind)
    if plan.driver == "policy":
        _usable(config.policy)
        if not config.policy.package:
            raise ConfigError(
                "no policy package", remedy="give --package <folder> or set policy.package"
            )
        manifest = _manifest(config, config.policy.package, "policy")
        if manifest.chunk is not None:
            check_rates(config.loop.rate_hz, manifest.chunk.rate_hz)
        if config.reward.package:
            _usable(config.reward)
            _manifest(config, config.reward.package, "reward", "vlm")


def check_rates(loop_rate_hz: float, chunk_rate_hz: float) -> None:
    """Chunks are interpolated to the loop's rate, which must be a whole multiple of theirs."""
    ratio = loop_rate_hz / chunk_rate_hz
    if ratio < 1 or abs(ratio - round(ratio)) > 1e-6:
        raise ConfigError(
            "loop.rate_hz does not fit the policy",
            expected=f"an integer multiple of its {chunk_rate_hz:g} Hz",
            found=f"{loop_rate_hz:g} Hz",
        )


def need_camera(config: RobotConfig, name: str, who: str) -> None:
    if name not in config.cameras:
        raise ConfigError(
            f"the {who} looks through camera '{name}' and the config has none of that name",
            expected=f"one of {sorted(config.cameras)}",
            remedy="add it under cameras:, or choose a package trained without it",
        )


def examine(config: RobotConfig) -> list[Line]:
    """What `robot-run doctor` says: every check, not only the first that fails."""
    lines = [
        _try("arm", lambda: _known("arms", config.arm.kind)),
        *(
            _try(f"camera {name}", lambda kind=camera.kind: _known("cameras", kind))  # type: ignore[misc]
            for name, camera in config.cameras.items()
        ),
    ]
    for model, package in (("policy", config.policy.package), ("reward", config.reward.package)):
        if package:
            lines.append(_try(f"{model} package", lambda m=model, p=package: _about(config, p, m)))  # type: ignore[misc]
        else:
            lines.append(Line(f"{model} package", True, "none configured"))
    lines += [Line(what, True, found) for what, found in survey.found_here()]
    lines += _engines(config)
    if config.bench.enabled:
        lines.append(_library("mujoco", "pip install 'entracte[sim]'"))
    memory = Path("/dev/shm")
    lines.append(
        Line("shared memory", memory.is_dir(), "/dev/shm" if memory.is_dir() else "none: slow disk")
    )
    free = shutil.disk_usage(Path.cwd()).free
    lines.append(Line("free disk", free > MIN_FREE_BYTES, f"{free / 1e9:.1f} GB here"))
    return lines


def _known(group: str, name: str) -> str:
    found = registry.names(group)
    if name not in found:
        registry.load(group, name)  # says what there is
    return name


def _usable(section: PolicySection | RewardSection) -> None:
    _known("engines", section.engine)
    survey.require(options_of(section))


def _engines(config: RobotConfig) -> list[Line]:
    """What the configured engines will use and why, or what is missing and the fix."""
    lines = []
    for what, section in (("policy", config.policy), ("reward", config.reward)):
        options = options_of(section)

        def about(section: PolicySection | RewardSection = section) -> str:
            return survey.use(options_of(section))

        line = _try(f"{what} engine", lambda kind=options.kind: _known("engines", kind))  # type: ignore[misc]
        lines.append(_try(f"{what} engine", about) if line.ok else line)
        if options.kind == "tensorrt" and section.package and lines[-1].ok:
            lines.append(_try(f"{what} plans", lambda s=section: _planned(s)))  # type: ignore[misc]
    return lines


def _planned(section: PolicySection | RewardSection) -> str:
    missing = survey.missing_plans(load_package(Path(section.package)), options_of(section))
    if missing:
        return f"built at the first start, or before by robot-export build ({'; '.join(missing)})"
    return "all cached"


def _manifest(config: RobotConfig, folder: str, *models: str) -> PackageManifest:
    manifest = read_manifest(Path(folder))
    if manifest.model not in models:
        raise ConfigError(
            f"{folder} is another kind of package",
            expected=" or ".join(models),
            found=manifest.model,
        )
    for camera in manifest.cameras:
        need_camera(config, camera, f"{manifest.model} model")
    return manifest


def _about(config: RobotConfig, folder: str, model: str) -> str:
    manifest = _manifest(config, folder, *((model, "vlm") if model == "reward" else (model,)))
    return f"{manifest.architecture}, {len(manifest.refinable)} refinable tensors"


def _library(name: str, remedy: str) -> Line:
    there = importlib.util.find_spec(name) is not None
    return Line(name, there, "installed" if there else f"missing: {remedy}")


def _try(what: str, check_one: Callable[[], str]) -> Line:
    try:
        return Line(what, True, check_one())
    except EntracteError as error:
        return Line(what, False, str(error))
