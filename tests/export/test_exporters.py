"""Every exporter keeps every refinable tensor of the shipped models; a frozen graph keeps its values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from tiny_flow import make_examples, make_policy
from torch import nn

from contracts.errors import CheckFailed, PackageError
from contracts.files.packages import load_package
from export import exporters
from export.onnx import ExportedGraph, GraphSource, export_graph
from export.policy import graph_sources, package_policy
from trainer.policies.actors import ActorHead, ActorSettings, with_actor
from trainer.policies.flow import FlowHead, FlowPolicy
from trainer.policies.noise_actor import NoiseConfig, SteeredHead
from trainer.policies.residual import ResidualConfig, ResidualHead
from trainer.rewards.edge_twin import head_of_package

PRETRAINED = Path(__file__).parents[2] / "pretrained"
EXPORTERS = ("optimum", "legacy", "dynamo")


def _policy_head() -> GraphSource:
    package = load_package(PRETRAINED / "policy-open_drawer")
    policy = FlowPolicy.from_package(package)
    return graph_sources(policy, dict(package.golden["trunk"][0].inputs))[1]


def _noise_actor_head() -> GraphSource:
    return _actor_head(SteeredHead, NoiseConfig())


def _residual_head() -> GraphSource:
    return _actor_head(ResidualHead, ResidualConfig())


def _actor_head(kind: type[ActorHead], settings: ActorSettings) -> GraphSource:
    package = load_package(PRETRAINED / "policy-open_drawer")
    torch.manual_seed(0)
    policy = with_actor(FlowPolicy.from_package(package), kind, settings)
    return graph_sources(policy, dict(package.golden["trunk"][0].inputs))[1]


def _reward_head() -> GraphSource:
    package = load_package(PRETRAINED / "reward-zero-shot")
    spec = package.manifest.graph("head")
    cases = [package.golden["head"][i].inputs for i in (1, -1)]
    inputs = {s.name: np.concatenate([case[s.name] for case in cases]) for s in spec.inputs}
    outputs = tuple(s.name for s in spec.outputs)
    batch = {0: "batch"}
    dynamic = {name: batch for name in (*inputs, *outputs)}
    return GraphSource("head", head_of_package(package), inputs, outputs, dynamic)


@pytest.mark.parametrize(
    ("source", "exporter"),
    [
        *((_policy_head, name) for name in ("optimum", "legacy")),
        *((_noise_actor_head, name) for name in EXPORTERS),
        *((_residual_head, name) for name in EXPORTERS),
        *((_reward_head, name) for name in ("optimum", "legacy")),
    ],
)
def test_all_refinable_tensors_of_a_shipped_model_keep_name_and_value(
    source: Callable[[], GraphSource], exporter: str
) -> None:
    made = source()
    graph = export_graph(made, exporter)
    assert graph.exporter == exporter
    wanted = made.module.state_dict()
    in_graph = [i.name for i in graph.model.graph.initializer if not i.raw_data]
    assert sorted(in_graph) == sorted(graph.tensors) == sorted(wanted)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(graph.tensors[name], tensor.numpy())


def _run(graph: ExportedGraph, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in graph.tensors.values()]
    options.add_external_initializers(list(graph.tensors), values)
    model = graph.model.SerializeToString()
    return ort.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, inputs)


class ComplexRotation(nn.Module):
    """Rotary positions by complex numbers: the legacy exporter has no such type."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        pairs = torch.view_as_complex(y.reshape(-1, 4, 2))
        turned = pairs * torch.polar(torch.ones(4), torch.arange(4.0))
        return torch.view_as_real(turned).flatten(1)


def test_auto_falls_back_and_says_why() -> None:
    module = ComplexRotation().eval()
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    source = GraphSource("head", module, {"x": x}, ("y",), {"x": {0: "b"}, "y": {0: "b"}})
    graph = export_graph(source)
    assert graph.exporter.startswith("dynamo (optimum: ") and "; legacy: " in graph.exporter
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(_run(graph, {"x": x})[0], expected, atol=1e-6)


def test_an_exporter_that_was_asked_for_is_not_replaced_by_another() -> None:
    x = np.ones((2, 8), np.float32)
    source = GraphSource("head", ComplexRotation().eval(), {"x": x}, ("y",))
    with pytest.raises(PackageError, match=r"'head' could not be exported.*legacy: "):
        export_graph(source, "legacy")
    with pytest.raises(PackageError, match=r"expected \['auto', 'optimum'"):
        export_graph(source, "onnx")


class Tied(nn.Module):
    """One tensor under two names, a scale computed from it, two equal tables, one constant."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(32, 32, bias=False)
        self.right = nn.Linear(32, 32, bias=False)
        self.right.weight = self.left.weight
        self.register_buffer("table", torch.ones(2, 32 * 32))
        self.register_buffer("other", torch.ones(2, 32 * 32))
        self.register_buffer("grid", torch.linspace(-1, 1, 512), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.left.weight.detach() / self.left.weight.detach().abs().max()
        y = self.right(self.left(x) @ scale).mean(1, keepdim=True)
        y = y + self.table.sum() - self.other[:1].sum(1, keepdim=True)
        return y * self.grid


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_frozen_graph_keeps_values_where_names_can_not_be_kept(exporter: str) -> None:
    torch.manual_seed(0)
    module = Tied().eval()
    x = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    dynamic = {"x": {0: "b"}, "y": {0: "b"}}
    with pytest.raises(PackageError, match=r"lost 1 of 4 weights.*right.weight|left.weight"):
        export_graph(GraphSource("tower", module, {"x": x}, ("y",), dynamic), exporter)
    frozen = GraphSource("tower", module, {"x": x}, ("y",), dynamic, frozen=True)
    graph = export_graph(frozen, exporter)
    assert len(graph.model.SerializeToString()) < 10_000
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(_run(graph, {"x": x})[0], expected, rtol=1e-4, atol=1e-4)


class Turned(nn.Module):
    """Uses a weight as it is and turned; `table` is a constant of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(8) * 2.0)
        self.table = torch.linspace(0, 1, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight) @ self.weight.t() + self.table


def test_a_tensor_computed_from_weights_is_refused_and_a_constant_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, dynamic = {"x": np.ones((2, 8), np.float32)}, {"x": {0: "b"}, "y": {0: "b"}}
    source = GraphSource("head", Turned(), inputs, ("y",), dynamic)
    graph = export_graph(source, "dynamo")
    assert set(graph.tensors) == {"weight"}
    expected = 4.0 * inputs["x"] + np.linspace(0, 1, 8, dtype=np.float32)
    np.testing.assert_allclose(_run(graph, inputs)[0], expected, atol=1e-6)

    def folding(source: GraphSource, module: nn.Module, path: Path, opset: int) -> None:
        torch.onnx.export(
            *(module, (torch.ones(2, 8),), path),
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            opset_version=opset,
            do_constant_folding=True,
        )

    monkeypatch.setitem(exporters._TRACE, "legacy", folding)
    with pytest.raises(PackageError, match="computed 1 tensors from its weights"):
        export_graph(source, "legacy")


class Reading(FlowHead):
    """Reads a weight as a plain number, which a tracer bakes in."""

    def denormalise(self, features: torch.Tensor, chunk: torch.Tensor) -> torch.Tensor:
        first = self.chunk_std[0, 0]
        return super().denormalise(features, chunk) * (first.item() / first)


def test_a_weight_that_was_baked_in_as_a_number_is_caught_before_a_package_exists(
    tmp_path: Path,
) -> None:
    policy = make_policy()
    head = Reading(policy.config)
    head.load_state_dict(policy.head.state_dict())
    policy.head = head
    with pytest.raises(CheckFailed, match="'chunks' of graph 'head' differs from torch"):
        package_policy(policy, make_examples(), tmp_path / "package", "optimum")
