"""What a configuration must not say, each as a `ConfigError` of one sentence. Knows no device and no file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from contracts.config import check_ranges
from contracts.errors import ConfigError
from contracts.messages import ROBOT_ID
from runtime.gym.section import KIND, wrong
from runtime.operator.section import check_operator

if TYPE_CHECKING:
    from runtime.config import GateSection, RobotConfig
    from runtime.weights.probation import Probation

MOST_EXPLORATION_DEG = 10.0
MOST_SILENCE_S = 0.5
"""Longest that a robot's watchdog may wait for a sign of life."""
MOST_PAUSE_S = 1.0
"""Most that may be added to it for a watchdog that was itself kept from running."""


def check(config: RobotConfig, source: str) -> None:
    """Values that contradict one another, each a `ConfigError` of one sentence."""
    _check_finite(msgspec.to_builtins(config), source)
    if not ROBOT_ID.fullmatch(config.robot.id):
        raise ConfigError(
            f"{source}: robot.id",
            expected="1 to 64 letters, digits, '.' and '-', a letter or digit first",
            found=config.robot.id,
        )
    if not config.cameras:
        raise ConfigError(f"{source}: no camera", remedy="add one under cameras:")
    if config.pace == "asap" and not config.bench.enabled:
        raise ConfigError(f"{source}: pace asap needs the bench", remedy="set pace: realtime")
    check_ranges(
        f"{source}: ",
        (
            ("loop.rate_hz", config.loop.rate_hz, 0.1, math.inf),
            ("loop.watchdog_timeout_s", config.loop.watchdog_timeout_s, 0.001, math.inf),
            ("loop.lease_s", config.loop.lease_s, 0.001, math.inf),
            ("loop.pause_allowance_s", config.loop.pause_allowance_s, 0.0, math.inf),
            ("episode.max_s", config.episode.max_s, 0.1, math.inf),
            ("episode.reset_speed", config.episode.reset_speed, 0.1, math.inf),
            ("policy.execute_steps", config.policy.execute_steps, 1, math.inf),
            ("policy.fade_steps", config.policy.fade_steps, 0, math.inf),
            ("recording.frames_every", config.recording.frames_every, 1, math.inf),
            ("recording.ring_s", config.recording.ring_s, 0.01, math.inf),
            ("recording.queue_frames", config.recording.queue_frames, 1, math.inf),
            ("link.jpeg_quality", config.link.jpeg_quality, 1, 100),
            ("link.colour_crf", config.link.colour_crf, 0, 51),
            ("link.spool_max_mib", config.link.spool_max_mib, 1, math.inf),
            ("link.spool_min_free_mib", config.link.spool_min_free_mib, 0, math.inf),
            ("recording.min_free_mib", config.recording.min_free_mib, 0, math.inf),
            ("iteration.episodes", config.iteration.episodes, 1, math.inf),
            ("reward.end_after_s", config.reward.end_after_s, 0.0, math.inf),
            ("arm.read_rate_hz", config.arm.read_rate_hz, 1.0, math.inf),
            ("arm.fault_after_s", config.arm.fault_after_s, 0.001, math.inf),
            ("arm.command_timeout_s", config.arm.command_timeout_s, 0.001, math.inf),
            ("arm.answer_timeout_s", config.arm.answer_timeout_s, 0.001, math.inf),
            ("arm.state_latency_s", config.arm.state_latency_s, 0.0, math.inf),
            ("arm.action_latency_s", config.arm.action_latency_s, 0.0, math.inf),
            ("loop.inference_latency_ticks", config.loop.inference_latency_ticks, 0, math.inf),
            ("calibration.drift_px", config.calibration.drift_px, 0.01, math.inf),
            ("calibration.drift_mm", config.calibration.drift_mm, 0.01, math.inf),
        ),
    )
    _check_stops(config, source)
    _check_commands(config, source)
    _check_probation(config.probation, source)
    if not 0 <= config.policy.explore_deg <= MOST_EXPLORATION_DEG:
        raise ConfigError(
            f"{source}: policy.explore_deg",
            expected=f"0 to {MOST_EXPLORATION_DEG:g}",
            found=config.policy.explore_deg,
        )
    if not (0 < config.gate.velocity_scale <= 1 and 0 < config.gate.acceleration_scale <= 1):
        raise ConfigError(f"{source}: gate scales may only tighten", expected="in (0, 1]")
    if config.arm.at_close == "release" and not config.arm.rest_pose:
        raise ConfigError(
            f"{source}: arm.at_close: release drops an arm that is raised",
            remedy="set arm.rest_pose, the pose in which it may lose power",
        )
    _check_gate(config.gate, source)
    if config.bench.enabled and config.arm.kind == "sim" and not config.episode.task:
        raise ConfigError(f"{source}: episode.task is empty", remedy="name a task of the bench")
    check_operator(config.operator, source)
    _check_drift(config, source)
    _check_gymnasium(config, source)
    for name, camera in config.cameras.items():
        if camera.width < 16 or camera.height < 16 or camera.rate_hz <= 0:
            raise ConfigError(f"{source}: cameras.{name} has no sensible size or rate")
        if not (0.0 <= camera.latency_s < 1.0 and 0.0 <= camera.warmup_s < camera.start_timeout_s):
            raise ConfigError(
                f"{source}: cameras.{name}: latency_s, warmup_s",
                expected="seconds in [0, 1), and from 0 to start_timeout_s",
                found=(camera.latency_s, camera.warmup_s),
            )
        if camera.pose and not _is_rigid(camera.pose):
            raise ConfigError(
                f"{source}: cameras.{name}.pose",
                expected="16 numbers: a rotation, a translation in metres, and 0 0 0 1",
                found=camera.pose,
            )


def _check_drift(config: RobotConfig, source: str) -> None:
    """A camera that is to see its board is there, and was calibrated."""
    asked = config.calibration.drift_cameras
    strange = sorted(set(asked) - set(config.cameras))
    if strange:
        raise ConfigError(
            f"{source}: calibration.drift_cameras",
            expected=f"some of {sorted(config.cameras)}",
            found=strange[0],
        )
    if asked and not config.calibration.file:
        raise ConfigError(
            f"{source}: calibration.drift_cameras without a calibration",
            expected="calibration.file",
            remedy="calibrate first: robot-calibrate handeye --config sets it",
        )


def _check_gymnasium(config: RobotConfig, source: str) -> None:
    """An environment in the bench's place has an arm and cameras of its own, and time of its own."""
    section = config.bench.gymnasium
    kinds = {f"cameras.{name}.kind": camera.kind for name, camera in config.cameras.items()}
    kinds["arm.kind"] = config.arm.kind
    unfit = KIND if section is None else "sim"
    if other := next((key for key, kind in kinds.items() if kind == unfit), None):
        raise ConfigError(
            f"{source}: {other}: {unfit}",
            expected="bench.gymnasium beside it" if section is None else f"{KIND}, as the bench is",
            remedy="hw_configs/metaworld.yaml is an example",
        )
    if section is None:
        return
    if config.pace != "asap" or not config.bench.enabled:
        raise ConfigError(
            f"{source}: a Gymnasium environment has its own time",
            expected="pace: asap, and bench.enabled: true",
            remedy="set both",
        )
    for name, camera in config.cameras.items():
        if camera.kind == KIND and camera.depth:
            raise ConfigError(f"{source}: cameras.{name}.depth", expected="false: there is none")
    given = config.loop.rate_hz, config.episode.task, config.episode.instruction
    for error in wrong(section, *given):
        raise ConfigError(f"{source}: {error}") from error


def _is_rigid(pose: tuple[float, ...]) -> bool:
    if len(pose) != 16 or pose[12:] != (0.0, 0.0, 0.0, 1.0):
        return False
    matrix = np.reshape(pose, (4, 4))[:3, :3]
    apart = np.abs(matrix @ matrix.T - np.eye(3)).max()
    return bool(apart < 1e-3 and np.linalg.det(matrix) > 0.0)


def _check_probation(rules: Probation, source: str) -> None:
    check_ranges(
        f"{source}: probation.",
        (
            ("drop", rules.drop, 0.05, 0.9),
            ("alpha", rules.alpha, 0.001, 0.4),
            ("beta", rules.beta, 0.001, 0.4),
            ("most_episodes", rules.most_episodes, 1, 10_000),
            ("unjudged", rules.unjudged, 1, 10_000),
        ),
    )


def _is_a_robots(config: RobotConfig) -> bool:
    """Whether its arm may be one that breaks things: any but the bench's own, bench or not. (One that is not
    simulated does not start in `asap`.)"""
    simulated = config.bench.enabled and config.arm.kind in ("sim", KIND)
    return config.pace == "realtime" and not simulated


def _check_stops(config: RobotConfig, source: str) -> None:
    """A robot's arm must not be without a master for longer than `MOST_SILENCE_S`, or `MOST_PAUSE_S` more."""
    loop = config.loop
    if not _is_a_robots(config):
        return
    if max(loop.watchdog_timeout_s, loop.lease_s) > MOST_SILENCE_S:
        raise ConfigError(
            f"{source}: loop.watchdog_timeout_s, loop.lease_s: a robot's arm would go on so long after "
            "its loop died",
            expected=f"<= {MOST_SILENCE_S:g} s each with any arm but the bench's",
            found=(loop.watchdog_timeout_s, loop.lease_s),
            remedy="set both, to 0.07 for instance",
        )
    if loop.pause_allowance_s > MOST_PAUSE_S:
        raise ConfigError(
            f"{source}: loop.pause_allowance_s: a robot's arm would go on so much longer after its loop died",
            expected=f"<= {MOST_PAUSE_S:g} s with any arm but the bench's",
            found=loop.pause_allowance_s,
            remedy="set it, to 0.015 for instance",
        )


def _check_commands(config: RobotConfig, source: str) -> None:
    """An arm with a process of its own goes into hold not between two commands, and soon after the last."""
    loop, patience_s = config.loop, config.arm.command_timeout_s
    least_s = 1.0 / loop.rate_hz + loop.pause_allowance_s
    if not _is_a_robots(config):
        return
    if patience_s <= least_s:
        raise ConfigError(
            f"{source}: arm.command_timeout_s: the arm would go into hold between two commands",
            expected=f"> {least_s:.3g} s at {loop.rate_hz:g} Hz",
            found=patience_s,
            remedy="raise it, or loop.rate_hz",
        )
    if patience_s > least_s + MOST_SILENCE_S:
        raise ConfigError(
            f"{source}: arm.command_timeout_s: the arm would go on so long after the last command",
            expected=f"<= {least_s + MOST_SILENCE_S:.3g} s at {loop.rate_hz:g} Hz",
            found=patience_s,
            remedy="lower it",
        )


def _check_finite(value: Any, source: str, key: str = "") -> None:
    """No number of the configuration may be infinite or NaN: every comparison with one passes or fails in
    silence."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_finite(inner, source, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            _check_finite(inner, source, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{source}: {key}", expected="a finite number", found=value)


def _check_gate(gate: GateSection, source: str) -> None:
    margins = {f"soft_margins.{joint}": margin for joint, margin in gate.soft_margins.items()}
    check_ranges(
        f"{source}: gate.",
        (
            *((name, value, 0.0, 1e6) for name, value in margins.items()),
            ("soft_margin", gate.soft_margin, 0.0, 1e6),
            ("jerk_time_s", gate.jerk_time_s, 0.0, 1e6),
            ("quiet_s", gate.quiet_s, 0.0, 1e6),
            ("quiet_units", gate.quiet_units, 0.01, 1e6),
            ("standstill_s", gate.standstill_s, 0.05, 1e6),
            ("max_action_age_s", gate.max_action_age_s, 0.001, 1e6),
        ),
    )
    for axis in ("x", "y", "z"):
        low, high = getattr(gate, f"workspace_{axis}_m")
        if not low < high:
            raise ConfigError(
                f"{source}: gate.workspace_{axis}_m",
                expected="low < high",
                found=f"{low:g}, {high:g}",
            )
