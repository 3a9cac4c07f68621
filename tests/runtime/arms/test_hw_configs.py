"""Every hardware config is what the code takes: keys, kinds, options and README, without the hardware."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from contracts import registry
from contracts.errors import ConfigError
from runtime import preflight
from runtime.config import DEFAULT_CONFIG, RobotConfig, load_config
from runtime.run import RunPlan

FOLDER = DEFAULT_CONFIG.parent
ROBOTS = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "trainer.yaml")
REAL = ["lerobot_arm.yaml", "so101_d405_thor.yaml", "so101_d435_orin.yaml"]


def _takes(group: str, kind: str, options: dict[str, object], *first: object) -> None:
    """The constructor has these keywords, and none that it needs is left out."""
    inspect.signature(registry.load(group, kind)).bind(*first, **options)


@pytest.mark.parametrize("name", ROBOTS)
def test_a_config_is_valid_and_named_in_the_readme(name: str) -> None:
    config = load_config(FOLDER / name)
    arm = config.arm
    simulated = arm.kind in ("sim", "gymnasium")  # these are told who calls
    _takes("arms", arm.kind, arm.options, *((None, "control") if simulated else (None,)))
    for camera in config.cameras.values():
        _takes("cameras", camera.kind, camera.options, None, "name")
    lines = (FOLDER / "README.md").read_text().splitlines()
    assert any(line.startswith(f"| `{name}` | ") for line in lines)


@pytest.mark.parametrize("name", REAL)
def test_a_real_robots_config_is_a_careful_one(name: str) -> None:
    config = load_config(FOLDER / name)
    assert config.pace == "realtime"
    assert not config.bench.enabled
    assert config.loop.watchdog_timeout_s <= 0.1
    assert config.loop.pause_allowance_s <= 0.02
    assert config.gate.velocity_scale <= 0.5
    assert config.arm.at_close == "hold"
    assert config.episode.instruction
    assert config.policy.explore_deg <= 1.0


@pytest.mark.parametrize("name", REAL)
def test_no_scripted_expert_moves_a_real_arm(name: str) -> None:
    plan = RunPlan(purpose="record", driver="expert")
    with pytest.raises(ConfigError, match="simulated benches alone"):
        preflight.check(load_config(FOLDER / name), plan)


def test_every_key_of_the_arm_is_in_the_readme() -> None:
    readme = (FOLDER / "README.md").read_text()
    for field in RobotConfig().arm.__struct_fields__:
        assert f"`arm.{field}`" in readme or field in ("state_latency_s", "action_latency_s"), field


def test_all_of_issue_5_are_there() -> None:
    assert set(REAL) | {"sim.yaml"} <= set(ROBOTS)
    assert not [path for path in FOLDER.glob("*.yaml") if Path(path).stat().st_size == 0]
