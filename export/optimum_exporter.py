"""A plain torch module through Optimum's `export_models`, which takes transformers' models only.

Owns the wrapping; the file's tensors carry the wrapper's prefix, which export.onnx takes off.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from optimum.exporters.onnx import OnnxConfig, export_models
from optimum.utils import NormalizedConfig
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

if TYPE_CHECKING:
    from export.onnx import GraphSource


def trace(source: GraphSource, module: nn.Module, path: Path, opset: int) -> None:
    """Write `module` to `path`. Whatever Optimum raises is raised."""
    parameters = [_identifier(name) for name in source.inputs]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        export_models(
            {source.name: (_GraphModel(module, parameters), _GraphOnnxConfig(source))},
            Path(folder),
            opset=opset,
            do_constant_folding=False,
        )
        for file in Path(folder).iterdir():
            name = path.name if file.name == f"{source.name}.onnx" else file.name
            shutil.move(str(file), str(path.parent / name))


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
