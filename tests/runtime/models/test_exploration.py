"""Exploration: a constant of its own per chunk and joint, in refinement only, inside the action limits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from contracts.errors import ConfigError, PackageError
from contracts.package import ChunkSpec
from runtime.config import PolicySection, load_config
from runtime.models.policy import PolicyFault, PolicyRunner

LENGTH = 4
LOW, HIGH = (-10.0,) * 5 + (0.0,), (10.0,) * 5 + (100.0,)


def _runner(explore_deg: float, **settings: float) -> PolicyRunner:
    action = SimpleNamespace(
        names=tuple("abcdef"), units=("deg",) * 5 + ("percent",), low=LOW, high=HIGH
    )
    manifest = SimpleNamespace(
        chunk=ChunkSpec(LENGTH, 10.0, 1, 1.0),
        action=action,
        vocabulary=("open",),
        instruction_length=4,
        cameras=(),
        image_width=32,
        image_height=24,
        settings=settings,
    )
    chunks = np.full((1, LENGTH, 6), 9.5, np.float32)
    head = SimpleNamespace(
        inputs=(),
        run=lambda inputs: {"chunks": chunks, "values": np.zeros(1), "choice": np.zeros(1, int)},
    )
    swapper = SimpleNamespace(
        engine=head,
        run=lambda inputs: head.run(inputs),  # noqa: PLW0108  (tests replace it later)
        version=0,
        active=SimpleNamespace(samples=1),
        remember=lambda inputs: None,
    )
    package: Any = SimpleNamespace(manifest=manifest, folder="p")
    trunk: Any = SimpleNamespace(
        inputs=(), run=lambda inputs: {"features": np.zeros((1, 8), np.float32)}
    )
    section = PolicySection(explore_deg=explore_deg, seed=3)
    return PolicyRunner(package, trunk, swapper, section)  # type: ignore[arg-type]


def _offsets(runner: PolicyRunner, seed: int, explore: bool) -> np.ndarray:
    """float[3, 6]: by how much each of an episode's first three chunks is off."""
    runner.begin_episode("open", seed, explore=explore)
    made = np.array([np.array(runner.infer({}, np.zeros(6), k).actions) - 9.5 for k in range(3)])
    assert np.ptp(made, axis=1).max() == 0.0, "the same for every action of a chunk"
    offsets: np.ndarray = made[:, 0]
    return offsets


def test_each_chunk_of_refinement_has_an_offset_of_its_own() -> None:
    runner = _runner(1.5)
    drawn = np.array([_offsets(runner, seed, True) for seed in range(40)])
    assert (drawn[..., 5] == 0.0).all(), "the gripper's percent is left alone"
    assert (drawn[..., :5] + 9.5 <= 10.0 + 1e-6).all(), "never beyond the action's limits"
    below = drawn[..., :5][drawn[..., :5] < 0]
    assert 0.8 < np.sqrt((below**2).mean()) < 2.2
    assert len({offsets.tobytes() for offsets in drawn[:, :, :5].reshape(-1, 5)}) > 110
    np.testing.assert_array_equal(drawn[7], _offsets(runner, 7, True))


def test_elsewhere_nothing_is_added() -> None:
    runner = _runner(1.5)
    _offsets(runner, 1, True)
    assert not _offsets(runner, 1, False).any(), "an evaluation after a refinement"
    assert not _offsets(_runner(0.0), 1, True).any(), "switched off"


def test_a_wild_exploration_is_refused(tmp_path: Any) -> None:
    from pathlib import Path

    sim = Path(__file__).parents[3] / "hw_configs" / "sim.yaml"
    with pytest.raises(ConfigError, match="explore_deg"):
        load_config(sim, ["policy.explore_deg=40"])


@pytest.mark.parametrize("steps", [0.0, -1.0, 1.5, 17.0, 1e9, float("nan")])
def test_a_number_of_observations_that_is_none_is_refused_before_anything_moves(
    steps: float,
) -> None:
    assert _runner(0.0, observation_steps=2.0).observations == 2
    with pytest.raises(PackageError, match="a whole number from 1 to 16"):
        _runner(0.0, observation_steps=steps)


@pytest.mark.parametrize("where", ["_trunk", "engine"])
def test_what_is_not_finite_faults_and_is_never_replayed_to_a_release(where: str) -> None:
    """On some engines a head makes finite actions of NaN; one that doesn't must not spoil the next replay."""
    runner = _runner(0.0)
    remembered: list[Any] = []
    runner.swapper.remember = remembered.append  # type: ignore[method-assign]
    runner.begin_episode("open", 1)
    runner.infer({}, np.zeros(6), 0)
    assert len(remembered) == 1
    engine: Any = runner._trunk if where == "_trunk" else runner.swapper.engine
    name = "features" if where == "_trunk" else "chunks"
    engine.run = lambda _: {name: np.full((1, LENGTH, 6), np.nan, np.float32)}
    with pytest.raises(PolicyFault, match="holds NaN or infinity"):
        runner.infer({}, np.zeros(6), 1)
    assert len(remembered) == 1
