"""Ages of the live stream: on one clock, with the robot's offset taken off, and none without an offset."""

from __future__ import annotations

import math

import msgspec
import pytest
from tiny_robot import session_start, step

from contracts.messages import EpisodeStart, Heartbeat
from trainer.ages import Ages

BEAT = Heartbeat("bench-0", "s1", 1, "running", 1, 0, 10.0, 0.0, 0, 0, 0, 5.0, 900.0, 0.001)
START = EpisodeStart("bench-0", "s1", 1, "open", "t", "refine", 0, "", 0, "", -1, 0.0)


def stream(pace: str = "realtime", beat: Heartbeat | None = BEAT, peer: bytes = b"1") -> Ages:
    """Step n was captured at 100 + n / 10 of the robot's clock, and is here 20 + n ms later."""
    now = [0.0]
    ages = Ages(lambda: now[0])
    if beat is not None:
        ages.heard(beat)
    ages.live(peer, msgspec.structs.replace(session_start(), pace=pace))
    ages.live(peer, START)
    for index in range(11):
        now[0] = 900.0 + 100.0 + index / 10 + 0.020 + index / 1000
        ages.live(peer, step(index))
    return ages


def test_the_offset_of_the_robots_clock_is_taken_off() -> None:
    found = stream().report("bench-0")
    assert found["live"] == 11 and found["live_age_p50_s"] == pytest.approx(0.025, rel=0.006)
    assert found["live_age_p99_s"] == pytest.approx(0.030, abs=2e-4)
    assert (found["clock_offset_s"], found["clock_error_s"]) == (900.0, 0.001)


@pytest.mark.parametrize(
    "ages",
    [
        stream(beat=None),
        stream(beat=msgspec.structs.replace(BEAT, clock_error_s=0.06)),
        stream(pace="asap"),
    ],
    ids=["no heartbeat", "an unsure clock", "simulated time"],
)
def test_no_age_is_claimed_without_a_clock(ages: Ages) -> None:
    assert "live" not in ages.report("bench-0")


def test_a_stored_episode_gets_the_robots_clock_or_none() -> None:
    assert stream().stored("bench-0") == {
        "at_s": pytest.approx(1001.03),
        "clock_offset_s": 900.0,
        "clock_error_s": 0.001,
    }
    assert set(stream().stored("bench-9")) == {"at_s"}


def test_a_robot_that_was_never_heard_has_no_clock() -> None:
    assert Ages().clock("bench-9") == (0.0, math.inf)
