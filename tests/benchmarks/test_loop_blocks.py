"""Counting of the loop benchmark: one grid for every loop, blocks that are kept, whose fault is whose."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loop_blocks import Blocks, off_period, on_grid, table


def test_a_loop_that_drifts_misses_the_periods_that_it_lost() -> None:
    """A relative sleep that takes 0.1 ms too long loses a period of 10 ms in every 100 ticks."""
    starts_s = [5.0 + 0.0101 * tick for tick in range(1001)]
    lateness_s, missed = on_grid(starts_s, 100.0)
    assert len(lateness_s) == 1001 and missed == 10
    assert max(lateness_s) == pytest.approx(0.01, abs=2e-4)
    assert off_period(starts_s, 0.01) == pytest.approx([0.0001] * 1000, abs=1e-6)


@given(st.lists(st.floats(0.0, 0.05, allow_subnormal=False), min_size=1, max_size=60))
def test_ticks_and_missed_periods_add_up_to_the_time_that_passed(late_s: list[float]) -> None:
    starts_s, now_s = [0.0], 0.0
    for late in late_s:
        now_s += 0.01 + late
        starts_s.append(now_s)
    lateness_s, missed = on_grid(starts_s, 100.0)
    assert len(lateness_s) + missed == pytest.approx(now_s / 0.01 + 1, abs=1.001)
    assert all(0.0 <= one < 0.05 + 0.01 for one in lateness_s)


def block(late_s: float, ticks: int = 100, missed: int = 0) -> dict:  # type: ignore[type-arg]
    return {
        "lateness_s": [late_s] * ticks, "off_s": [0.0] * ticks, "missed": missed, "pauses": [[1.0, 1.004]],
        "seconds": 2.0, "stolen_s": 0.0, "late": [],
        "sections": {"gate_p50_s": 1e-3, "gate_p99_s": late_s}, "pictures": {},
        "frames_dropped": 0, "records_dropped": 0, "held_ticks": 0,
    }  # fmt: skip


def test_blocks_are_kept_and_the_targets_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "blocks.jsonl"
    blocks = Blocks(path)
    blocks.add("loop", block(0.0021))
    blocks.add("bare", block(0.0002))
    blocks.add("lerobot", {**block(0.004, missed=9), "stopped": "no status packet"})
    again = Blocks(path)  # after a stop
    assert [again.ticks(kind) for kind in ("loop", "bare", "lerobot")] == [100] * 3
    said = table(again.summary(50.0))
    assert "+1.90 ms (<= 2: met)" in said and "LeRobot 8.257 % (ours fewer: met)" in said
    assert "ended by itself: ['no status packet']" in said
    again.add("loop", block(0.003, missed=3))
    said = table(again.summary(50.0))
    assert "(<= 2: MISSED)" in said and "missed 1.478 % (<= 0.1: MISSED)" in said
    assert "gate 1.00 / 3.00" in said  # the worst block's


def test_a_loop_that_stopped_by_itself_is_told_beside_what_it_did_before(tmp_path: Path) -> None:
    """Only blocks that went well would otherwise be counted."""
    blocks = Blocks(tmp_path / "blocks.jsonl")
    nothing = {
        "lateness_s": [],
        "off_s": [],
        "missed": 0,
        "late": [],
        "stolen_s": 9.0,
        "seconds": 2.0,
    }
    blocks.add("loop", {**nothing, "pauses": [[1.0, 1.6]], "stopped": "the robot stopped: the bus"})
    blocks.add("loop", block(0.001))
    blocks.add("bare", block(0.0002))
    said = table(blocks.summary(50.0))
    assert "stopped by itself 1 times (the machine's longest pause 600 ms)" in said
    assert "the robot stopped: the bus" in said and "+0.80 ms" in said


def test_blocks_of_a_restless_machine_are_left_out_and_said_whoever_ran_in_them(
    tmp_path: Path,
) -> None:
    """By the probes alone: a bad block of a machine that ran counts, a good one of another does not."""
    blocks = Blocks(tmp_path / "blocks.jsonl", restless_percent=1.0)
    still, restless = {"pauses": [[1.0, 1.004]]}, {"pauses": [[1.0, 1.015], [1.01, 1.025]]}
    for kind in ("loop", "bare"):
        blocks.add(kind, {**block(0.001, missed=2), **still})
        blocks.add(kind, {**block(0.04, missed=8), **restless})
        assert blocks.ticks(kind) == 100
    blocks.add("loop", {**block(0.0005), **restless, "stopped": "the arm does not answer"})
    said = table(blocks.summary(50.0))
    assert "more than 1 % of the time: ours 2 of 3 (missed with them 3.226 %), bare 1 of 2" in said
    assert "| ours | 1.000 | 1.000 |" in said and "missed 1.961 % (<= 0.1: MISSED)" in said
    assert "stopped by itself 1 times (the machine's longest pause 15 ms)" in said
    assert "left out" not in table(Blocks(tmp_path / "blocks.jsonl").summary(50.0))
