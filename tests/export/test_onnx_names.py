"""Every weight keeps its name through export; the exporter's merging of equal tensors is caught."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from contracts.errors import PackageError
from export import onnx as export_onnx
from export.onnx import GraphSource, export_graph, perturbed_copy, state_tensors


class Merging(nn.Module):
    """Fresh norms and zero biases: tensors that are equal until somebody trains them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(4)
        self.second = nn.LayerNorm(4)
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)
        for layer in (self.left, self.right):
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.right(self.second(torch.relu(self.left(self.first(x)))))


def _source(module: nn.Module, name: str = "head") -> GraphSource:
    inputs = {"x": np.ones((2, 4), np.float32)}
    return GraphSource(name, module, inputs, ("y",), {"x": {0: "batch"}, "y": {0: "batch"}})


def test_all_names_survive_although_tensors_are_equal() -> None:
    torch.manual_seed(0)
    module = Merging()
    exported = export_graph(_source(module))
    names = {initializer.name for initializer in exported.model.graph.initializer}
    assert names == set(module.state_dict())
    assert set(exported.tensors) == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(exported.tensors[name], tensor.numpy())
    for initializer in exported.model.graph.initializer:
        assert initializer.data_location == onnx.TensorProto.EXTERNAL and not initializer.raw_data


@pytest.mark.parametrize("exporter", ["optimum", "legacy"])
def test_without_the_perturbation_the_merge_is_an_error(
    exporter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap of FIELD_NOTES 2, live: the exporter merges equal tensors, and coverage says which."""
    monkeypatch.setattr(export_onnx, "perturbed_copy", lambda module: copy.deepcopy(module).eval())
    with pytest.raises(PackageError, match=r"lost 4 of 8 weights.*left.bias"):
        export_graph(_source(Merging()), exporter)


def test_the_perturbed_copy_has_no_two_equal_tensors() -> None:
    twin = perturbed_copy(Merging())
    seen = [tensor.tobytes() for tensor in state_tensors(twin).values()]
    assert len(set(seen)) == len(seen)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 4)
        self.spare = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def test_a_weight_that_the_graph_does_not_use_is_named() -> None:
    with pytest.raises(PackageError, match=r"lost 2 of 4 weights.*spare"):
        export_graph(_source(Unused()))


class Blind(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_an_input_that_is_not_used_is_an_error() -> None:
    source = GraphSource(
        "head",
        Blind(),
        {"x": np.ones((2, 4), np.float32), "ignored": np.ones((2, 4), np.float32)},
        ("y",),
    )
    with pytest.raises(PackageError, match="ignored"):
        export_graph(source)


def test_input_names_may_hold_dots_and_bytes() -> None:
    class Camera(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            return self.layer(image.float().mean((1, 2))) + tokens.sum(1, keepdim=True).float()

    inputs = {
        "images.front": np.zeros((2, 4, 5, 3), np.uint8),
        "tokens": np.zeros((2, 3), np.int64),
    }
    dynamic = {name: {0: "batch"} for name in (*inputs, "features")}
    spec = export_graph(GraphSource("trunk", Camera(), inputs, ("features",), dynamic)).spec
    assert [(s.name, s.dtype, s.shape) for s in spec.inputs] == [
        ("images.front", "uint8", (-1, 4, 5, 3)),
        ("tokens", "int64", (-1, 3)),
    ]
    assert [(s.name, s.dtype, s.shape) for s in spec.outputs] == [("features", "float32", (-1, 2))]


def test_the_folder_opens_in_any_onnx_tool(tmp_path: Path) -> None:
    """The .onnx points at its bytes inside weights.safetensors."""
    import onnxruntime as ort

    from contracts.files.packages import safetensors_bytes

    torch.manual_seed(1)
    module = Merging().eval()
    exported = export_graph(_source(module))
    weights = safetensors_bytes({f"head/{name}": t for name, t in exported.tensors.items()})
    (tmp_path / "weights.safetensors").write_bytes(weights)
    model = export_onnx.point_into(exported.model, "head", "weights.safetensors", weights)
    (tmp_path / "head.onnx").write_bytes(model)
    session = ort.InferenceSession(str(tmp_path / "head.onnx"), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-5)
