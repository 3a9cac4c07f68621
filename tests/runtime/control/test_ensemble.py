"""Temporal ensembling against a plain reference: every chunk kept, every weight computed anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.control.ensemble import Ensemble
from runtime.control.scheduler import Chunk, Scheduler

LENGTH, JOINTS = 6, 2


def reference(
    chunks: list[tuple[int, np.ndarray]], step: int, ratio: int, decay: float
) -> np.ndarray:
    """Zhao et al. 2023: the mean over all chunks that reach the step, exp(-decay i), i = 0 the oldest."""
    reached = []
    for start, actions in chunks:
        place = (step - start) / ratio
        if 0 <= place <= len(actions) - 1:
            columns = [np.interp(place, np.arange(LENGTH), column) for column in actions.T]
            reached.append(np.array(columns))
    weights = [math.exp(-decay * i) for i in range(len(reached))]
    return sum(w * a for w, a in zip(weights, reached, strict=True)) / sum(weights)  # type: ignore[no-any-return]


@given(
    ratio=st.integers(1, 3),
    execute=st.integers(1, 6),
    decay=st.sampled_from([0.0, 0.01, 0.5, -0.3]),
    latency=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
def test_it_equals_the_plain_reference_at_every_step(
    ratio: int, execute: int, decay: float, latency: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ensemble = Ensemble(LENGTH // execute + 1, LENGTH, JOINTS, ratio, decay)
    scheduler = Scheduler(ratio, execute, ensemble)
    scheduler.begin_episode()
    chunks: list[tuple[int, np.ndarray]] = []
    in_flight: tuple[int, np.ndarray] | None = None
    acted = 0
    for step in range(60):
        if in_flight is None and scheduler.is_due(step):
            scheduler.asked(step)
            in_flight = (step, rng.normal(size=(LENGTH, JOINTS)))
        if in_flight is not None and step >= in_flight[0] + latency:
            start, actions = in_flight
            scheduler.accept(Chunk(len(chunks), start, [tuple(a) for a in actions]), step)
            chunks.append(in_flight)
            in_flight = None
        choice = scheduler.choose(step)
        if choice.action is not None:
            acted += 1
            expected = reference(chunks, step, ratio, decay)
            np.testing.assert_allclose(choice.action, expected, rtol=1e-9, atol=1e-12)
    assert acted > 20


def test_one_chunk_alone_is_executed_as_it_is_and_a_new_episode_forgets_the_last() -> None:
    ensemble = Ensemble(3, LENGTH, JOINTS, 1, 0.01)
    first = np.arange(12.0).reshape(LENGTH, JOINTS)
    ensemble.add(0, first)
    assert ensemble.blend(2) == pytest.approx((4.0, 5.0))
    ensemble.clear()
    ensemble.add(0, -first)
    assert ensemble.blend(2) == pytest.approx((-4.0, -5.0))
