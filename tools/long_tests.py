"""Which tests take long: writes tests/long_tests.txt from what pytest said of a whole run.

    ALL=1 PYTEST_ADDOPTS="--durations=0" make test > log; python tools/long_tests.py log

`make test` leaves the listed ones out (tests/conftest.py marks them `long`); `ALL=1 make test`, as CI runs
it, has all. The two halves have a bound each: one uses every core, the other runs one test at a time. Beside
the other half what computes takes up to three times as long: raise its bound, or give this a run of its own.
"""

import re
import sys
from pathlib import Path

LIST = Path(__file__).resolve().parent.parent / "tests/long_tests.txt"
COMPUTES_S, WATCHES_A_CLOCK_S = 1.0, 1.5
KEPT = (
    "tests/faults/test_injection.py::test_the_arm_is_stopped_by_whom_it_should_be[NaN action]",
    "tests/runtime/arms/test_robot_run_with_an_arm.py::test_an_episode_moves_the_arm_and_leaves_it_powered",
    "tests/runtime/demo/test_demo.py::test_a_whole_demo",
    "tests/runtime/gate/test_gate_smooth.py::TestAnyCommands::runTest",
    "tests/runtime/operator/test_web.py::test_every_button_and_key_works_against_a_real_run",
    "tests/runtime/processes/test_stops.py::test_an_emergency_stop_holds_at_once_is_verified_and_never_resumes",
    "tests/test_truth_stays_out.py::test_truth_is_told_to_nobody_who_learns",
    "tests/trainer/test_daemon.py::test_a_killed_trainer_goes_on_from_the_last_iteration",
    "tests/trainer/test_keys_end_to_end.py::test_from_enrolment_to_revocation_and_back",
)
"""Long, and the shortest that shows what nothing shorter does: a whole run, a stop, a key's life."""
PHASE = re.compile(r"\s*([\d.]+)s (?:call|setup|teardown)\s+(tests/\S.*)")


def seconds(log: Path) -> dict[str, tuple[float, float]]:
    """Of each test: seconds of its phases together, and the bound of its half."""
    found: dict[str, tuple[float, float]] = {}
    bound_s = COMPUTES_S
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("== tests that"):
            bound_s = WATCHES_A_CLOCK_S if "clock" in line else COMPUTES_S
        phase = PHASE.fullmatch(line)
        if phase:
            found[phase[2]] = (found.get(phase[2], (0.0, 0.0))[0] + float(phase[1]), bound_s)
    return found


def main() -> None:
    found = seconds(Path(sys.argv[1]))
    if not found:
        sys.exit(
            f"{sys.argv[1]} has no durations of tests: make it with PYTEST_ADDOPTS=--durations=0"
        )
    listed = sorted(
        name for name, (took_s, bound_s) in found.items() if took_s > bound_s and name not in KEPT
    )
    LIST.write_text("".join(f"{name}\n" for name in listed))
    left_s = sum(took_s for name, (took_s, _) in found.items() if name not in listed)
    print(
        f"{LIST.name}: {len(listed)} of {len(found)} tests; the others took {left_s:.0f} s together"
    )


if __name__ == "__main__":
    main()
