"""What can be known to be wrong before any process starts: names, packages, rates. Opens no device.

Control checks again what it opens (specs against the real devices); this only answers sooner.
"""

from __future__ import annotations

from pathlib import Path

from contracts import registry
from contracts.errors import ConfigError
from contracts.files.packages import read_manifest
from contracts.package import ChunkSpec, PackageManifest
from runtime.calibration import own_calibration, require_bound
from runtime.config import PolicySection, RewardSection, RobotConfig
from runtime.engines import options_of, survey
from runtime.gym import environment
from runtime.gym.section import GymnasiumSection, find_task
from runtime.run import RunPlan


def check(config: RobotConfig, plan: RunPlan) -> None:
    """Raise the first thing that would keep this run from starting."""
    known("arms", config.arm.kind)
    for camera in config.cameras.values():
        known("cameras", camera.kind)
    if (section := config.bench.gymnasium) is not None:
        if plan.driver == "expert":
            _shown(section, config.episode.task, plan.style)
        environment.require(section)
    elif plan.driver == "expert" and not config.bench.enabled:
        raise ConfigError(
            "scripted experts act on simulated benches alone",
            found="bench.enabled: false",
            remedy="record with --teleoperate",
        )
    own_calibration(config.calibration, config.robot.id)
    if plan.driver == "policy":
        _usable(config.policy)
        if not config.policy.package:
            raise ConfigError(
                "no policy package", remedy="give --package <folder> or set policy.package"
            )
        manifest = manifest_of(config, config.policy.package, "policy")
        if manifest.chunk is not None:
            check_chunk(config, manifest.chunk)
        if config.reward.package:
            _usable(config.reward)
            manifest_of(config, config.reward.package, "reward", "vlm")


def _shown(section: GymnasiumSection, name: str, style: str) -> None:
    """Raise `ConfigError` unless somebody can show that task of the environment, in that style."""
    task = find_task(section, name)
    if task is None or not task.expert:
        raise ConfigError(
            f"the environment {section.id} has no expert of the task '{name}'",
            remedy=f"set bench.gymnasium.tasks.{name}.expert to module:name, or record with --teleoperate",
        )
    if style not in ("", "expert"):
        raise ConfigError(
            "--style", expected="expert: experts of environments have one", found=style
        )


def check_chunk(config: RobotConfig, chunk: ChunkSpec) -> None:
    """A policy's chunks fit the loop and `policy.execute_steps`; else `ConfigError`."""
    check_rates(config.loop.rate_hz, chunk.rate_hz)
    check_steps(config.policy.execute_steps, chunk.length)


def check_rates(loop_rate_hz: float, chunk_rate_hz: float) -> None:
    """Chunks are interpolated to the loop's rate, which must be a whole multiple of theirs."""
    ratio = loop_rate_hz / chunk_rate_hz
    if ratio < 1 or abs(ratio - round(ratio)) > 1e-6:
        raise ConfigError(
            "loop.rate_hz does not fit the policy",
            expected=f"an integer multiple of its {chunk_rate_hz:g} Hz",
            found=f"{loop_rate_hz:g} Hz",
            remedy=f"set loop.rate_hz={chunk_rate_hz:g}",
        )


def check_steps(execute_steps: int, length: int) -> None:
    """Nothing is left of a chunk beyond its `length`: the arm would be held until the next one is there."""
    if execute_steps > length:
        default = " (the default)" if execute_steps == PolicySection().execute_steps else ""
        raise ConfigError(
            "policy.execute_steps is more than a chunk of this policy holds",
            expected=f"at most its {length} actions",
            found=f"{execute_steps}{default}",
            remedy=f"set policy.execute_steps={max(1, length // 2)}: the next chunk is inferred meanwhile",
        )


def need_camera(config: RobotConfig, name: str, who: str) -> None:
    if name not in config.cameras:
        raise ConfigError(
            f"the {who} looks through camera '{name}' and the config has none of that name",
            expected=f"one of {sorted(config.cameras)}",
            remedy="add it under cameras:, or choose a package trained without it",
        )


def known(group: str, name: str) -> str:
    """`name`, or `EntracteError` saying which plug-ins of that group there are."""
    found = registry.names(group)
    if name not in found:
        registry.load(group, name)  # says what there is
    return name


def _usable(section: PolicySection | RewardSection) -> None:
    known("engines", section.engine)
    survey.require(options_of(section))


def manifest_of(config: RobotConfig, folder: str, *models: str) -> PackageManifest:
    """Head of the package, of one of these kinds, for cameras that there are, bound to no other calibration;
    else an error."""
    manifest = read_manifest(Path(folder))
    if manifest.model not in models:
        raise ConfigError(
            f"{folder} is another kind of package",
            expected=" or ".join(models),
            found=manifest.model,
        )
    for camera in manifest.cameras:
        need_camera(config, camera, f"{manifest.model} model")
    bound_to = manifest.observation.calibration_id
    named = f"the {manifest.model} package {folder}"
    require_bound(bound_to, config.calibration, config.robot.id, named)
    return manifest
