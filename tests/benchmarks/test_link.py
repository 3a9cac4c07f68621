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
