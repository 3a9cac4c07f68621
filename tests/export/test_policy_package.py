"""A policy's package: exported through Optimum, equal to torch, refined through standby, checked by CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_flow import make_examples, make_policy
from typer.testing import CliRunner

import export.package
from contracts.errors import CheckFailed, PackageError
from contracts.files.packages import Package, load_package, write_package
from contracts.package import Provenance, no_prefix
from export.app import app
from export.check import check_package, require
from export.parity.measure import Parity, replay
from export.policy import export_policy, package_policy, takes_prefix
from runtime.engines import EngineOptions, open_engine
from trainer.policies.flow import FlowPolicy, head_tensors


@pytest.fixture(scope="module")
def policy() -> FlowPolicy:
    return make_policy()


@pytest.fixture(scope="module")
def package(policy: FlowPolicy, tmp_path_factory: pytest.TempPathFactory) -> Package:
    return package_policy(policy, make_examples(), tmp_path_factory.mktemp("export") / "package")


def test_the_manifest_says_what_the_runtime_needs(policy: FlowPolicy, package: Package) -> None:
    manifest = package.manifest
    assert (manifest.exporter, manifest.opset, manifest.model) == ("optimum", 17, "policy")
    trunk, head = manifest.graph("trunk"), manifest.graph("head")
    assert [(s.name, s.dtype, s.shape) for s in trunk.inputs] == [
        ("images.front", "uint8", (-1, 24, 32, 3)),
        ("images.wrist", "uint8", (-1, 24, 32, 3)),
        ("state", "float32", (-1, 6)),
        ("tokens", "int64", (-1, 6)),
    ]
    assert [(s.name, s.shape) for s in trunk.outputs] == [("features", (-1, 48))]
    assert [(s.name, s.shape) for s in head.inputs] == [
        ("features", (1, 48)),
        ("noise", (-1, 4, 6)),
        ("prefix", (1, 4, 6)),
        ("prefix_weight", (1, 4)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in head.outputs] == [
        ("chunks", "float32", (-1, 4, 6)),
        ("values", "float32", (-1,)),
        ("choice", "int64", (1,)),
    ]
    assert manifest.chunk is not None and manifest.chunk.length == 4


def test_a_release_carries_what_training_moves_and_neither_units_nor_limits(
    policy: FlowPolicy, package: Package
) -> None:
    names = {spec.name for spec in package.manifest.refinable}
    assert names == {f"head/{name}" for name, _ in policy.head.named_parameters()}
    assert names == set(head_tensors(policy.head))
    fixed = {n for n in package.weights if n.startswith("head/")} - names
    assert fixed >= {"head/chunk_mean", "head/chunk_std", "head/low", "head/high"}
    assert {n for n in package.weights if n.startswith("trunk/")} == {
        f"trunk/{name}" for name in policy.trunk.state_dict()
    }


def test_engine_and_torch_agree_on_recorded_and_on_other_inputs(
    policy: FlowPolicy, package: Package
) -> None:
    assert all(parity.holds for parity in replay(package))
    trunk = open_engine(package, "trunk", EngineOptions())
    examples = make_examples(count=5, seed=9)
    features = trunk.run(examples)["features"]
    with torch.no_grad():
        tensors = [torch.from_numpy(array) for array in examples.values()]
        expected = policy.trunk(*tensors).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4)
    head = open_engine(package, "head", EngineOptions())
    noise = np.random.default_rng(1).normal(size=(7, 4, 6)).astype(np.float32)
    answer = head.run({"features": features[2:3], "noise": noise, **no_prefix(head.inputs)})
    with torch.no_grad():
        chunks, values, choice = policy.head(
            torch.from_numpy(features[2:3]), torch.from_numpy(noise)
        )
    np.testing.assert_allclose(answer["chunks"], chunks.numpy(), atol=5e-3)
    np.testing.assert_allclose(answer["values"], values.numpy(), atol=1e-5)
    assert answer["choice"].tolist() == choice.tolist() == [0]


def test_a_release_changes_chunks_and_choice(policy: FlowPolicy, package: Package) -> None:
    """Weights through standby act as they would in torch, the critics' included."""
    refined = make_policy(seed=7)
    with torch.no_grad():
        for critic in refined.head.critics:
            torch.nn.init.normal_(critic.out.weight)
        for name, units in policy.head.named_buffers():
            refined.head.get_buffer(name).copy_(units)
    weights = {**package.refinable_weights(), **head_tensors(refined.head)}
    engine = open_engine(package, "head", EngineOptions())
    standby = engine.standby(weights)
    rng = np.random.default_rng(2)
    inputs = {
        "features": rng.normal(size=(1, 48)).astype(np.float32),
        "noise": rng.normal(size=(9, 4, 6)).astype(np.float32),
        **no_prefix(engine.inputs),
    }
    answer, base = standby.run(inputs), engine.run(inputs)
    with torch.no_grad():
        chunks, values, choice = refined.head(*(torch.from_numpy(v) for v in inputs.values()))
    np.testing.assert_allclose(answer["chunks"], chunks.numpy(), atol=5e-3)
    np.testing.assert_allclose(answer["values"], values.numpy(), atol=1e-4)
    assert answer["choice"].tolist() == choice.tolist()
    assert answer["choice"][0] == values.argmax() and values.max() > values.min()
    assert np.abs(base["chunks"] - answer["chunks"]).max() > 0.1


def test_without_a_chunk_under_way_the_head_answers_to_the_bit_as_one_that_takes_none(
    policy: FlowPolicy, package: Package, tmp_path: Path
) -> None:
    """The same in torch and in the engine; and the old kind of package still checks and runs."""
    old = package_policy(policy, make_examples(), tmp_path / "old", prefixed=False)
    assert not takes_prefix(old) and takes_prefix(package)
    require(check_package(tmp_path / "old"))
    rng = np.random.default_rng(3)
    inputs = {
        "features": rng.normal(size=(1, 48)).astype(np.float32),
        "noise": rng.normal(size=(5, 4, 6)).astype(np.float32),
    }
    none = no_prefix(package.manifest.graph("head").inputs)
    assert {name: array.shape for name, array in none.items()} == {
        "prefix": (1, 4, 6),
        "prefix_weight": (1, 4),
    }
    before = open_engine(old, "head", EngineOptions()).run(inputs)
    now = open_engine(package, "head", EngineOptions()).run({**inputs, **none})
    for name in before:
        np.testing.assert_array_equal(now[name], before[name])
    tensors = [torch.from_numpy(array) for array in (*inputs.values(), *none.values())]
    with torch.no_grad():
        plain, settled = policy.head(*tensors[:2]), policy.head(*tensors)
    assert all(torch.equal(one, other) for one, other in zip(plain, settled, strict=True))


def test_what_is_settled_comes_back_to_the_bit_and_the_rest_goes_on_from_it(
    policy: FlowPolicy, package: Package
) -> None:
    rng = np.random.default_rng(4)
    head = open_engine(package, "head", EngineOptions())
    inputs = {
        "features": rng.normal(size=(1, 48)).astype(np.float32),
        "noise": rng.normal(size=(5, 4, 6)).astype(np.float32),
        **no_prefix(head.inputs),
    }
    free = head.run(inputs)["chunks"].copy()
    inputs["prefix"] = (free[:1] + 20.0).clip(0, 60).astype(np.float32)
    inputs["prefix_weight"][0, :2] = 1.0
    chunks = head.run(inputs)["chunks"]
    np.testing.assert_array_equal(chunks[:, :2], np.repeat(inputs["prefix"][:, :2], 5, 0))
    moved = np.abs(chunks[:, 2:] - free[:, 2:]).max()
    assert moved > 0.1, "the entries that are not settled do not see those that are"
    with torch.no_grad():
        twin, _, _ = policy.head(*(torch.from_numpy(array) for array in inputs.values()))
    np.testing.assert_allclose(chunks, twin.numpy(), atol=5e-3)


def test_torch_is_made_again_from_the_package(policy: FlowPolicy, package: Package) -> None:
    twin = FlowPolicy.from_package(package)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor), name


def test_check_finds_a_package_whose_golden_vectors_lie(package: Package, tmp_path: Path) -> None:
    weights = dict(package.weights)
    weights["head/flow.chunk_out.bias"] = weights["head/flow.chunk_out.bias"] + 0.5
    write_package(tmp_path / "odd", package.manifest, package.graphs, weights, package.golden)
    with pytest.raises(CheckFailed, match="'chunks' of graph 'head' on torch differs from golden"):
        require(check_package(tmp_path / "odd"))


@pytest.mark.parametrize("what", ["replay", "_replaced_parity"])
def test_a_package_that_is_not_torchs_equal_never_takes_its_place(
    what: str, policy: FlowPolicy, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "package"
    write_package(folder, package.manifest, package.graphs, package.weights, package.golden)
    kept = load_package(folder).package_id
    off = Parity("head", "chunks", 1, largest_error=1.0, scale=1.0)
    monkeypatch.setattr(export.package, what, lambda *_: [off])
    for target in (folder, tmp_path / "new"):
        with pytest.raises(CheckFailed, match="'chunks' of graph 'head' differs from torch"):
            package_policy(policy, make_examples(seed=1), target)
    assert load_package(folder).package_id == kept
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_cli_exports_and_checks_a_saved_policy(policy: FlowPolicy, tmp_path: Path) -> None:
    provenance = Provenance("robot-trainer imitate", 3, "made up", "Apache-2.0", 0.0, {})
    policy.save(tmp_path / "trained", make_examples(), provenance)
    run = CliRunner().invoke
    made = run(app, ["policy", str(tmp_path / "trained"), str(tmp_path / "package")])
    assert made.exit_code == 0, made.output
    assert "exporter optimum" in made.output and "head.chunks" in made.output
    checked = run(app, ["check", str(tmp_path / "package"), "--json"])
    assert checked.exit_code == 0, checked.output
    report = json.loads(checked.output)
    assert report["refinable_bytes"] > 0
    assert {one["output"] for one in report["parity"]} == {"features", "chunks", "values", "choice"}
    assert load_package(tmp_path / "package").manifest.provenance.seed == 3


def test_a_truncated_training_folder_is_no_package_to_export_again(
    policy: FlowPolicy, tmp_path: Path
) -> None:
    provenance = Provenance("robot-trainer imitate", 3, "made up", "Apache-2.0", 0.0, {})
    policy.save(tmp_path, make_examples(), provenance)
    for name in ("examples.safetensors", "policy.safetensors"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(PackageError, match=rf"{name} is not .* train it again with robot-tr"):
            export_policy(tmp_path, tmp_path / "package")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("policy", []),
        ("reward", []),
        ("encoder", ["--text", "a", "--pictures", "x"]),
        ("vlm", ["--instruction", "a", "--pictures", "x"]),
        ("quantize", ["--precision", "fp16", "--recorded", "x"]),
    ],
)
def test_without_torch_a_verb_names_the_extra(verb: str, words: list[str]) -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'safetensors.torch', 'onnx', 'transformers', 'optimum'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['robot-export', *{[verb, 'source', 'package', *words]!r}]\n"
        "from export.app import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"robot-export: {verb} needs ")
    assert line.endswith("pip install 'entracte[export]'")


def test_a_folder_without_a_policy_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="robot-trainer imitate"):
        export_policy(tmp_path, tmp_path / "package")
