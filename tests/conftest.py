"""Puts this folder on the path, so that tests of all rooms share `tiny_package` and `tiny_robot`.

The repository comes first: otherwise the folders here (contracts, runtime, ...) would pass for the rooms.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from steadiness import Steadiness

REALTIME = (
    *("benchmarks/", "faults/test_chaos", "faults/test_injection", "faults/test_wall_clock"),
    *(
        "calibration/test_capture_run",
        "calibration/test_latency_run",
        "contracts/test_broken",
        "contracts/test_doorman",
    ),
    *("contracts/test_enrolment", "peers/test_lerobot_arm", "peers/test_lerobot_packages"),
    *("runtime/arms/", "runtime/cameras/", "runtime/operator/", "runtime/teleoperation/"),
    *(
        "runtime/test_calibration_binding",
        "runtime/test_crew",
        "runtime/test_demo",
        "runtime/test_doctor",
    ),
    *("runtime/test_gym_robot", "runtime/test_next_key"),
    *("runtime/test_gate_stops", "runtime/test_live_stream", "runtime/test_opening"),
    *("runtime/test_pauses", "runtime/test_probation_run", "runtime/test_pulse"),
    *("runtime/test_realtime", "runtime/test_recorder", "runtime/test_release"),
    *("runtime/test_robot_run", "runtime/test_room", "runtime/test_scheduler"),
    *("runtime/test_selftest", "runtime/test_stops", "runtime/test_stream_and_reward"),
    *("runtime/test_swap", "runtime/test_tick", "runtime/test_watchdog", "runtime/test_wrong"),
    *("runtime/engines/test_onnxruntime_speed", "test_example_package", "test_truth_stays_out"),
    *(
        "trainer/reward_service/",
        "trainer/rewards/endpoint/",
        "trainer/test_collect",
        "trainer/test_daemon",
        "trainer/test_keys_end_to_end",
    ),
    *("trainer/monitors/test_monitors_pause", "trainer/test_reward_heads", "trainer/test_sharing"),
)
"""Whose tests start programs and watch a clock: see `steadiness`."""

# How long one example took says how busy the machine is.
settings.register_profile("entracte", deadline=None)
settings.load_profile("entracte")


def pytest_configure(config: pytest.Config) -> None:
    # In parallel (pytest-xdist) nothing that watches a clock is run.
    if not getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Steadiness(), "steadiness")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).resolve().parent
    for item in items:
        if str(item.path.relative_to(here)).startswith(REALTIME):
            item.add_marker("realtime")
