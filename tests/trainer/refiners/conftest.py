"""One package, one data set of demonstrations for all refiners' tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_policy
from driven_episode import Driver

from contracts.files.packages import Package
from trainer.policies.actors import with_actor
from trainer.policies.noise_actor import NoiseConfig, SteeredHead
from trainer.policies.residual import ResidualConfig, ResidualHead


@pytest.fixture(scope="session")
def package(tmp_path_factory) -> Package:
    return small_policy.packaged(
        small_policy.policy(), tmp_path_factory.mktemp("policy") / "package"
    )


@pytest.fixture(scope="session")
def steered(tmp_path_factory) -> Package:
    """The same kind of policy behind a noise actor."""
    settings = NoiseConfig(bound=1.5, hidden=32)
    behind = with_actor(small_policy.policy(), SteeredHead, settings)
    return small_policy.packaged(behind, tmp_path_factory.mktemp("steered") / "package")


@pytest.fixture(scope="session")
def corrected(tmp_path_factory) -> Package:
    """The same kind of policy with a residual, the gripper's too."""
    settings = ResidualConfig(degrees=5.0, share=0.1, hidden=32)
    before = with_actor(small_policy.policy(), ResidualHead, settings)
    return small_policy.packaged(before, tmp_path_factory.mktemp("corrected") / "package")


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory) -> Path:
    return small_policy.record(tmp_path_factory.mktemp("demonstrations"))


@pytest.fixture(scope="session")
def driver(package) -> Driver:
    """Acts by that package, and explores."""
    return Driver(package)
