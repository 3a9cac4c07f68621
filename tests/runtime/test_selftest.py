"""`robot-run selftest --trip-watchdog`: every stop there is, on the bench."""

from __future__ import annotations

import pytest
from robots import config

from contracts.errors import ConfigError
from runtime.selftest import ALL, run_selftest


@pytest.mark.slow
def test_every_stop_is_tripped_and_measured() -> None:
    lines = {line.what: line for line in run_selftest(config(), trip_watchdog=True)}
    assert all(line.ok for line in lines.values()), [str(line) for line in lines.values()]
    stops = [lines[f"stop: {trip.what}"] for trip in ALL]
    for trip, line in zip(ALL, stops, strict=True):
        words = ("in hold after", "standing") if trip.answers else ("does not acknowledge",)
        assert all(word in line.found for word in words)


@pytest.mark.parametrize("given", [("bench.enabled=false",), ("arm.kind=so101",)])
def test_it_never_moves_a_real_arm(given: tuple[str, ...]) -> None:
    """Neither without the bench nor with a port of its own on top of the bench."""
    quick = ("loop.watchdog_timeout_s=0.07", "loop.lease_s=0.07", "loop.pause_allowance_s=0.015")
    with pytest.raises(ConfigError, match="moves the arm"):
        run_selftest(config("pace=realtime", "episode.instruction=wave", *given, *quick))
