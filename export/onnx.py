"""torch module -> weightless ONNX graph plus its tensors by name, through Optimum's `export_models`.

The weights' names are the point: a release replaces tensors by name, so a name that is lost, merged or
transformed on the way would give a wrong policy with no error. See docs/decisions/0002-weightless-graphs.md.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from contracts.errors import MissingDependency, PackageError
from contracts.package import GraphSpec, TensorSpec

try:
    import onnx
    from optimum.exporters.onnx import OnnxConfig, export_models
    from optimum.utils import NormalizedConfig
    from transformers import PretrainedConfig, PreTrainedModel
except ImportError as _error:
    raise MissingDependency(
        "export needs Optimum and ONNX", remedy="pip install 'entracte[export]'"
    ) from _error

OPSET = 17
"""17 has LayerNormalization; TensorRT 10.3 (JetPack 6.2) parses up to 20."""
IR_VERSION = 8
EXPORTER = "optimum"
_PREFIX = "module."


@dataclass(frozen=True)
class GraphSource:
    """One graph to be. `module(*inputs)` takes tensors in the order of `inputs` and returns a tensor or
    a tuple in the order of `outputs`. `inputs` maps names to example arrays of the real dtype and shape;
    `dynamic` names the axes that may vary: {"state": {0: "batch"}} (inputs and outputs)."""

    name: str
    module: nn.Module
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportedGraph:
    """`model`: ONNX whose floating-point initializers hold no data; `tensors`: their true values."""

    spec: GraphSpec
    model: onnx.ModelProto
    tensors: dict[str, np.ndarray]


def export_graph(source: GraphSource, opset: int = OPSET) -> ExportedGraph:
    """Trace, check that every float tensor of the module's state is an initializer, take the data out.

    Raises `PackageError` naming the tensors that the exporter lost, merged or changed.
    """
    torch.backends.mha.set_fastpath_enabled(False)
    perturbed = perturbed_copy(source.module)
    model = _trace(source, perturbed, opset)
    _restore_names(model)
    _declare_shapes(source, model, perturbed)
    _check_coverage(source, model, perturbed)
    tensors = state_tensors(source.module)
    for initializer in model.graph.initializer:
        if initializer.name in tensors:
            _empty(initializer)
    spec = GraphSpec(
        name=source.name,
        file="",
        sha256="",
        inputs=tuple(_spec(value) for value in model.graph.input),
        outputs=tuple(_spec(value) for value in model.graph.output),
    )
    if [s.name for s in spec.inputs] != list(source.inputs):
        raise PackageError(
            f"graph '{source.name}' lost an input on export",
            expected=list(source.inputs),
            found=[s.name for s in spec.inputs],
            remedy="use every input in the module's forward",
        )
    return ExportedGraph(spec, model, tensors)


def state_tensors(module: nn.Module) -> dict[str, np.ndarray]:
    """The floating-point tensors of the module's state dict by name."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def perturbed_copy(module: nn.Module) -> nn.Module:
    """A deep copy in which no two tensors are equal, since the exporter merges those that are."""
    twin = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for index, tensor in enumerate(twin.state_dict().values()):
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float32)
                tensor.add_((1e-3 * (index + 1) + 1e-3 * noise).to(tensor.dtype))
    return twin


def point_into(model: onnx.ModelProto, prefix: str, weights_file: str, weights: bytes) -> bytes:
    """The serialised model, its empty initializers pointing at their bytes in a safetensors file, so
    that any ONNX tool that is given the folder opens it too."""
    offsets = _safetensors_offsets(weights)
    model = copy.deepcopy(model)
    for initializer in model.graph.initializer:
        if initializer.data_location != onnx.TensorProto.EXTERNAL:
            continue
        begin, end = offsets[f"{prefix}/{initializer.name}"]
        del initializer.external_data[:]
        for key, value in (("location", weights_file), ("offset", begin), ("length", end - begin)):
            entry = initializer.external_data.add()
            entry.key, entry.value = key, str(value)
    return bytes(model.SerializeToString(deterministic=True))


class _GraphConfig(PretrainedConfig):
    model_type = "entracte-graph"


class _GraphModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What Optimum takes: a `PreTrainedModel` around the module, its inputs as named parameters."""

    config_class = _GraphConfig

    def __init__(self, module: nn.Module, parameters: Sequence[str]) -> None:
        super().__init__(_GraphConfig())
        self.module = module

        def forward(*inputs: torch.Tensor) -> Any:
            return module(*inputs)

        # Names of inputs are ours to choose ("images.front" is no Python name), so the signature that
        # the exporter reads is made here.
        forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for name in parameters
            ]
        )
        self.forward = forward


class _GraphOnnxConfig(OnnxConfig):  # type: ignore[misc]
    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DEFAULT_ONNX_OPSET = OPSET

    def __init__(self, source: GraphSource) -> None:
        self._source = source
        super().__init__(_GraphConfig(), task="feature-extraction")

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        return OrderedDict(
            (_identifier(name), dict(self._source.dynamic.get(name, {})))
            for name in self._source.inputs
        )

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        return OrderedDict(
            (name, dict(self._source.dynamic.get(name, {}))) for name in self._source.outputs
        )

    @property
    def torch_to_onnx_input_map(self) -> dict[str, str]:
        return {_identifier(name): name for name in self._source.inputs}

    def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
        arrays = {_identifier(name): array for name, array in self._source.inputs.items()}
        if framework == "np":
            return arrays
        return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def generate_dummy_inputs_for_validation(
        self, reference_model_inputs: dict[str, Any], onnx_input_names: list[str]
    ) -> dict[str, Any]:
        return {
            self.torch_to_onnx_input_map.get(name, name): value
            for name, value in reference_model_inputs.items()
        }


def _identifier(name: str) -> str:
    return name.replace(".", "__").replace("/", "__")


def _trace(source: GraphSource, module: nn.Module, opset: int) -> onnx.ModelProto:
    parameters = [_identifier(name) for name in source.inputs]
    loggers = [logging.getLogger(name) for name in ("optimum", "torch.onnx", "transformers")]
    levels = [logger.level for logger in loggers]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The legacy exporter is the one that keeps the names (FIELD_NOTES 2); its notice is known.
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            export_models(
                {source.name: (_GraphModel(module, parameters), _GraphOnnxConfig(source))},
                Path(folder),
                opset=opset,
                do_constant_folding=False,
            )
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
        model = onnx.load(str(Path(folder) / f"{source.name}.onnx"))
    onnx.checker.check_model(model, full_check=True)
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "entracte", ""
    return model


def _restore_names(model: onnx.ModelProto) -> None:
    """Initializers get the names of the module's own state dict, without the wrapper's prefix."""
    rename = {
        initializer.name: initializer.name.removeprefix(_PREFIX)
        for initializer in model.graph.initializer
    }
    for initializer in model.graph.initializer:
        initializer.name = rename[initializer.name]
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = rename.get(name, name)


def _declare_shapes(source: GraphSource, model: onnx.ModelProto, module: nn.Module) -> None:
    """Outputs get the sizes they have; the tracer leaves axes open that went through a broadcast."""
    with torch.inference_mode():
        answer = module(*(torch.from_numpy(array.copy()) for array in source.inputs.values()))
    values = answer if isinstance(answer, (tuple, list)) else (answer,)
    for output, value in zip(model.graph.output, values, strict=True):
        dynamic = source.dynamic.get(output.name, {})
        for axis, dim in enumerate(output.type.tensor_type.shape.dim):
            if axis not in dynamic:
                dim.dim_value = value.shape[axis]


def _check_coverage(source: GraphSource, model: onnx.ModelProto, perturbed: nn.Module) -> None:
    expected = state_tensors(perturbed)
    found = {
        initializer.name: onnx.numpy_helper.to_array(initializer)
        for initializer in model.graph.initializer
    }
    lost = sorted(expected.keys() - found.keys())
    foreign = sorted(
        name for name, array in found.items() if name not in expected and array.dtype.kind == "f"
    )
    changed = sorted(
        name
        for name in expected.keys() & found.keys()
        if found[name].dtype != expected[name].dtype
        or not np.array_equal(found[name], expected[name])
    )
    for what, names in (("lost", lost), ("invented", foreign), ("changed", changed)):
        if names:
            raise PackageError(
                f"export of graph '{source.name}' {what} {len(names)} of {len(expected)} weights",
                found=names[:8],
                remedy="use each parameter directly in the forward pass and freeze batch norms",
            )


def _empty(initializer: onnx.TensorProto) -> None:
    for kind in ("raw_data", "float_data", "double_data", "int32_data"):
        initializer.ClearField(kind)
    initializer.data_location = onnx.TensorProto.EXTERNAL


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(np.dtype(dtype)), shape)


def _safetensors_offsets(data: bytes) -> dict[str, tuple[int, int]]:
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return {
        name: (8 + size + entry["data_offsets"][0], 8 + size + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }
