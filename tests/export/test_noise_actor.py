"""A policy with a noise actor exports and runs like any other, and a release carries the actor alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package, load_package
from contracts.package import no_prefix
from export.app import app
from export.check import check_package
from export.policy import export_with_actor
from runtime.engines import EngineOptions, open_engine
from trainer.policies.actors import actor_tensors, policy_of_package
from trainer.policies.flow import FlowPolicy
from trainer.policies.noise_actor import NoiseConfig, SteeredHead

PRETRAINED = Path(__file__).parents[2] / "pretrained" / "policy-open_drawer"
BOUND = 1.5


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("steered") / "package"
    arguments = ["policy", str(PRETRAINED), str(folder), "--noise-actor", str(BOUND)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return load_package(folder)


def _head_inputs(package: Package, scale: float = 1.0) -> dict[str, np.ndarray]:
    inputs = dict(package.golden["head"][1].inputs)
    draws = np.random.default_rng(5).normal(size=inputs["noise"].shape)
    settled = no_prefix(package.manifest.graph("head").inputs)
    return {**inputs, "noise": (scale * draws).astype(np.float32), **settled}


def test_a_release_carries_the_actor_alone_and_the_flow_is_the_base_policys(
    package: Package,
) -> None:
    base = load_package(PRETRAINED)
    names = {spec.name for spec in package.manifest.refinable}
    policy = policy_of_package(package, SteeredHead)
    assert isinstance(policy.head, SteeredHead)
    assert names == set(actor_tensors(policy.head)) and len(names) == 8
    assert package.weights.keys() - base.weights.keys() == names
    for name, tensor in base.weights.items():
        np.testing.assert_array_equal(package.weights[name], tensor)
    for spec in ("inputs", "outputs"):
        graphs = [getattr(p.manifest.graph("head"), spec) for p in (base, package)]
        assert graphs[0] == graphs[1]


def test_it_answers_alike_in_torch_onnx_and_engine(package: Package) -> None:
    report = check_package(package.folder, ["onnxruntime"])
    assert report.holds and not report.notes
    assert {one.right for one in report.comparisons} == {"torch", "onnx", "onnxruntime"}


def test_an_untrained_actor_leaves_small_draws_nearly_as_they_are(package: Package) -> None:
    inputs = _head_inputs(package, scale=0.1)
    base = open_engine(load_package(PRETRAINED), "head", EngineOptions()).run(inputs)
    steered = open_engine(package, "head", EngineOptions()).run(inputs)
    np.testing.assert_allclose(steered["chunks"], base["chunks"], atol=0.05)


def test_a_pushed_actor_decides_the_noise_and_never_leaves_its_bound(package: Package) -> None:
    """With a mean far outside, every draw ends at the bound: the base flow from exactly that noise."""
    weights = package.refinable_weights()
    sign = np.where(np.arange(96) % 2, 1.0, -1.0).astype(np.float32)
    weights["head/noise_actor.mean.bias"] = 50.0 * sign
    standby = open_engine(package, "head", EngineOptions()).standby(weights)
    inputs = _head_inputs(package)
    answer = standby.run(inputs)["chunks"]
    flow = FlowPolicy.from_package(load_package(PRETRAINED))
    noise = np.broadcast_to(BOUND * sign.reshape(1, 16, 6), inputs["noise"].shape)
    with torch.no_grad():
        expected, _, _ = flow.head(
            torch.from_numpy(inputs["features"]), torch.from_numpy(noise.astype(np.float32))
        )
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-3)


def test_a_bound_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="sizes"):
        export_with_actor(PRETRAINED, tmp_path / "package", SteeredHead, NoiseConfig(bound=-1.0))


@pytest.mark.parametrize(
    "told", ["--robot-type so101", "--rate-hz 10", "--camera a=b", "--dataset data", "--steps 5"]
)
def test_what_is_said_of_a_lerobot_checkpoint_is_not_ignored(told: str, tmp_path: Path) -> None:
    words = ["policy", str(PRETRAINED), str(tmp_path / "package"), "--noise-actor", "0.5"]
    done = CliRunner().invoke(app, [*words, *told.split()])
    assert isinstance(done.exception, ConfigError)
    assert "leave out the options of LeRobot" in str(done.exception)
    assert not (tmp_path / "package").exists()
