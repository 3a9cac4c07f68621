"""A trunk in fp16 by ONNX Runtime's converter, which keeps the weights' names (FIELD_NOTES 2).

Inputs and outputs stay as they are. What goes straight from the joint state to the features stays float32:
half precision has steps of 0.06 degrees at 100, and the head works relative to exactly that.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import onnx

from contracts.errors import MissingDependency, PackageError
from export.quantize.graphs import Transformed, layers, parted

LARGEST = 65504.0


def to_fp16(model: onnx.ModelProto, only: Collection[str], rest: bool = True) -> Transformed:
    """`model` (weights inside) with the layers `only` in fp16, and, with `rest`, all between layers too.

    Raises `PackageError` when a weight does not fit into fp16 or its name is lost."""
    try:
        from onnxruntime.quantization.onnx_model import ONNXModel
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as error:
        raise MissingDependency(
            "fp16 needs ONNX Runtime's converter", remedy="pip install 'entracte[export]'"
        ) from error
    for initializer in model.graph.initializer:
        array = onnx.numpy_helper.to_array(initializer)
        if array.dtype.kind == "f" and array.size and abs(array).max() > LARGEST:
            raise PackageError(
                f"weight '{initializer.name}' does not fit into fp16",
                expected=f"<= {LARGEST:g}",
                found=f"{abs(array).max():.3g}",
                remedy="leave its layer in float32 (--keep-float)",
            )
    blocked = _float(model, only, rest)
    half = convert_float_to_float16(
        copy.deepcopy(model), keep_io_types=True, node_block_list=blocked
    )
    _merge_casts(half)
    _no_detours(half, blocked)
    ONNXModel(half).topological_sort()
    half.producer_name, half.producer_version = "entracte", ""
    del half.graph.value_info[:]
    onnx.checker.check_model(half)
    kept = {initializer.name for initializer in half.graph.initializer}
    lost = sorted(i.name for i in model.graph.initializer if i.name not in kept)
    if lost:
        raise PackageError("the fp16 converter lost weights", found=lost[:8])
    return parted(half, "fp16", {})


def _float(model: onnx.ModelProto, only: Collection[str], rest: bool) -> Sequence[str]:
    """Nodes that stay float32."""
    if rest:
        return [*sorted(set(layers(model)) - set(only)), *_exact(model)]
    return [node.name for node in model.graph.node if node.name not in only]


def _merge_casts(model: onnx.ModelProto) -> None:
    """The converter casts a tensor anew, under the same name, for every float32 node that takes it."""
    first: dict[tuple[str, int], str] = {}
    renamed: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Cast":
            key = (node.input[0], node.attribute[0].i)
            if key in first:
                renamed[node.output[0]] = first[key]
                continue
            first[key] = node.output[0]
            node.name = f"{node.output[0]}/Cast"
        nodes.append(node)
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _no_detours(model: onnx.ModelProto, blocked: Collection[str]) -> None:
    """Undo float32 -> fp16 -> float32, which the converter puts between an input or a float32 node and the
    next float32 node or output: it would round what is to stay exact."""
    names = set(blocked)
    exact = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    exact |= {name for node in model.graph.node if node.name in names for name in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    halved = {
        node.output[0]: node.input[0]
        for node in casts
        if node.attribute[0].i == onnx.TensorProto.FLOAT16 and node.input[0] in exact
    }
    for node in casts:
        if node.attribute[0].i == onnx.TensorProto.FLOAT and node.input[0] in halved:
            node.op_type = "Identity"
            node.input[0] = halved[node.input[0]]
            del node.attribute[:]
    used = {name for node in model.graph.node for name in node.input}
    used |= {value.name for value in model.graph.output}
    nodes = [node for node in model.graph.node if used & set(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _exact(model: onnx.ModelProto) -> list[str]:
    """Nodes of no layer that depend on nothing but float inputs (the normalised state), and those that only
    put an output together."""
    from_float = {
        value.name
        for value in model.graph.input
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    given = {initializer.name for initializer in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    heavy, found = set(layers(model)), []
    for node in model.graph.node:
        inputs = [name for name in node.input if name and name not in given]
        if inputs and node.name not in heavy and all(name in from_float for name in inputs):
            found.append(node.name)
            from_float.update(node.output)
        elif node.op_type == "Concat" and outputs & set(node.output):
            found.append(node.name)
    return found
