"""Values of a configuration that would disarm a stop in silence are refused in one sentence."""

from __future__ import annotations

import pytest

from contracts.errors import ConfigError
from runtime.config import DEFAULT_CONFIG, load_config

ROBOT = DEFAULT_CONFIG.parent / "lerobot_arm.yaml"


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("loop.watchdog_timeout_s=.inf", r"loop\.watchdog_timeout_s"),
        ("gate.workspace_z_m=[.nan, .nan]", r"gate\.workspace_z_m\[0\]"),
        ("gate.stale_fault_s=.inf", r"gate\.stale_fault_s"),
        ("gate.max_state_age_s=.nan", r"gate\.max_state_age_s"),
        ("arm.options={velocity_deg_s: .inf}", r"arm\.options\.velocity_deg_s"),
    ],
)
def test_no_number_is_infinite_or_none(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named}: expected a finite number"):
        load_config(None, [override])


LIMITS = ("loop.watchdog_timeout_s=0.5", "loop.lease_s=0.5")


def test_a_robot_must_set_its_watchdog() -> None:
    """The defaults are the bench's, whose time stands still while a process starts."""
    load_config(ROBOT)
    for key in ("watchdog_timeout_s", "lease_s"):
        with pytest.raises(
            ConfigError, match=r"loop died.*<= 0\.5 s each with any arm but the bench's"
        ):
            load_config(ROBOT, [f"loop.{key}=10"])


@pytest.mark.parametrize("kind", ["so101", "lerobot", "workshop_arm"])
def test_an_arm_on_top_of_the_bench_is_a_robots_all_the_same(kind: str) -> None:
    """As the simulated servo bus is tried out, where a port could be any."""
    real = ["pace=realtime", f"arm.kind={kind}", "arm.options.port=/dev/ttyACM0"]
    assert load_config(None, [*real, *LIMITS]).bench.enabled
    for set_ in ((), LIMITS[:1], LIMITS[1:]):
        with pytest.raises(ConfigError, match="a robot's arm would go on so long"):
            load_config(None, [*real, *set_])
    with pytest.raises(ConfigError, match=r"pause_allowance_s: .*expected <= 1 s .*found 10"):
        load_config(
            None, [*real, *LIMITS, "loop.pause_allowance_s=10", "arm.command_timeout_s=10.2"]
        )
    load_config(None, ["pace=realtime"])  # the bench's own arm breaks nothing


def test_an_arm_does_not_go_on_long_after_the_last_command() -> None:
    load_config(ROBOT, ["loop.rate_hz=20", "arm.command_timeout_s=0.56"])
    for wrong in ("0.57", "10"):
        with pytest.raises(
            ConfigError, match=r"after the last command: expected <= 0\.565 s at 20 Hz"
        ):
            load_config(ROBOT, ["loop.rate_hz=20", f"arm.command_timeout_s={wrong}"])
    slow = ["loop.pause_allowance_s=1", "arm.command_timeout_s=1.5"]
    load_config(ROBOT, ["loop.rate_hz=20", *slow])


def test_an_arm_that_would_hold_between_two_commands_is_refused() -> None:
    load_config(ROBOT, ["loop.rate_hz=5"])
    with pytest.raises(
        ConfigError, match=r"hold between two commands: expected > 0\.348 s at 3 Hz"
    ):
        load_config(ROBOT, ["loop.rate_hz=3"])
    load_config(ROBOT, ["loop.rate_hz=3", "arm.command_timeout_s=0.5"])


def test_a_workspace_that_holds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gate\.workspace_z_m: expected low < high"):
        load_config(None, ["gate.workspace_z_m=[0.4, 0.0]"])


@pytest.mark.parametrize(
    "pose",
    [
        "[1, 0, 0]",
        "[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2]",
        "[2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]",  # stretched
        "[-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]",  # mirrored
    ],
)
def test_where_a_camera_is_is_a_rigid_transform(pose: str) -> None:
    load_config(None, ["cameras.front.pose=[0,-1,0,0.3, 1,0,0,0, 0,0,1,0.5, 0,0,0,1]"])
    with pytest.raises(ConfigError, match=r"cameras\.front\.pose: expected 16 numbers"):
        load_config(None, [f"cameras.front.pose={pose}"])


def test_who_looks_for_a_board_was_calibrated() -> None:
    calibrated = ["calibration.file=calibration.json", "calibration.drift_cameras=[front]"]
    assert load_config(None, calibrated).calibration.drift_cameras == ("front",)
    for overrides, words in (
        (calibrated[1:], "without a calibration: expected calibration.file"),
        (
            [*calibrated, "calibration.drift_cameras=[side]"],
            r"some of \['front', 'wrist'\], found side",
        ),
        ([*calibrated, "calibration.drift_px=0"], r"calibration\.drift_px: expected >= 0.01"),
        ([*calibrated, "calibration.drift_mm=.inf"], "expected a finite number"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_config(None, overrides)


@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_ring_has_room(value: str) -> None:
    with pytest.raises(ConfigError, match=r"recording\.ring_s"):
        load_config(None, [f"recording.ring_s={value}"])


@pytest.mark.parametrize("name", ["", "left_arm", "-a", "a/b", "a b", "x" * 65])
def test_a_robot_is_called_what_the_trainer_takes(name: str) -> None:
    load_config(None, ["robot.id=left-arm.2"])
    with pytest.raises(ConfigError, match=r"robot\.id: expected 1 to 64 letters"):
        load_config(None, [f"robot.id={name!r}"])
