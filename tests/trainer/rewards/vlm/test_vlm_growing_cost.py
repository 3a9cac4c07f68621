"""What caching is worth, as a ratio within one run."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_vlm import build_vlm

from benchmarks.reward_growing import measure, table


@pytest.mark.slow
def test_a_growing_episode_of_40_frames_is_three_times_cheaper(tmp_path: Path) -> None:
    cost = measure(build_vlm(tmp_path / "model", width=256), repeats=2)
    assert cost.largest_difference < 1e-3
    assert cost.ratio >= 3, table(cost)
