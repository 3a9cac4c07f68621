"""Every graph that we export, through a TensorRT's parser, refittability check and builder, without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tiny_encoders import TEXTS, build_encoder
from tiny_package import make_package
from tiny_smolvlm import build_smolvlm
from tiny_vlm import build_vlm

from contracts.errors import MissingDependency
from contracts.files.packages import Package, write_package
from export.encoders import export_encoder
from export.policy import export_with_actor
from export.support import PackageSupport, markdown, support
from export.vlm import VlmOptions, export_vlm
from trainer.policies.actors import ActorHead, ActorSettings
from trainer.policies.noise_actor import NoiseConfig, SteeredHead
from trainer.policies.residual import ResidualConfig, ResidualHead
from trainer.rewards.vlm.asking import Asking

ROOT = Path(__file__).resolve().parents[2]
POLICY, REWARD = ROOT / "pretrained/policy-open_drawer", ROOT / "pretrained/reward-zero-shot"
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (pip install tensorrt-rtx)",
)


def require_all_taken(found: PackageSupport) -> None:
    print(markdown([found]))
    for graph in found.graphs:
        assert graph.library, graph.failed
        assert graph.parsed, graph.unsupported
        assert graph.refittable == graph.refinable, graph.not_refittable
        assert graph.built and graph.plan_bytes > 0, graph.failed
    assert found.holds


@needs_rtx
@pytest.mark.parametrize("folder", [POLICY, REWARD], ids=lambda folder: folder.name)
def test_policy_and_reward_parse_build_and_every_refinable_tensor_can_be_refitted(
    folder: Path,
) -> None:
    found = support(folder)
    require_all_taken(found)
    assert [graph.graph for graph in found.graphs] == ["trunk", "head"]
    assert found.graphs[1].refinable >= 50


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [(SteeredHead, NoiseConfig(bound=0.5)), (ResidualHead, ResidualConfig())],
    ids=["noise", "residual"],
)
def test_an_actors_head_parses_builds_and_refits(
    kind: type[ActorHead], settings: ActorSettings, tmp_path: Path
) -> None:
    package = export_with_actor(POLICY, tmp_path / "acted", kind, settings)
    found = support(package.folder)
    require_all_taken(found)
    assert found.graphs[1].refinable == len(package.manifest.refinable) > 0


@needs_rtx
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_both_encoders_parse_and_build(kind: str, recorded_pictures: Path, tmp_path: Path) -> None:
    checkpoint = build_encoder(tmp_path / "checkpoint", kind)
    package = export_encoder(checkpoint, recorded_pictures, tmp_path / kind, TEXTS)
    require_all_taken(support(package.folder))


@needs_rtx
@pytest.mark.parametrize(
    "kind",
    [
        "qwen3_vl",
        pytest.param("qwen2_5_vl", marks=pytest.mark.slow),
        pytest.param("smolvlm", marks=pytest.mark.slow),
    ],
)
def test_vision_tower_and_prefill_parse_and_build(
    kind: str, recorded_pictures: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    if kind == "smolvlm":
        build_smolvlm(checkpoint)
    else:
        build_vlm(checkpoint, kind)
    asking = Asking(most_frames=4, least_mass=0.0)
    options = VlmOptions(("open the drawer",), camera_size=(80, 60), pixels=64 * 48, asking=asking)
    package = export_vlm(str(checkpoint), recorded_pictures, tmp_path / kind, options)
    require_all_taken(support(package.folder))


@needs_rtx
def test_a_graph_that_tensorrt_refuses_is_named_with_the_parsers_words(tmp_path: Path) -> None:
    package = _with_unknown_operator(make_package(tmp_path / "whole"), tmp_path / "odd")
    found = support(package.folder)
    trunk, head = found.graphs
    assert head.parsed and head.built and head.refittable == head.refinable == 3
    assert not trunk.parsed and not trunk.built and not found.holds
    assert [(refused.operator, refused.node) for refused in trunk.unsupported] == [("Det", "odd")]
    assert "Det 'odd'" in markdown([found])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of SIGSEGV"),
        ("", "is a stub"),
    ],
    ids=["dies", "stub"],
)
def test_a_tensorrt_that_dies_or_is_a_stub_is_one_sentence(
    code: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=said) as caught:
        support(REWARD)
    assert "\n" not in str(caught.value) and "onnxruntime" in str(caught.value)


def _with_unknown_operator(package: Package, folder: Path) -> Package:
    """The package with a determinant in its trunk, which ONNX Runtime has and TensorRT hasn't."""
    import onnx

    model = onnx.ModelProto.FromString(package.graphs["trunk"])
    nodes = [
        helper.make_node("MatMul", ["mean", "wide"], ["flat"]),
        helper.make_node("Det", ["square"], ["det"], name="odd"),
        helper.make_node("Mul", ["flat", "det"], ["features"]),
    ]
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    square = np.eye(2, dtype=np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(square, "square"))
    graphs = {**package.graphs, "trunk": model.SerializeToString()}
    return write_package(folder, package.manifest, graphs, package.weights, package.golden)
