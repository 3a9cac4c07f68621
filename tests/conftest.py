"""Puts this folder on the path, so that tests of all rooms share `tiny_package` and `tiny_robot`.

The repository comes first: otherwise the folders here (contracts, runtime, ...) would pass for the rooms.
"""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from steadiness import Steadiness

REALTIME_FOLDERS = (
    *("benchmarks", "runtime/arms", "runtime/cameras", "runtime/operator", "runtime/teleoperation"),
    *("trainer/reward_service", "trainer/rewards/endpoint"),
)
REALTIME_FILES = {
    *("test_example_package", "test_truth_stays_out"),
    *("test_capture_run", "test_capture_run_page", "test_latency_run"),
    *("test_broken_connections", "test_doorman", "test_doorman_limits", "test_enrolment"),
    *("test_chaos", "test_faults_interrupted", "test_injection", "test_wall_clock"),
    *("test_lerobot_arm", "test_lerobot_packages"),
    *("test_calibration_binding", "test_gym_robot", "test_robot_run", "test_selftest"),
    *("test_pulse", "test_watchdog", "test_gate_stops", "test_onnxruntime_speed"),
    *("test_pauses", "test_realtime", "test_room", "test_scheduler", "test_tick"),
    *("test_demo", "test_doctor", "test_doctor_keys", "test_crew", "test_stops"),
    *("test_live_stream", "test_next_key", "test_opening", "test_stream_and_reward"),
    *("test_recorder", "test_recorder_full_disk", "test_recorder_kills"),
    *("test_probation_run", "test_swap", "test_swap_ahead", "test_wrong_releases"),
    *("test_release_cable", "test_release_encodings", "test_releases"),
    *("test_collect", "test_daemon", "test_keys_end_to_end", "test_keys_end_to_end_changes"),
    *("test_monitors_pause", "test_reward_heads", "test_sharing"),
}
"""Whose tests start programs and watch a clock: see `steadiness`. No two test files share a name."""
LONG_TESTS = Path(__file__).resolve().parent / "long_tests.txt"
"""What `make test` leaves out and CI runs; tools/long_tests.py writes it from a whole run's durations."""

# How long one example took says how busy the machine is.
settings.register_profile("entracte", deadline=None)
settings.load_profile("entracte")


def pytest_configure(config: pytest.Config) -> None:
    # In parallel (pytest-xdist) nothing that watches a clock is run.
    if not getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Steadiness(), "steadiness")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).resolve().parent
    long = set(LONG_TESTS.read_text().splitlines())
    for item in items:
        folder = item.path.parent.relative_to(here).as_posix()
        if item.path.stem in REALTIME_FILES or folder.startswith(REALTIME_FOLDERS):
            item.add_marker("realtime")
        if item.nodeid in long:
            item.add_marker("long")
    if not any("::" in argument for argument in config.args):  # then every file here is whole
        # Without parameters: what is installed decides which there are.
        there = {item.nodeid.partition("[")[0] for item in items}
        files = {name.partition("::")[0] for name in there}
        wanted = {name.partition("[")[0] for name in long if name.partition("::")[0] in files}
        if gone := sorted(wanted - there):
            raise pytest.UsageError(
                f"{LONG_TESTS.name} names tests that are not there any more: {', '.join(gone)}; "
                "put their new names in, or make it anew (tools/long_tests.py)"
            )
