"""Real-time chunking: what will have been executed is what the next chunk is told to begin with."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_package import LENGTH, make_package

from contracts.draws import chunk_offset
from contracts.errors import ConfigError
from contracts.package import TensorSpec
from runtime.config import PolicySection
from runtime.control.episode import Episode
from runtime.control.scheduler import Chunk, Scheduler
from runtime.models.policy import PolicyRunner


@given(
    ratio=st.integers(1, 3),
    execute=st.integers(2, 6),
    latency=st.integers(0, 6),
    lag=st.sampled_from([0.0, 1.0, 2.0]),
)
def test_the_settled_actions_are_those_that_are_executed_meanwhile(
    ratio: int, execute: int, latency: int, lag: float
) -> None:
    scheduler = Scheduler(ratio, execute)
    scheduler.begin_episode()
    rng = np.random.default_rng(0)
    executed: dict[int, Any] = {}
    asked: list[tuple[int, list[Any], int]] = []
    flight: tuple[int, int] | None = None
    for step in range(80):
        if flight is None and scheduler.is_due(step):
            flight = (step, scheduler.asked(step))
            asked.append((step, *scheduler.underway(step, lag)))
        if flight is not None and step >= flight[0] + latency:
            start, number = flight
            actions = [(float(value),) for value in rng.normal(size=execute + 12)]
            scheduler.accept(Chunk(number, start, actions, lag=lag), step)
            flight = None
        executed[step] = scheduler.choose(step).action
    assert asked[0][1:] == ([], 0)  # the first has nothing to go on from
    for step, actions, settled in asked[1:-1]:
        # The first inference showed how long one takes.
        assert settled == min(math.ceil((latency + lag) / ratio), len(actions))
        for entry in range(settled):
            at = step - lag + entry * ratio
            assert at < step + latency
            if at >= step:  # those before may be of the chunk before
                assert actions[entry] == executed[int(at)]


def test_the_slowest_of_the_last_inferences_is_reckoned_with() -> None:
    scheduler = Scheduler(1, 2)
    for step, latency in ((0, 1), (2, 4), (8, 1)):
        scheduler.accept(Chunk(0, step, [(0.0,)] * 20), step + latency)
    assert scheduler.underway(10)[1] == 4
    for step in range(12, 12 + 10):
        scheduler.accept(Chunk(0, step, [(0.0,)] * 20), step + 2)
    assert scheduler.underway(22)[1] == 2  # an old hiccup is forgotten


def test_a_take_over_is_no_inference_that_took_so_long() -> None:
    """What was under way when a person took the arm comes when it is handed back, and is not carried out."""
    scheduler = Scheduler(1, 2)
    scheduler.accept(Chunk(0, 0, [(0.0,)] * 20), 2)
    scheduler.asked(4)
    scheduler.forget(304)
    scheduler.accept(Chunk(1, 4, [(0.0,)] * 20), 304)
    scheduler.accept(Chunk(2, 304, [(0.0,)] * 20), 306)
    assert scheduler.underway(308)[1] == 2


class Head:
    """An engine that keeps what it was given."""

    def __init__(self, *more: TensorSpec) -> None:
        self.inputs = (
            TensorSpec("features", "float32", (1, 8)),
            TensorSpec("noise", "float32", (-1, LENGTH, 6)),
            *more,
        )
        self.given: dict[str, np.ndarray] = {}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.given = inputs
        return {"chunks": np.zeros((1, LENGTH, 6), np.float32)}


PREFIXED = (
    TensorSpec("prefix", "float32", (1, LENGTH, 6)),
    TensorSpec("prefix_weight", "float32", (1, LENGTH)),
)


def runner_of(folder: Path, head: Head, **section: Any) -> PolicyRunner:
    package = make_package(folder)
    trunk: Any = SimpleNamespace(
        inputs=(), run=lambda inputs: {"features": np.zeros((1, 8), np.float32)}
    )
    swapper: Any = SimpleNamespace(
        engine=head,
        run=lambda inputs: head.run(inputs),  # noqa: PLW0108  (tests replace it later)
        active=SimpleNamespace(samples=1),
        version=0,
        remember=lambda inputs: None,
    )
    return PolicyRunner(package, trunk, swapper, PolicySection(**section))


UNDERWAY = ([tuple(float(10 * k + j) for j in range(6)) for k in range(3)], 1)


def test_the_head_is_told_what_is_settled_and_what_fades(tmp_path: Path) -> None:
    head = Head(*PREFIXED)
    runner = runner_of(tmp_path, head, chunks="realtime", fade_steps=5)
    runner.infer({}, np.zeros(6), 1, (), UNDERWAY)
    weight = head.given["prefix_weight"][0].tolist()
    # Of three actions one is settled and two fade (Black et al. 2025, equation 5 with c = 2/3 and 1/3).
    fading = [c * math.expm1(c) / math.expm1(1.0) for c in (2 / 3, 1 / 3)]
    assert weight == pytest.approx([1.0, *fading] + [0.0] * (LENGTH - 3))
    np.testing.assert_array_equal(head.given["prefix"][0, :3], np.array(UNDERWAY[0], np.float32))
    assert not head.given["prefix"][0, 3:].any()


def test_what_exploration_adds_to_one_chunk_is_not_in_the_next(tmp_path: Path) -> None:
    """The head goes on from what the policy said; the arm is given that and one constant, not all of them."""
    head = Head(*PREFIXED)
    runner = runner_of(tmp_path, head, chunks="realtime", explore_deg=2.0, seed=3)
    goes_on: Any = lambda inputs: {"chunks": inputs["prefix"] + 0.0}  # noqa: E731
    runner.swapper.run = goes_on  # type: ignore[method-assign]
    runner.begin_episode("open", 5, explore=True)
    scheduler = Scheduler(1, 1)
    scheduler.begin_episode()
    episode: Any = SimpleNamespace(
        robot=SimpleNamespace(policy_lane=SimpleNamespace()),
        plan=SimpleNamespace(episode_seq=0),
        _scheduler=scheduler,
        _started_s=0.0,
        _lag=0.0,
    )
    for step in range(4):
        number = scheduler.asked(step)
        actions, settled = scheduler.underway(step)
        assert settled == min(step, 1) and not np.any(actions)
        made = runner.infer({}, np.zeros(6), number, (), (actions, settled))
        offset = chunk_offset((3, 5), number, 2.0, runner.manifest.action.units)  # type: ignore[union-attr]
        assert offset.any()
        np.testing.assert_allclose(made.actions, np.tile(offset, (LENGTH, 1)), atol=1e-6)
        episode._step = step + 1
        done = SimpleNamespace(value=made, step=step)
        episode.robot.policy_lane.poll = lambda _step, done=done: done
        Episode._take_chunk(episode)
        assert scheduler.choose(step).action == made.actions[0]  # it does explore


@pytest.mark.parametrize("chunks", ["splice", "ensemble"])
def test_other_ways_leave_such_a_head_to_start_afresh(tmp_path: Path, chunks: str) -> None:
    head = Head(*PREFIXED)
    runner_of(tmp_path, head, chunks=chunks).infer({}, np.zeros(6), 1, (), UNDERWAY)
    assert not head.given["prefix"].any() and not head.given["prefix_weight"].any()


def test_a_head_without_the_inputs_goes_on_working_and_cannot_be_asked_for_it(
    tmp_path: Path,
) -> None:
    head = Head()
    runner_of(tmp_path, head).infer({}, np.zeros(6), 1, (), UNDERWAY)
    assert set(head.given) == {"features", "noise"}
    with pytest.raises(ConfigError, match="export it again"):
        runner_of(tmp_path, head, chunks="realtime")
