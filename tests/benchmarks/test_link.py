"""`robot-bench link`: the whole rig for a second, its figures from known numbers, and what it refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import link_scene
from benchmarks.link_command import seconds_of
from benchmarks.link_figures import slope
from benchmarks.link_race import Lane
from benchmarks.link_verdicts import BARE, OURS, PICKLED, of_race, of_soak
from contracts import images
from contracts.errors import ConfigError


def samples(mb_min: float, noise_mb: float, minutes: float) -> list[dict[str, float]]:
    rng = np.random.default_rng(0)
    return [
        {
            "at_s": 1000.0 + second,
            # Fast growth at first: a program that warms up.
            "rss_mb": 100 * (1 - math.exp(-second / 20))
            + mb_min * second / 60
            + rng.normal(0, noise_mb),
            "descriptors": 30 + (second == 5),
            "threads": 7,
        }
        for second in range(int(60 * minutes))
    ]


@pytest.mark.parametrize("grows", [0.0, 0.5, 2.0])
def test_a_slope_is_found_with_an_interval_that_holds_it(grows: float) -> None:
    found = slope(samples(grows, 2.0, 30), warm_up_s=180)
    assert found.low < grows < found.high and found.high - found.low < 0.5
    assert found.descriptors == (30, 30), "what was before the warm-up does not count"


def lane(name: str, frames_s: float, frames_cpu_s: float) -> Lane:
    return Lane(name, frames_s, frames_cpu_s, 0.4)


@pytest.mark.parametrize(
    ("bare", "pickled", "met"),
    [(100.0, 20.0, [True, True]), (101.0, 20.0, [False, True]), (100.0, 20.2, [True, False])],
)
def test_a_race_is_judged(bare: float, pickled: float, met: list[bool]) -> None:
    lanes = [lane(OURS, 80.0, 100.0), lane(BARE, bare, 1.0), lane(PICKLED, 1.0, pickled)]
    assert [verdict.met for verdict in of_race(lanes)] == met


def test_a_peer_that_did_not_run_is_no_success() -> None:
    lanes = [lane(OURS, 80.0, 100.0), lane(BARE, 80.0, 1.0), Lane(PICKLED, absent="no grpcio")]
    assert [verdict.met for verdict in of_race(lanes)] == [True, False]
    assert of_race([]) == []


@pytest.mark.parametrize(("grows", "met"), [(0.5, True), (1.0, False)])
def test_a_soak_is_judged_by_the_whole_interval(grows: float, met: bool) -> None:
    first = of_soak({"link": slope(samples(grows, 2.0, 30), warm_up_s=180)})[0]
    assert first.met is met and "95 %" in str(first)


def test_a_soak_that_opens_more_and_more_is_a_miss() -> None:
    leaks = samples(0.0, 1.0, 10)
    steady = [verdict.met for verdict in of_soak({"link": slope(leaks, warm_up_s=60)})]
    for second, sample in enumerate(leaks):
        sample["threads"] += second // 100
    grows = [verdict.met for verdict in of_soak({"link": slope(leaks, warm_up_s=60)})]
    assert steady == [True, True, True] and grows == [True, True, False]


def test_few_readings_have_a_wide_interval() -> None:
    """Student's: with four means 4.3 standard errors to a side, not 2."""
    found = slope(
        [
            {"at_s": 60.0 * at, "rss_mb": mb, "descriptors": 1, "threads": 1}
            for at, mb in enumerate((0.0, 2.0, 2.0, 4.0))
        ],
        warm_up_s=0.0,
    )
    error = math.sqrt(0.8 / 2 / 5.0)
    assert found.mb_min == pytest.approx(1.2)
    assert found.high - found.mb_min == pytest.approx(4.303 * error, rel=1e-3)


def test_too_short_a_run_has_no_slope_to_speak_of() -> None:
    found = slope(samples(0.0, 1.0, 0.05), warm_up_s=2.0)
    assert found.high == math.inf


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-3m", "3 days"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="30m or 2h"):
        seconds_of(text)


def test_the_pictures_are_as_hard_to_compress_as_a_cameras() -> None:
    for moment in link_scene.views(2):
        for (rgb, depth), _ in ((picture, name) for name, picture in moment.items()):
            assert 50_000 < len(images.encode_jpeg(rgb, 95)) < 90_000
            assert 70_000 < len(images.encode_depth(depth)) < 130_000


def test_a_second_of_the_whole_rig_stores_what_it_pushed() -> None:
    command = [sys.executable, "-m", "benchmarks.app", "link", "--seconds", "1", "--episode-s", "1"]
    done = subprocess.run(
        [*command, "--no-peers", "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    steady = json.loads(done.stdout)["steady"]
    assert steady["encrypted"] and steady["frames"] >= 30
    assert steady["ages"]["steps"] == steady["frames"] - steady["ring_drops"]
    p50_s, p99_s = steady["ages"]["last"]
    assert 0.0 < p50_s <= p99_s < 60.0
    assert abs(steady["clock_offset_s"]) <= steady["ages"]["error"] < 1.0
