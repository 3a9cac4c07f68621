"""Whatever can answer for a package: torch, the plain ONNX graph, an engine. One protocol, so that each
comparison is the same few lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from contracts.errors import ConfigError, MissingDependency
from contracts.files.packages import Package
from runtime.engines import Engine, EngineOptions, open_engine

if TYPE_CHECKING:
    from export.onnx import GraphSource

ENGINES = ("onnxruntime", "onnxruntime:cuda", "tensorrt")
"""What is tried when nobody says which engines to check; a provider may follow the kind."""


def options_of(name: str) -> EngineOptions:
    """ "onnxruntime:cuda" -> kind and provider. Raises `ConfigError`."""
    kind, _, provider = name.partition(":")
    try:
        return msgspec.convert({"kind": kind, "provider": provider or "cpu"}, EngineOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"no engine '{name}'", expected=f"one of {ENGINES}", found=str(error)
        ) from error


class Side(Protocol):
    """`name` is "torch", "onnx" or an engine as `options_of` takes it."""

    name: str

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name, the caller's to keep."""
        ...

    def close(self) -> None: ...


class TorchSide:
    """The modules themselves."""

    name = "torch"

    def __init__(self, sources: Mapping[str, GraphSource]) -> None:
        self._sources = sources

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        from export.parity.torch_side import run

        return run(self._sources[graph], inputs)

    def close(self) -> None:
        return None


class OnnxSide:
    """The graphs as they are written: ONNX Runtime with every optimisation off, one thread."""

    name = "onnx"

    def __init__(self, package: Package) -> None:
        self._package = package
        self._sessions: dict[str, tuple[Any, list[Any]]] = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        spec = self._package.manifest.graph(graph)
        names = [output.name for output in spec.outputs]
        feed = {value.name: inputs[value.name] for value in spec.inputs}
        return dict(zip(names, self._sessions[graph][0].run(names, feed), strict=True))

    def close(self) -> None:
        self._sessions.clear()

    def _open(self, graph: str) -> tuple[Any, list[Any]]:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependency(
                "parity needs ONNX Runtime",
                remedy="pip install 'entracte[sim]' (on a Jetson 'entracte[jetson]')",
            ) from error
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        tensors = self._package.graph_weights(graph)
        # ONNX Runtime reads them from here for as long as the session lives.
        values = [ort.OrtValue.ortvalue_from_numpy(np.array(array)) for array in tensors.values()]
        if tensors:
            options.add_external_initializers(list(tensors), values)
        model = self._package.graphs[graph]
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]), values


class EngineSide:
    """An engine as `robot-run` opens it."""

    def __init__(self, package: Package, options: EngineOptions) -> None:
        """Opens every graph, so that what is missing is known at once. Raises `EntracteError`."""
        self.name = (
            options.kind if options.provider == "cpu" else f"{options.kind}:{options.provider}"
        )
        self.options = options
        self._engines: dict[str, Engine] = {}
        try:
            for spec in package.manifest.graphs:
                self._engines[spec.name] = open_engine(package, spec.name, options)
        except BaseException:
            self.close()
            raise

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        answer = self._engines[graph].run(inputs)
        return {name: array.copy() for name, array in answer.items()}

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
