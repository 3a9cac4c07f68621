"""`robot-export check`: shipped models answer alike everywhere; one that doesn't is caught, and where."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from tiny_package import make_package
from typer.testing import CliRunner

from contracts import registry
from contracts.errors import ConfigError, PackageError
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import Package, load_package, write_package
from contracts.specs import CameraSpec
from export.app import app
from export.check import check_package
from export.parity import torch_side
from export.parity.bench import ClosedLoop, Contender, closed_loop, paired
from export.parity.measure import measure
from export.parity.modules import first_module
from export.parity.recorded import moments
from runtime.arms.sim import SO101_ACTION
from runtime.engines import EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine

PRETRAINED = Path(__file__).parents[2] / "pretrained"
POLICY, REWARD = PRETRAINED / "policy-open_drawer", PRETRAINED / "reward-zero-shot"
NORM = "/flow/norms.0_3/LayerNormalization"


@pytest.mark.parametrize("folder", [POLICY, REWARD])
def test_a_shipped_model_answers_alike_everywhere_on_recorded_moments(
    folder: Path, recorded_episodes: Path
) -> None:
    report = check_package(folder, ["onnxruntime"], recorded_episodes, samples=6)
    compared = {(one.left, one.right, one.on) for one in report.comparisons}
    for on in ("recorded moments", "pictures to answer"):
        assert {("torch", "onnx", on), ("torch", "onnxruntime", on)} <= compared
    for one in report.comparisons:
        for parity in one.found:
            # Must show 1, in degrees, percent and probabilities, not relative to anything.
            assert parity.largest_error <= 1e-4, (one.left, one.right, one.on, parity)
            assert parity.cosine > 1 - 1e-6 and parity.p99_error <= parity.largest_error
    assert report.holds and not report.divergences


def test_errors_of_a_chunk_are_told_joint_by_joint() -> None:
    manifest = load_package(POLICY).manifest
    right = np.zeros((4, 16, 6))
    given = right.copy()
    given[2, 5, 1] = -0.5
    expected = [{"chunks": right}, {"chunks": right}]
    (parity,) = measure("head", expected, [{"chunks": right}, {"chunks": given}], manifest)
    by_joint = {joint.name: joint for joint in parity.joints}
    assert by_joint["shoulder_lift.pos"].largest == 0.5
    assert by_joint["shoulder_lift.pos"].mean == pytest.approx(0.5 / 128)
    assert by_joint["gripper.pos"].largest == 0.0 and not parity.holds


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["left", "right", "both"])
def test_an_answer_that_is_not_finite_never_holds(wrong: float, side: str) -> None:
    fine, odd = {"features": np.ones((1, 4))}, {"features": np.array([[1.0, 1.0, 1.0, wrong]])}
    left, right = (odd if side in (one, "both") else fine for one in ("left", "right"))
    with np.errstate(invalid="ignore"):
        (parity,) = measure("trunk", [left], [right])
    assert not parity.holds and parity.largest_error == np.inf


@pytest.mark.parametrize("without", ["left", "right"])
def test_an_output_that_one_side_lacks_is_an_error(without: str) -> None:
    whole = {"values": np.ones(3), "chunks": np.ones((3, 2))}
    less = {"values": np.ones(3)}
    left, right = (less if without == side else whole for side in ("left", "right"))
    with pytest.raises(PackageError, match=r"outputs of graph 'head'.*chunks"):
        measure("head", [whole, left], [whole, right])


def test_a_tie_may_fall_either_way_and_a_better_chunk_may_not_be_missed() -> None:
    right = {"values": np.array([0.5, 0.50001, 0.2]), "choice": np.array([1])}
    tie, worse = ({**right, "choice": np.array([i])} for i in (0, 2))
    held = [all(p.holds for p in measure("head", [right], [given])) for given in (tie, worse)]
    assert held == [True, False]


def _altered(folder: Path, edit: Callable[[onnx.ModelProto], None]) -> Package:
    """The policy with another head graph, its hashes put right: what no hash can tell."""
    package = load_package(POLICY)
    model = onnx.load_model_from_string(package.graphs["head"])
    edit(model)
    graphs = {**package.graphs, "head": model.SerializeToString()}
    return write_package(folder, package.manifest, graphs, package.weights, package.golden)


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name.endswith(name))


def _large_epsilon(model: onnx.ModelProto) -> None:
    attributes = _node(model, NORM).attribute
    next(one for one in attributes if one.name == "epsilon").f = 1.0


def _wrong_weight(model: onnx.ModelProto) -> None:
    _node(model, "/flow/widen.1_4/Gemm").input[1] = "flow.widen.0.weight"


@pytest.mark.parametrize(
    ("edit", "layer", "why"),
    [
        (_large_epsilon, NORM, "its attribute 'epsilon' is 1.0 and should be"),
        (_wrong_weight, "/flow/widen.1_4/Gemm", "'flow.widen.1.weight'"),
    ],
)
def test_an_altered_graph_fails_and_its_first_wrong_layer_is_named(
    edit: Callable[[onnx.ModelProto], None], layer: str, why: str, tmp_path: Path
) -> None:
    _altered(tmp_path / "odd", edit)
    result = CliRunner().invoke(app, ["check", str(tmp_path / "odd"), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout.splitlines()[0])
    assert not report["holds"]
    (place,) = report["divergences"]
    assert place["layer"].endswith(layer) and why in place["why"]
    assert layer in str(result.exception)


def test_the_torch_module_is_named_without_a_fresh_export(tmp_path: Path) -> None:
    package = _altered(tmp_path / "odd", _large_epsilon)
    source = torch_side.reference(package)[0]["head"]
    inputs = package.golden["head"][0].inputs
    place = first_module(package, source, inputs, 1e-4)
    assert place is not None and (place.module, place.call) == ("flow.norms.0", 3)
    assert first_module(load_package(POLICY), source, inputs, 1e-4) is None


class Careless(OnnxRuntimeEngine):
    """An engine that loses a tenth of one bias on the way to its plan."""

    def __init__(
        self,
        package: Package,
        graph: str,
        options: EngineOptions,
        tensors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        changed = dict(package.weights)
        name = "head/flow.narrow.1.bias"
        changed[name] = changed[name] * np.float32(0.9)
        super().__init__(dataclasses.replace(package, weights=changed), graph, options, tensors)


def test_the_first_layer_that_an_engine_gets_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = registry.load
    monkeypatch.setattr(
        registry, "load", lambda group, name: Careless if name == "careless" else load(group, name)
    )
    report = check_package(POLICY, ["careless"])
    assert not report.holds
    assert [(one.graph, one.left, one.right) for one in report.divergences] == [
        ("head", "onnx", "careless")
    ]
    assert "flow/narrow.1/" in report.divergences[0].layer


def test_success_is_compared_scene_by_scene() -> None:
    """Worked examples of Newcombe's interval: Bentur et al. 2009 in Fagerland et al. 2014; 36 12 2 0."""

    def of(both: int, lost: int, won: int, neither: int) -> ClosedLoop:
        pairs = [(True, True)] * both + [(True, False)] * lost + [(False, True)] * won
        return paired("a", "b", "task", pairs + [(False, False)] * neither)

    airways = of(1, 1, 7, 12)
    assert (airways.low, airways.high) == pytest.approx((0.026, 0.507), abs=5e-4)
    other = of(36, 12, 2, 0)
    assert (other.low, other.high) == pytest.approx((-0.3404, -0.0569), abs=5e-5)
    assert not other.holds and (other.lost, other.won) == (12, 2)
    assert of(4, 0, 0, 0).holds and of(28, 6, 3, 13).holds


def test_a_head_that_does_nothing_fails_on_the_bench(tmp_path: Path) -> None:
    package = load_package(POLICY)
    weights = dict(package.weights)
    # As good as zero: imitation never writes a zero, by which what is settled could not be divided.
    weights["head/chunk_std"] = np.full_like(weights["head/chunk_std"], 1e-6)
    made = (tmp_path / "idle", package.manifest, package.graphs, weights)
    engine = OnnxRuntimeEngine(write_package(*made, package.golden), "head", EngineOptions())
    answers = [
        GoldenCase(case.inputs, {n: a.copy() for n, a in engine.run(case.inputs).items()})
        for case in package.golden["head"]
    ]
    write_package(*made, {**package.golden, "head": answers})
    left, right = (
        Contender(folder, "onnxruntime", overrides=("episode.max_s=5",))
        for folder in (POLICY, tmp_path / "idle")
    )
    loop = closed_loop(left, right, "open_drawer", 5)
    assert loop.successes_left >= 3 and loop.successes_right == 0 and not loop.holds


def test_a_policy_of_short_chunks_is_compared_too(tmp_path: Path) -> None:
    """A robot executes 8 actions of a chunk unless told otherwise, and refuses more than one holds."""
    made = make_package(tmp_path / "made", length=4, action=SO101_ACTION)
    cameras = (CameraSpec("front", 128, 96, 10.0),)
    observation = msgspec.structs.replace(made.manifest.observation, cameras=cameras)
    manifest = msgspec.structs.replace(made.manifest, observation=observation)
    write_package(tmp_path / "short", manifest, made.graphs, made.weights, made.golden)
    side = Contender(tmp_path / "short", "onnxruntime", overrides=("episode.max_s=1",))
    loop = closed_loop(side, side, "open_drawer", 1)
    assert (loop.episodes, loop.lost, loop.won) == (1, 0, 0)


def test_one_engine_alone_has_nothing_to_be_compared_with() -> None:
    result = CliRunner().invoke(app, ["check", str(POLICY), "--bench", "open_drawer"])
    assert result.exit_code == 1 and isinstance(result.exception, ConfigError)
    assert "--against" in str(result.exception)


def test_a_data_set_without_the_packages_cameras_is_one_sentence(
    recorded_episodes: Path,
) -> None:
    package = load_package(POLICY)
    manifest = msgspec.structs.replace(package.manifest, cameras=("front", "ceiling"))
    with pytest.raises(ConfigError, match=r"lacks what the package looks at.*ceiling"):
        moments(recorded_episodes, manifest, 2)


def test_recorded_moments_are_for_policies_and_rewards(tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(load_package(POLICY).manifest, model="encoder")
    with pytest.raises(ConfigError, match=r"--recorded is for .*policies.*'encoder'"):
        moments(tmp_path, manifest, 2)
    words = ["check", str(POLICY), "--recorded", str(tmp_path / "my-dataset")]
    done = CliRunner().invoke(app, words)
    assert "no data set at" in str(done.exception) and "robot-run record" in str(done.exception)


def test_check_runs_where_there_is_no_torch(recorded_episodes: Path) -> None:
    """As on a Jetson: the golden vectors, which torch computed, are the reference."""
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'transformers', 'optimum', 'polygraphy'):\n"
        "    sys.modules[name] = None\n"
        "from export.app import app\n"
        f"app(['check', {str(POLICY)!r}, '--recorded', {str(recorded_episodes)!r}, '--samples', '2'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "golden vectors / onnxruntime" in done.stdout and "parity holds" in done.stdout
    assert "torch itself is not compared: torch and ONNX are not installed here" in done.stdout
