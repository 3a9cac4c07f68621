"""Which demonstrations a refiner learns from: those that its base policy was imitated from, at their rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_policy

from contracts import registry
from contracts.errors import ConfigError
from contracts.files.packages import Package
from trainer.policies.flow import FlowPolicy
from trainer.refiners.experience import FrozenTrunk


@pytest.fixture(scope="module")
def trunk(package: Package) -> FrozenTrunk:
    return FrozenTrunk(package, FlowPolicy.from_package(package))


def test_one_that_a_person_marked_as_failed_is_none(trunk: FrozenTrunk, tmp_path: Path) -> None:
    """Imitation leaves it out; as a success it would be imitated, and critics would believe it."""
    (kept,) = trunk.demonstrations([small_policy.record(tmp_path / "data", failed=(0,))], thin=2)
    assert kept.success
    np.testing.assert_array_equal(kept.chunks[0], small_policy.episode(101, 8).actions[:4])


def test_where_all_failed_there_is_nothing_to_learn_from(
    trunk: FrozenTrunk, tmp_path: Path
) -> None:
    data = small_policy.record(tmp_path / "data", failed=(0, 1))
    with pytest.raises(ConfigError, match="no episode to learn from"):
        trunk.demonstrations([data], thin=2)


@pytest.mark.parametrize("fps", [5, 15, 25])
def test_a_rate_that_chunks_do_not_divide_is_refused(
    package: Package, tmp_path: Path, fps: int
) -> None:
    """Every second of 15 rows a second would pass for one of 10."""
    data = small_policy.record(tmp_path / "data", fps=fps)
    with pytest.raises(
        ConfigError, match=rf"expected a multiple of 10 steps a second, found {fps}"
    ):
        registry.load("refiners", "bestofn")(
            package=package.folder, demonstrations=[data], options={}, seed=0
        )


def test_a_faster_one_is_thinned_to_the_chunk_rate(trunk: FrozenTrunk, tmp_path: Path) -> None:
    data = small_policy.record(tmp_path / "data", fps=20)
    first, _ = trunk.demonstrations([data], thin=1)
    actions = small_policy.episode(100, 8).actions
    np.testing.assert_array_equal(first.chunks[0], actions[[0, 2, 4, 6]])
    assert len(first.chunks) == 4
