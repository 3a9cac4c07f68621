"""A policy with a residual runs like any other, acts as its base until it learned, and stays in bounds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_flow import make_config, make_examples, make_policy
from typer.testing import CliRunner

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package, load_package
from contracts.package import PREFIX, PREFIX_WEIGHT, no_prefix
from export.app import app
from export.check import check_package
from export.policy import package_policy
from runtime.config import PolicySection
from runtime.engines import EngineOptions, open_engine
from runtime.models.policy import PolicyRunner
from trainer.policies.actors import actor_tensors, policy_of_package, with_actor
from trainer.policies.residual import ResidualConfig, ResidualHead

PRETRAINED = Path(__file__).parents[2] / "pretrained" / "policy-open_drawer"
DEGREES, SHARE = 4.0, 0.1


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("residual") / "package"
    words = ["policy", str(PRETRAINED), str(folder), "--residual", str(DEGREES)]
    result = CliRunner().invoke(app, [*words, "--residual-share", str(SHARE)])
    assert result.exit_code == 0, result.output
    return load_package(folder)


def _head_inputs(package: Package, case: int) -> dict[str, np.ndarray]:
    inputs = dict(package.golden["head"][case].inputs)
    draws = np.random.default_rng(5).normal(size=inputs["noise"].shape)
    return {**inputs, "noise": draws.astype(np.float32)}


def _bounds(package: Package) -> np.ndarray:
    """float32[A]: what the package was asked for, in each joint's unit."""
    action = package.manifest.action
    assert action is not None
    ranges = np.array(action.high) - np.array(action.low)
    in_degrees = np.array([unit == "deg" for unit in action.units])
    assert in_degrees.any() and not in_degrees.all()  # a gripper is among them
    return np.where(in_degrees, DEGREES, SHARE * ranges).astype(np.float32)


def test_a_release_carries_the_residual_alone_and_all_else_is_the_base_policys(
    package: Package,
) -> None:
    base = load_package(PRETRAINED)
    names = {spec.name for spec in package.manifest.refinable}
    head = policy_of_package(package, ResidualHead).head
    assert isinstance(head, ResidualHead)
    assert names == set(actor_tensors(head)) and len(names) == 8
    assert package.weights.keys() - base.weights.keys() == {*names, "head/residual_bound"}
    np.testing.assert_allclose(package.weights["head/residual_bound"], _bounds(package), rtol=1e-6)
    for name, tensor in base.weights.items():
        np.testing.assert_array_equal(package.weights[name], tensor)
    graphs = [p.manifest.graph("head") for p in (base, package)]
    assert graphs[0].outputs == graphs[1].outputs
    prefix = (PREFIX, PREFIX_WEIGHT)
    assert graphs[1].inputs == tuple(s for s in graphs[0].inputs if s.name not in prefix)


def test_a_robot_is_refused_that_wants_it_to_go_on_from_a_chunk_under_way(package: Package) -> None:
    """That chunk is shifted already: the residual would be put on itself."""
    trunk, head = (open_engine(package, graph, EngineOptions()) for graph in ("trunk", "head"))
    swapper: Any = SimpleNamespace(engine=head)
    for chunks in ("splice", "ensemble"):
        PolicyRunner(package, trunk, swapper, PolicySection(chunks=chunks))
    with pytest.raises(ConfigError, match=r"^policy\.chunks: .*; set policy\.chunks=splice"):
        PolicyRunner(package, trunk, swapper, PolicySection(chunks="realtime"))


def test_it_answers_alike_in_torch_onnx_and_engine(package: Package) -> None:
    report = check_package(package.folder, ["onnxruntime"])
    assert report.holds and not report.notes
    assert {one.right for one in report.comparisons} == {"torch", "onnx", "onnxruntime"}


@pytest.mark.parametrize("case", [0, 2])
def test_an_untrained_residual_acts_exactly_like_the_base(package: Package, case: int) -> None:
    inputs, bare = _head_inputs(package, case), load_package(PRETRAINED)
    nothing = no_prefix(bare.manifest.graph("head").inputs)
    base = open_engine(bare, "head", EngineOptions()).run({**inputs, **nothing})
    fresh = open_engine(package, "head", EngineOptions()).run(inputs)
    assert base.keys() == fresh.keys()
    for name, found in fresh.items():
        np.testing.assert_array_equal(found, base[name])


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_pushed_residual_shifts_the_chunk_by_no_more_than_its_bound(
    package: Package, side: float
) -> None:
    """With outputs far outside, every joint ends at the bound or at its limit."""
    weights = package.refinable_weights()
    weights["head/residual.out.bias"] = np.full(6, 50.0 * side, np.float32)
    standby = open_engine(package, "head", EngineOptions()).standby(weights)
    action = package.manifest.action
    assert action is not None
    low, high = np.array(action.low, np.float32), np.array(action.high, np.float32)
    inputs = _head_inputs(package, 2)
    fresh = open_engine(package, "head", EngineOptions()).run(inputs)["chunks"].copy()
    answer = standby.run(inputs)["chunks"]
    expected = np.clip(fresh + side * _bounds(package), low, high)
    np.testing.assert_allclose(answer, expected, atol=1e-3)
    assert np.abs(answer - fresh).max() > 0.9 * DEGREES


def test_an_older_head_without_real_time_chunking_takes_one_too(tmp_path: Path) -> None:
    bare = package_policy(make_policy(), make_examples(), tmp_path / "bare", prefixed=False)
    words = ["policy", str(bare.folder), str(tmp_path / "package"), "--residual", "2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    names = [spec.name for spec in load_package(tmp_path / "package").manifest.graph("head").inputs]
    assert names == ["features", "noise"]


@pytest.mark.parametrize(
    "residual",
    [
        ResidualConfig(degrees=-1.0),
        ResidualConfig(degrees=float("nan")),
        ResidualConfig(degrees=float("inf")),
        ResidualConfig(share=1.5),
        ResidualConfig(degrees=0.0, share=0.0),
        ResidualConfig(layers=0),
    ],
)
def test_a_bound_or_size_that_is_none_is_refused(residual: ResidualConfig) -> None:
    with pytest.raises(PackageError, match=r"bound of a residual|residual actor's sizes"):
        ResidualHead(make_config(), residual)


def test_a_package_of_another_kind_is_refused(package: Package) -> None:
    with pytest.raises(
        PackageError, match=r"'flow-residual'.*'flow'.*robot-export policy --residual"
    ):
        policy_of_package(load_package(PRETRAINED), ResidualHead)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ("--noise-actor 1.5", "one actor"),
        ("--robot-type so101", "leave out the options of LeRobot"),
        ("--steps 5", "leave out the options of LeRobot"),
    ],
)
def test_what_does_not_go_with_a_residual_is_not_ignored(
    told: str, why: str, tmp_path: Path
) -> None:
    words = ["policy", str(PRETRAINED), str(tmp_path / "package"), "--residual", "3"]
    done = CliRunner().invoke(app, [*words, *told.split()])
    assert isinstance(done.exception, ConfigError) and why in str(done.exception)
    assert not (tmp_path / "package").exists()


def test_a_share_without_a_residual_is_not_ignored(tmp_path: Path) -> None:
    words = ["policy", str(PRETRAINED), str(tmp_path / "package"), "--residual-share", "0.1"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError) and "--residual DEGREES" in str(done.exception)
    assert not (tmp_path / "package").exists()


def test_joints_in_degrees_can_be_left_alone(tmp_path: Path) -> None:
    words = ["policy", str(PRETRAINED), str(tmp_path / "package"), "--residual", "0"]
    result = CliRunner().invoke(app, [*words, "--residual-share", "0.1"])
    assert result.exit_code == 0, result.output
    package = load_package(tmp_path / "package")
    assert package.manifest.action is not None
    moves = package.weights["head/residual_bound"] > 0
    assert moves.tolist() == [unit != "deg" for unit in package.manifest.action.units]


def test_torch_too_acts_to_the_bit_like_the_base() -> None:
    base = make_policy()
    residual = with_actor(base, ResidualHead, ResidualConfig(hidden=8, layers=1))
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, base.config.features, generator=generator)
    noise = torch.randn(3, base.config.chunk_length, 6, generator=generator)
    with torch.no_grad():
        for found, expected in zip(
            residual.head(features, noise), base.head(features, noise), strict=True
        ):
            assert torch.equal(found, expected)
