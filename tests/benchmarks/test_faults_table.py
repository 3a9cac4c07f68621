"""Whose a trip is: the machine's where it stood still for what the watchdog missed, else a false one."""

from __future__ import annotations

import pytest

from benchmarks.faults import MACHINE_MS, good, machine_ms, table

AT_S = 1000.0
CLEAN = {"seconds": 300.0, "ticks": 9000, "missed": 0, "trips": 0}
FOUND = {"causes": {}, "skipped": {}, "aside": {}}


@pytest.mark.parametrize(
    "pauses, expected",
    [
        ([], 0.0),
        ([(AT_S - 0.06, AT_S - 0.01)], 50.0),
        ([(AT_S - 5.0, AT_S - 0.04)], 30.0),  # the rest was before the silence
        ([(AT_S - 0.05, AT_S - 0.02), (AT_S - 0.04, AT_S + 9.0)], 50.0),  # two processors at once
    ],
)
def test_only_the_pause_within_the_silence_counts(pauses, expected: float) -> None:
    assert machine_ms(AT_S, pauses) == pytest.approx(expected, abs=0.11)
    assert machine_ms(0.0, pauses) == 0.0, "nothing tripped"


def test_a_trip_in_a_pause_of_the_machine_is_told_apart_and_any_other_is_false() -> None:
    theirs = {**CLEAN, "trips": 1, "machine_ms": MACHINE_MS}
    ours = {**CLEAN, "trips": 1, "machine_ms": MACHINE_MS - 1}
    for rows, false, good_enough in (([CLEAN, theirs], 0, True), ([CLEAN, theirs, ours], 1, False)):
        found = {**FOUND, "clean": rows}
        assert good(found) is good_enough
        said = table(found)
        assert f"{false} false trips, 1 more where the machine itself stood still" in said
    assert "0 false trips, 0 missed" in table({**FOUND, "clean": [CLEAN]})


def test_runs_set_aside_are_told() -> None:
    said = table({**FOUND, "clean": [], "aside": {"disk full": 2, "clock step": 1}})
    assert "3 runs that the watchdog ended before their injection" in said
