"""How a module is traced: `optimum` | `legacy` | `dynamo` | `auto`. Gives an .onnx file; names, values and
shapes are export.onnx's business.

`auto` takes the first that works, in the order of FIELD_NOTES 2: Optimum and the legacy exporter keep
weights' names (Optimum's `export_models` drives the legacy one), dynamo traces what they can't.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from contracts.errors import MissingDependency

if TYPE_CHECKING:
    from export.onnx import GraphSource

AUTO = "auto"
EXPORTERS = ("optimum", "legacy", "dynamo")
DYNAMO_OPSET = 18
"""The least that torch's dynamo exporter writes; TensorRT 10.3 parses up to 20."""


def _optimum(source: GraphSource, module: nn.Module, path: Path, opset: int) -> None:
    try:
        from export import optimum_exporter
    except ImportError as error:
        raise MissingDependency(
            "the exporter 'optimum' needs Optimum", remedy="pip install 'entracte[export]'"
        ) from error
    optimum_exporter.trace(source, module, path, opset)


def _legacy(source: GraphSource, module: nn.Module, path: Path, opset: int) -> None:
    torch.onnx.export(
        module,
        _arguments(source),
        path,
        dynamo=False,
        input_names=list(source.inputs),
        output_names=list(source.outputs),
        dynamic_axes={name: dict(axes) for name, axes in source.dynamic.items()},
        opset_version=opset,
        do_constant_folding=False,
    )


def _dynamo(source: GraphSource, module: nn.Module, path: Path, opset: int) -> None:
    # One size for all axes of one name: "batch" of two inputs is one batch.
    sizes = {
        name: torch.export.Dim(name) for axes in source.dynamic.values() for name in axes.values()
    }
    shapes = tuple(
        {axis: sizes[size] for axis, size in source.dynamic.get(name, {}).items()} or None
        for name in source.inputs
    )
    torch.onnx.export(
        module,
        _arguments(source),
        path,
        dynamo=True,
        input_names=list(source.inputs),
        output_names=list(source.outputs),
        # A forward of (*inputs) has one argument, which holds them all.
        dynamic_shapes=(shapes,) if _takes_any_number(module) else shapes,
        opset_version=max(opset, DYNAMO_OPSET),
        external_data=True,
        # Folding and its like are what loses names; every engine does them again by itself.
        optimize=False,
        verbose=False,
    )


_TRACE: dict[str, Callable[[GraphSource, nn.Module, Path, int], None]] = {
    "optimum": _optimum,
    "legacy": _legacy,
    "dynamo": _dynamo,
}


def trace(source: GraphSource, module: nn.Module, exporter: str, path: Path, opset: int) -> None:
    """Write `module` (of `source`, or a copy of it with other values) to `path`; weights over 2 GB lie in
    files beside it. Whatever the exporter raises is raised."""
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        _TRACE[exporter](source, module.eval(), path, opset)


def _arguments(source: GraphSource) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array.copy()) for array in source.inputs.values())


def _takes_any_number(module: nn.Module) -> bool:
    import inspect

    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)


@contextmanager
def _quiet() -> Iterator[None]:
    """The legacy exporter's notice that it is old is known: it is the one that keeps the names."""
    loggers = [logging.getLogger(name) for name in ("optimum", "torch.onnx", "transformers")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
