"""torch module -> weightless ONNX graph plus its tensors by name.

The weights' names are the point: a release replaces tensors by name, so a name that is lost, merged or
transformed on the way would give a wrong policy with no error. How a module is traced is export.exporters'
business. See docs/decisions/0002-weightless-graphs.md and 0009-names-or-values.md.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from contracts.errors import MissingDependency, PackageError
from contracts.package import GraphSpec, TensorSpec
from export.exporters import AUTO, EXPORTERS, trace

try:
    import onnx
except ImportError as _error:
    raise MissingDependency(
        "export needs ONNX", remedy="pip install 'entracte[export]'"
    ) from _error

OPSET = 17
"""17 has LayerNormalization; TensorRT 10.3 (JetPack 6.2) parses up to 20."""
IR_VERSION = 8
_PREFIX, _SCOPE = "module.", "/module"
_SCOPES = "pkg.torch.onnx.name_scopes"
_SMALL_BYTES = 1024
"""Of a frozen graph, floats of at least so many bytes leave the .onnx file; smaller ones are constants of
the graph (a pooling's scale), which some engines must see when they parse."""
_REASON_LENGTH = 200


@dataclass(frozen=True)
class GraphSource:
    """One graph to be. `module(*inputs)` takes tensors in the order of `inputs` and returns a tensor or
    a tuple in the order of `outputs`. `inputs` maps names to example arrays of the real dtype and shape;
    `dynamic` names the axes that may vary: {"state": {0: "batch"}} (inputs and outputs). `frozen`: no
    release will ever replace a tensor of it and nobody will ask for one by name, so the exporter may fold,
    merge and rename; the values are those that it traced."""

    name: str
    module: nn.Module
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    frozen: bool = False


@dataclass(frozen=True)
class ExportedGraph:
    """`model`: ONNX whose weights hold no data; `tensors`: their true values; `exporter`: what traced it,
    with the reasons why those before it did not."""

    spec: GraphSpec
    model: onnx.ModelProto
    tensors: dict[str, np.ndarray]
    exporter: str = ""


def export_graph(source: GraphSource, exporter: str = AUTO, opset: int = OPSET) -> ExportedGraph:
    """Trace with `exporter` ("auto": the first of `EXPORTERS` that works), check that every float tensor of
    the module's state is an initializer (unless `source.frozen`), take the data out.

    Raises `PackageError` naming the tensors that the exporter lost, merged or changed.
    """
    if exporter not in (AUTO, *EXPORTERS):
        raise PackageError("unknown exporter", expected=[AUTO, *EXPORTERS], found=exporter)
    failed: dict[str, Exception] = {}
    for name in EXPORTERS if exporter == AUTO else (exporter,):
        try:
            graph = _export(source, name, opset)
        except Exception as error:  # an exporter raises whatever the module's code made it raise
            failed[name] = error
            continue
        return dataclasses.replace(graph, exporter=f"{name} ({_why(failed)})" if failed else name)
    first = next(iter(failed.values()))
    if len(failed) == 1 and isinstance(first, PackageError | MissingDependency):
        raise first
    raise PackageError(
        f"graph '{source.name}' could not be exported",
        found=_why(failed),
        remedy="rewrite what its forward does there, or try another --exporter",
    ) from first


def state_tensors(module: nn.Module) -> dict[str, np.ndarray]:
    """The floating-point tensors of the module's state dict by name."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def perturbed_copy(module: nn.Module, seed: int = 0) -> nn.Module:
    """A deep copy in which no two tensors are equal, since the exporter merges those that are."""
    twin = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(seed)
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


def _export(source: GraphSource, exporter: str, opset: int) -> ExportedGraph:
    torch.backends.mha.set_fastpath_enabled(False)
    module = source.module.eval() if source.frozen else perturbed_copy(source.module)
    model, arrays = _traced(source, module, exporter, opset)
    _require_inputs(source, model)
    _declare_shapes(source, model, module)
    if source.frozen:
        tensors = _weights_as_traced(source, arrays)
    else:
        constant = _check_coverage(source, arrays, state_tensors(module))
        if constant:
            _check_constant(source, exporter, opset, {name: arrays[name] for name in constant})
        tensors = state_tensors(source.module)
    for initializer in model.graph.initializer:
        if initializer.name in tensors:
            _empty(initializer)
        elif initializer.data_location == onnx.TensorProto.EXTERNAL:
            initializer.CopyFrom(
                onnx.numpy_helper.from_array(arrays[initializer.name], initializer.name)
            )
    spec = GraphSpec(
        name=source.name,
        file="",
        sha256="",
        inputs=tuple(_spec(value) for value in model.graph.input),
        outputs=tuple(_spec(value) for value in model.graph.output),
    )
    return ExportedGraph(spec, model, tensors)


def _traced(
    source: GraphSource, module: nn.Module, exporter: str, opset: int
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model (whose data may be absent) and the data of every initializer. By way of files: beyond
    2 GB protobuf holds no model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{source.name}.onnx"
        trace(source, module, exporter, path, opset)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        model.ir_version = IR_VERSION
        model.producer_name, model.producer_version = "entracte", ""
        _restore_names(model)
        _strip(model)
        arrays = {
            initializer.name: onnx.numpy_helper.to_array(initializer, folder).copy()
            for initializer in model.graph.initializer
        }
    return model, arrays


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


def _strip(model: onnx.ModelProto) -> None:
    """Nodes keep the module they come from in their name ("/flow/norms.0/Add"), about as the legacy
    exporter has it; dynamo's notes (stack traces of this machine) go."""
    for node in model.graph.node:
        notes = {note.key: note.value for note in node.metadata_props}
        if _SCOPES in notes:
            *scopes, _ = [part.strip(" '\"") for part in notes[_SCOPES].strip("[]").split(",")]
            node.name = f"/{scopes[-1] if scopes else ''}/{node.name}".replace("//", "/")
        node.name = node.name.removeprefix(_SCOPE)
        del node.metadata_props[:]
        node.doc_string = ""
    for holder in (model, model.graph):
        del holder.metadata_props[:]
        holder.doc_string = ""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    for item in (*values, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _require_inputs(source: GraphSource, model: onnx.ModelProto) -> None:
    used = {name for node in _nodes(model.graph) for name in node.input}
    used |= {output.name for output in model.graph.output}
    found = [value.name for value in model.graph.input if value.name in used]
    if found != list(source.inputs):
        raise PackageError(
            f"graph '{source.name}' lost an input on export",
            expected=list(source.inputs),
            found=found,
            remedy="use every input in the module's forward",
        )


def _nodes(graph: onnx.GraphProto) -> Iterable[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


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


def _check_coverage(
    source: GraphSource, found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]
) -> list[str]:
    """Raise `PackageError` unless every expected tensor is there with its own values; returns the names of
    other floats."""
    lost = sorted(expected.keys() - found.keys())
    changed = sorted(
        name
        for name in expected.keys() & found.keys()
        if found[name].dtype != expected[name].dtype
        or not np.array_equal(found[name], expected[name])
    )
    for what, names in (("lost", lost), ("changed", changed)):
        if names:
            raise PackageError(
                f"export of graph '{source.name}' {what} {len(names)} of {len(expected)} weights",
                found=names[:8],
                remedy="use each parameter directly in the forward pass and freeze batch norms",
            )
    return sorted(
        name for name, array in found.items() if name not in expected and array.dtype.kind == "f"
    )


def _check_constant(
    source: GraphSource, exporter: str, opset: int, invented: Mapping[str, np.ndarray]
) -> None:
    """Floats that the state doesn't hold are either constants of the code or computed from weights; a
    second trace of other weights tells, since only the latter change with them."""
    _, again = _traced(source, perturbed_copy(source.module, seed=1), exporter, opset)
    derived = [
        name
        for name, array in invented.items()
        if name not in again or not np.array_equal(again[name], array)
    ]
    if derived:
        raise PackageError(
            f"export of graph '{source.name}' computed {len(derived)} tensors from its weights",
            found=derived[:8],
            remedy="use each parameter directly in the forward pass and freeze batch norms",
        )


def _weights_as_traced(
    source: GraphSource, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    weights = {
        name: array
        for name, array in arrays.items()
        if array.nbytes >= _SMALL_BYTES and array.dtype.kind not in "iub"
    }
    odd = sorted(name for name, array in weights.items() if array.dtype.kind != "f")
    if odd:
        raise PackageError(
            f"graph '{source.name}' holds weights that a package can't",
            expected="float16, float32 or float64",
            found=f"{weights[odd[0]].dtype} in '{odd[0]}'",
            remedy="convert the module with .float() or .half() first",
        )
    return weights


def _empty(initializer: onnx.TensorProto) -> None:
    for kind in ("raw_data", "float_data", "double_data", "int32_data"):
        initializer.ClearField(kind)
    del initializer.external_data[:]
    initializer.data_location = onnx.TensorProto.EXTERNAL


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(value.name, str(np.dtype(dtype)), shape)


def _safetensors_offsets(data: bytes) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes lie in the file, from its start."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: (8 + length + entry["data_offsets"][0], 8 + length + entry["data_offsets"][1])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _why(failed: Mapping[str, Exception]) -> str:
    reasons = []
    for name, error in failed.items():
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = lines[0] if lines else type(error).__name__
        reasons.append(f"{name}: {text[:_REASON_LENGTH]}")
    return "; ".join(reasons)
