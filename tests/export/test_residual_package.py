"""A policy with a residual runs like any other, acts as its base until it learned, and stays in bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_flow import make_config, make_examples, make_policy
from typer.testing import CliRunner

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package, load_package
from contracts.package import PREFIX, PREFIX_WEIGHT
from export.app import app
from export.check import check_package
from export.policy import package_policy
from runtime.engines import EngineOptions, open_engine
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
    for spec in ("inputs", "outputs"):
        graphs = [getattr(p.manifest.graph("head"), spec) for p in (base, package)]
        assert graphs[0] == graphs[1]


def test_it_answers_alike_in_torch_onnx_and_engine(package: Package) -> None:
    report = check_package(package.folder, ["onnxruntime"])
    assert report.holds and not report.notes
    assert {one.right for one in report.comparisons} == {"torch", "onnx", "onnxruntime"}


@pytest.mark.parametrize("case", [0, 2])
def test_an_untrained_residual_acts_exactly_like_the_base(package: Package, case: int) -> None:
    """From nothing, and from a chunk under way."""
    inputs = _head_inputs(package, case)
    assert inputs[PREFIX_WEIGHT].any() == (case > 0)
    base = open_engine(load_package(PRETRAINED), "head", EngineOptions()).run(inputs)
    fresh = open_engine(package, "head", EngineOptions()).run(inputs)
    assert base.keys() == fresh.keys()
    for name, found in fresh.items():
        np.testing.assert_array_equal(found, base[name])


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_pushed_residual_shifts_the_chunk_by_no_more_than_its_bound(
    package: Package, side: float
) -> None:
    """With outputs far outside, every joint ends at the bound or at its limit; what is settled stays."""
    weights = package.refinable_weights()
    weights["head/residual.out.bias"] = np.full(6, 50.0 * side, np.float32)
    standby = open_engine(package, "head", EngineOptions()).standby(weights)
    action = package.manifest.action
    assert action is not None
    low, high = np.array(action.low, np.float32), np.array(action.high, np.float32)
    inputs = _head_inputs(package, 2)
    fresh = open_engine(package, "head", EngineOptions()).run(inputs)["chunks"].copy()
    answer = standby.run(inputs)["chunks"]
    settled, share = inputs[PREFIX], inputs[PREFIX_WEIGHT][..., None]
    free = inputs[PREFIX_WEIGHT][0] == 0
    expected = np.clip(fresh + side * _bounds(package), low, high)
    np.testing.assert_allclose(answer[:, free], expected[:, free], atol=1e-3)
    assert np.abs(answer - fresh).max() > 0.9 * DEGREES
    kept = share[0, :, 0] == 1.0
    assert kept.any()
    np.testing.assert_array_equal(answer[:, kept], np.broadcast_to(settled, answer.shape)[:, kept])


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
