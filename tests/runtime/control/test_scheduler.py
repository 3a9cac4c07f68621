"""Splicing by measured steps, interpolation to the loop's rate, and lanes that deliver late."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import DeviceError
from runtime.control.inference import LockstepLane, ThreadLane
from runtime.control.scheduler import Chunk, Scheduler


def ramp(step: int, length: int, ratio: int = 1, number: int = 0) -> Chunk:
    """Actions whose value is the step they belong to, so that a splice error is a jump."""
    return Chunk(number, step, [(float(step + k * ratio),) for k in range(length)])


@given(
    st.integers(1, 4),
    st.integers(2, 10),
    st.integers(0, 5),
    st.lists(st.integers(0, 6), max_size=30),
)
def test_every_step_gets_the_action_that_belongs_to_it_whatever_the_latency(
    ratio: int, execute: int, spare: int, latencies: list[int]
) -> None:
    scheduler = Scheduler(ratio, execute)
    length = execute + spare + 2
    in_flight: list[tuple[int, Chunk]] = []
    newest = -1
    for step in range(200):
        if scheduler.is_due(step) and not in_flight:
            number = scheduler.asked(step)
            latency = latencies[number % len(latencies)] if latencies else 1
            in_flight.append((step + latency, ramp(step, length, ratio, number)))
        if in_flight and in_flight[0][0] <= step:
            chunk = in_flight.pop()[1]
            newest = chunk.step
            scheduler.accept(chunk)
        choice = scheduler.choose(step)
        if newest >= 0 and step - newest <= (length - 1) * ratio:
            assert choice.action == (pytest.approx(float(step)),)
        else:
            assert choice.action is None
            assert choice.chunk == -1
    assert scheduler.requests > 1


def test_a_late_chunk_loses_its_first_actions_and_an_old_one_is_ignored() -> None:
    scheduler = Scheduler(1, 4)
    scheduler.accept(ramp(10, 8, number=2))
    assert scheduler.choose(13).index == 3
    scheduler.accept(ramp(6, 8, number=1))
    assert scheduler.choose(14).chunk == 2


def test_when_a_chunk_is_used_up_the_step_holds_and_is_counted() -> None:
    scheduler = Scheduler(3, 4)
    scheduler.accept(ramp(0, 2, 3))
    values = [scheduler.choose(step).action for step in range(6)]
    assert values[:4] == [(0.0,), (1.0,), (2.0,), (3.0,)]
    assert values[4:] == [None, None]
    assert scheduler.held == 2


def test_a_lockstep_lane_delivers_as_late_as_it_was_told() -> None:
    lane: LockstepLane[int] = LockstepLane(2)
    lane.submit(lambda: 7, 5)
    assert lane.busy
    assert [lane.poll(step) is not None for step in (5, 6, 7)] == [False, False, True]
    assert not lane.busy


def test_a_thread_lane_does_not_stop_the_loop_and_carries_errors() -> None:
    lane: ThreadLane[int] = ThreadLane("test")
    gate = threading.Event()
    lane.submit(lambda: (gate.wait(5), 3)[1], 0)
    start = time.perf_counter()
    assert lane.poll(1) is None
    assert time.perf_counter() - start < 0.05
    gate.set()
    deadline = time.monotonic() + 5
    while (result := lane.poll(2)) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert result is not None
    assert result.value == 3
    lane.submit(lambda: 1 // 0, 3)
    while (result := lane.poll(4)) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert result is not None
    assert isinstance(result.error, ZeroDivisionError)
    lane.close()


def test_what_fails_again_and_again_leaves_its_trace_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def at_every_scoring() -> int:
        raise KeyError("front")

    def elsewhere() -> int:
        raise KeyError("front")

    def declared() -> int:
        raise DeviceError("the camera is gone")

    lane: LockstepLane[int] = LockstepLane(0)
    for step, job in enumerate((at_every_scoring, at_every_scoring, elsewhere, declared)):
        lane.submit(job, step)
        done = lane.poll(step)
        assert done is not None and done.error is not None
    told = capsys.readouterr().err
    assert told.count("Traceback") == 2 and "camera" not in told
    assert told.count("in at_every_scoring") == told.count("in elsewhere") == 1
