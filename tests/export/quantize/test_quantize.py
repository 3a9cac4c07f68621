"""`robot-export quantize` on the shipped policy: what it writes, what it leaves alone, when it refuses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from calibration.quantization.card import CalibrationSet, read_set, write_set
from calibration.quantization.draw import draw
from contracts.errors import ConfigError, PackageError
from contracts.files.packages import Package, load_package, write_package
from contracts.package import check_tensors, float_weights, package_id, weights_id
from export.app import app
from export.package import replay
from export.parity.bench import paired, require_enough
from export.quantize.build import Options, quantize
from export.quantize.chain import RangeError
from export.quantize.gate import (
    QuantizationRefused,
    power,
    require_actions,
    require_success,
)
from export.quantize.int8 import candidates
from export.quantize.report import Report
from runtime.engines import EngineOptions, open_engine
from trainer.policies.flow import FlowPolicy

PRETRAINED = Path(__file__).parents[3] / "pretrained"
POLICY = PRETRAINED / "policy-open_drawer"
AT_RUN_TIME = {
    *("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"),
    *("QLinearConv", "QLinearMatMul", "QGemm"),
}


@pytest.fixture(scope="module")
def parent() -> Package:
    return load_package(POLICY)


@pytest.fixture(scope="module")
def drawn(parent: Package, recorded_episodes: Path) -> CalibrationSet:
    return draw(parent, [recorded_episodes], samples=24, held_out=16, seed=0)


def made_with(
    parent: Package, drawn: CalibrationSet, folder: Path, options: Options
) -> tuple[Package, Report]:
    limits = {"action": options.action_limit, "success": options.success_limit}
    report = Report(options.precision, "policy", parent.package_id, "tests", limits, drawn.card)
    return quantize(parent, drawn, folder, options, report), report


@pytest.fixture(scope="module")
def int8(
    parent: Package, drawn: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Package, Report]:
    options = Options("int8", method="percentile", layer_samples=6)
    return made_with(parent, drawn, tmp_path_factory.mktemp("int8") / "package", options)


@pytest.fixture(scope="module")
def fp16(
    parent: Package, drawn: CalibrationSet, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Package, Report]:
    options = Options("fp16", keep_float=0, layer_samples=2)
    return made_with(parent, drawn, tmp_path_factory.mktemp("fp16") / "package", options)


def test_int8_is_explicit_symmetric_and_per_channel(
    parent: Package, int8: tuple[Package, Report]
) -> None:
    package, report = int8
    model = onnx.load_from_string(package.graphs["trunk"])
    weights = package.graph_weights("trunk")
    inside = {i.name: i for i in model.graph.initializer if not i.external_data}
    made_by = {name: node for node in model.graph.node for name in node.output}
    assert not {node.op_type for node in model.graph.node} & AT_RUN_TIME
    assert report.kept is not None
    seen = 0
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
            continue
        source = made_by.get(node.input[1])
        if node.name in report.kept.layers:
            assert source is None and weights[node.input[1]].dtype == np.float32
            continue
        assert source is not None and source.op_type == "DequantizeLinear"
        values, scale, zero = (weights[name] for name in source.input)
        (axis,) = (a.i for a in source.attribute if a.name == "axis")
        assert axis == (1 if node.op_type == "ConvTranspose" else 0)
        assert values.dtype == np.int8 and scale.shape == zero.shape == (values.shape[axis],)
        assert not zero.any() and package.manifest.channel_axes[f"trunk/{source.input[0]}"] == axis
        activation = made_by[node.input[0]]
        assert activation.op_type == "DequantizeLinear"
        point = onnx.numpy_helper.to_array(inside[activation.input[2]])
        assert point.dtype == np.int8 and point == 0
        assert node.input[2] in weights and weights[node.input[2]].dtype == np.float32  # the bias
        seen += 1
    whole = candidates(onnx.load_from_string(parent.graphs["trunk"]))
    assert seen == len(whole) - len(report.kept.layers) >= 30


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_the_head_is_the_parents_and_takes_its_releases(
    kind: str, parent: Package, request: pytest.FixtureRequest
) -> None:
    package, _ = request.getfixturevalue(kind)
    assert package.graphs["head"] != b"" and package.manifest.precision == {"trunk": kind}
    assert package.manifest.refinable == parent.manifest.refinable
    mine, theirs = package.graph_weights("head"), parent.graph_weights("head")
    assert mine.keys() == theirs.keys()
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    release = {name: value * 1.01 for name, value in parent.refinable_weights().items()}
    release = {name: value.astype(np.float32) for name, value in release.items()}
    assert check_tensors(package.manifest.refinable, release) == []
    answers = []
    for one in (parent, package):
        standby = open_engine(one, "head", EngineOptions()).standby(release)
        answers.append(standby.run(parent.golden["head"][0].inputs)["chunks"].copy())
    assert np.array_equal(*answers)


def test_it_is_a_package_of_its_own_and_its_parent_keeps_its_identity(
    parent: Package, int8: tuple[Package, Report], fp16: tuple[Package, Report]
) -> None:
    assert len({parent.package_id, int8[0].package_id, fp16[0].package_id}) == 3
    tree = json.loads((POLICY / "manifest.json").read_text())
    for later in ("precision", "golden_tolerance", "channel_axes", "vlm", "encoder"):
        assert not tree.pop(later, None)
    before = hashlib.sha256(msgspec.json.encode(tree)).hexdigest()[:16]
    assert package_id(parent.manifest) == before
    assert parent.package_id in int8[0].manifest.provenance.notes


def test_it_is_smaller_and_near_its_parent(
    int8: tuple[Package, Report], fp16: tuple[Package, Report]
) -> None:
    for (_, report), share, p99 in ((int8, 0.6, 2.0), (fp16, 0.51, 0.1)):
        assert report.bytes_after["trunk weights"] < share * report.bytes_before["trunk weights"]
        assert len(report.errors) == 6 and max(one.p99 for one in report.errors) <= p99
        assert max(one.p99 for one in report.errors) < max(one.p99 for one in report.own_spread)
    assert max(e.p99 for e in fp16[1].errors) < max(e.p99 for e in int8[1].errors)


def test_golden_vectors_are_float32s_with_a_tolerance_that_catches_a_wrong_weight(
    parent: Package, int8: tuple[Package, Report], tmp_path: Path
) -> None:
    package, _ = int8
    for mine, theirs in zip(package.golden["trunk"], parent.golden["trunk"], strict=True):
        assert np.array_equal(mine.outputs["features"], theirs.outputs["features"])
    found = {one.graph: one for one in replay(package) if one.output == "features"}["trunk"]
    assert found.holds and found.largest_error > 1e-3
    weights = dict(package.weights)
    name = "trunk/cameras.0.conv2.weight_quantized"
    weights[name] = np.roll(weights[name], 1, axis=0)
    odd = write_package(tmp_path / "odd", package.manifest, package.graphs, weights, package.golden)
    assert not all(one.holds for one in replay(odd))


def test_layers_are_told_by_what_they_cost_and_the_worst_can_stay(
    int8: tuple[Package, Report],
) -> None:
    _, report = int8
    costs = [one.p99 for one in report.layers]
    assert len(costs) == 34 and costs == sorted(costs, reverse=True) and costs[0] > 2 * costs[10]
    assert report.kept is not None
    names = [one.layer for one in report.layers]
    assert report.kept.layers == names[: len(report.kept.layers)]
    assert f"| {names[0]} |" in report.text()


def test_fp16_keeps_every_name_and_the_state_to_the_last_bit(
    parent: Package, drawn: CalibrationSet, fp16: tuple[Package, Report]
) -> None:
    package, _ = fp16
    mine, theirs = package.graph_weights("trunk"), parent.graph_weights("trunk")
    assert mine.keys() == theirs.keys()
    halved = [name for name, tensor in mine.items() if tensor.dtype == np.float16]
    assert set(theirs) - set(halved) == {"state_mean", "state_std"}
    features = []
    for one in (parent, package):
        engine = open_engine(one, "trunk", EngineOptions())
        sample = drawn.held_out.sample(0)
        features.append(engine.run(sample)["features"][0].copy())
    assert np.array_equal(features[0][-6:], features[1][-6:])
    assert not np.array_equal(features[0], features[1])


def test_the_torch_twin_has_the_values_that_the_engine_computes_with(
    parent: Package, drawn: CalibrationSet, int8: tuple[Package, Report]
) -> None:
    """Refinement of what an INT8 robot runs: the trainer learns from that trunk's features, not another's."""
    package, _ = int8
    twin = float_weights(package.manifest, package.weights)
    assert twin.keys() == parent.weights.keys()
    for name, axis in package.manifest.channel_axes.items():
        base = name.removesuffix("_quantized")
        scale = package.weights[f"{base}_scale"]
        error = np.abs(twin[base] - parent.weights[base])
        error = np.moveaxis(error, axis, 0).reshape(len(scale), -1).max(1)
        assert (error <= 0.51 * scale + 1e-7).all(), name
    sample = drawn.held_out.sample(3)
    engine = open_engine(package, "trunk", EngineOptions())
    answer = engine.run(sample)["features"].copy()
    with torch.no_grad():
        features = [
            FlowPolicy.from_package(one).trunk(*(torch.from_numpy(v) for v in sample.values()))
            for one in (package, parent)
        ]
    errors = [float(np.abs(answer - one.numpy()).mean()) for one in features]
    assert errors[0] <= errors[1] * 1.2 and errors[0] < 0.02


def test_a_bad_set_is_refused_by_the_gate_and_the_old_package_stays(
    drawn: CalibrationSet, tmp_path: Path
) -> None:
    """Calibrated on black pictures: ranges fit the dark, and what a robot sees is cut off."""
    part = drawn.calibration
    black = {
        name: (np.zeros_like(array) if name.startswith("images.") else array)[:8]
        for name, array in part.inputs.items()
    }
    blind = dataclasses.replace(part, inputs=black, rows=part.rows[:8])
    card = msgspec.structs.replace(
        drawn.card,
        calibration=msgspec.structs.replace(
            drawn.card.calibration, sha256=weights_id(black), rows=drawn.card.calibration.rows[:8]
        ),
    )
    write_set(tmp_path / "black", CalibrationSet(blind, drawn.held_out, card))
    assert len(read_set(tmp_path / "black").calibration) == 8
    target = tmp_path / "package"
    shutil.copytree(POLICY, target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    words = ["quantize", str(POLICY), str(target), "--precision", "int8", "--method", "minmax"]
    words += ["--calibration", str(tmp_path / "black"), "--report", str(tmp_path / "why")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0 and isinstance(done.exception, QuantizationRefused)
    said = str(done.exception)
    assert ".pos too far on held-out observations: expected p99 <= 2 %" in said
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert not list(tmp_path.glob("*quantization*")) and not list(tmp_path.glob(".*"))
    assert "**refused**" in (tmp_path / "why/quantization.md").read_text()


def test_success_that_may_have_fallen_too_far_is_refused() -> None:
    same = paired("float32", "int8", "task", [(True, True)] * 60 + [(False, False)] * 40)
    require_success(same, 10.0, "int8")
    fallen = paired("float32", "int8", "task", [(True, True)] * 60 + [(True, False)] * 20)
    with pytest.raises(QuantizationRefused, match="may lose more than 10 points"):
        require_success(fallen, 10.0, "int8")
    # Too few episodes to know is no pass either.
    few = paired("float32", "int8", "task", [(True, True)] * 3 + [(True, False)])
    with pytest.raises(QuantizationRefused, match="over 4 pairs"):
        require_success(few, 10.0, "int8")
    assert power(0.2, 400, 10.0) > 0.95 and power(0.2, 100, 10.0) < 0.7


def test_the_remedy_is_one_that_can_help() -> None:
    fallen = paired("float32", "it", "task", [(True, True)] * 60 + [(True, False)] * 20)
    few = paired("float32", "it", "task", [(True, True)] * 12 + [(False, False)] * 3)
    wild = [RangeError("pan", 100.0, 9.0, 9.0, 9.0)]
    for precision, told in (("int8", True), ("fp16", False)):
        with pytest.raises(QuantizationRefused) as success:
            require_success(fallen, 10.0, "it", precision)
        with pytest.raises(QuantizationRefused) as actions:
            require_actions(wild, 2.0, "it", precision)
        for raised in (success, actions):
            assert ("--precision fp16" in str(raised.value)) is told
            assert "--keep-float" in str(raised.value)
        with pytest.raises(QuantizationRefused, match=r"more --episodes$"):
            require_success(few, 10.0, "it", precision)


def test_so_few_episodes_that_none_could_pass_are_refused_before_the_run(
    parent: Package, drawn: CalibrationSet, tmp_path: Path
) -> None:
    options = Options("fp16", task="open_drawer", episodes=12)
    with pytest.raises(ConfigError, match=r"--episodes (\d+) at least.*found 12") as raised:
        made_with(parent, drawn, tmp_path / "x", options)
    enough = int(str(raised.value).partition("--episodes ")[2].split()[0])
    require_enough(enough, 10.0)
    with pytest.raises(ConfigError):
        require_enough(enough - 1, 10.0)
    half = [(True, True)] * (enough // 2) + [(False, False)] * (enough - enough // 2)
    require_success(paired("float32", "it", "task", half), 10.0, "it")


def test_it_says_what_it_is_at_and_the_verdict_comes_last(
    parent: Package, recorded_episodes: Path, tmp_path: Path
) -> None:
    few = draw(parent, [recorded_episodes], samples=3, held_out=2, seed=0)
    write_set(tmp_path / "set", few)
    target = tmp_path / "package"
    words = ["quantize", str(POLICY), str(target), "--precision", "fp16"]
    done = CliRunner().invoke(app, [*words, "--calibration", str(tmp_path / "set")])
    assert done.exit_code == 0, done.output
    told = [line for line in done.stderr.splitlines() if " s  " in line]
    assert len(told) >= 7
    assert sum("layer alone" in line for line in told) == 4
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith(f"written to {target}, gate of actions passed: worst p99 0.")
    assert "closed loop not measured" in last


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_joint_without_a_finite_error_never_passes_wherever_it_stands(
    place: int, wrong: float
) -> None:
    errors = [RangeError(name, 100.0, 0.1, 0.1, 0.1) for name in "abc"]
    require_actions(errors, 2.0, "int8")
    errors[place] = RangeError("odd", 100.0, wrong, wrong, wrong)
    for limit in (2.0, np.inf):
        with pytest.raises(QuantizationRefused, match="moves odd too far"):
            require_actions(errors, limit, "int8")


def test_what_can_not_be_quantised_is_one_sentence(
    parent: Package, drawn: CalibrationSet, int8: tuple[Package, Report], tmp_path: Path
) -> None:
    again = msgspec.structs.replace(drawn.card, package_id=int8[0].package_id)
    with pytest.raises(PackageError, match="quantised already"):
        made_with(int8[0], dataclasses.replace(drawn, card=again), tmp_path / "x", Options("int8"))
    with pytest.raises(PackageError, match="drawn for another package"):
        made_with(parent, dataclasses.replace(drawn, card=again), tmp_path / "x", Options("int8"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_tensorrt_parses_the_quantised_trunk(kind: str, request: pytest.FixtureRequest) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from runtime.engines import building

    package, report = request.getfixturevalue(kind)
    logger = trt.Logger(trt.Logger.ERROR)
    network, _parser = building.parse(trt, logger, trt.Builder(logger), package, "trunk")
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    quantised = 34 - len(report.kept.layers) if kind == "int8" else 0
    assert kinds.count(trt.LayerType.QUANTIZE) == quantised
    assert kinds.count(trt.LayerType.DEQUANTIZE) == 2 * quantised
