"""The CPU engine: an ONNX Runtime session whose initializers are injected before it optimises.

Writing into the initializers of a live session is ignored or wrong (constants are folded and weights
repacked when the session is made), so new weights always mean a new session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from contracts.errors import MissingDependency, PackageError
from contracts.files.packages import Package
from contracts.package import TensorSpec
from runtime.engines import EngineOptions, check_inputs, refined


class OnnxRuntimeEngine:
    """`Engine` on ONNX Runtime's CPU provider."""

    def __init__(
        self,
        package: Package,
        graph: str,
        options: EngineOptions,
        tensors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`tensors`: every initializer of the graph by its own name; by default the package's."""
        spec = package.manifest.graph(graph)
        self._package, self._graph, self._options = package, graph, options
        self._inputs, self._outputs = spec.inputs, spec.outputs
        self._output_names = [output.name for output in spec.outputs]
        if tensors is None:
            tensors = package.graph_weights(graph)
        # The session may read the values from our memory until it is closed.
        self._values: list[Any] = []
        self._session: Any = self._open(package.graphs[graph], tensors)
        self._check_signature()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self._session is None:
            raise PackageError(f"engine of graph '{self._graph}' is closed")
        check_inputs(self._graph, self._inputs, inputs)
        feed = {spec.name: inputs[spec.name] for spec in self._inputs}
        values = self._session.run(self._output_names, feed)
        return dict(zip(self._output_names, values, strict=True))

    def standby(self, weights: Mapping[str, np.ndarray]) -> OnnxRuntimeEngine:
        tensors = refined(self._package, self._graph, weights)
        return OnnxRuntimeEngine(self._package, self._graph, self._options, tensors)

    def close(self) -> None:
        self._session = None
        self._values.clear()

    def _open(self, model: bytes, tensors: Mapping[str, np.ndarray]) -> Any:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingDependency(
                "the engine 'onnxruntime' needs ONNX Runtime",
                remedy="pip install 'entracte[sim]' (on a Jetson 'entracte[jetson]')",
            ) from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._options.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        spinning = "1" if self._options.spinning else "0"
        options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
        options.add_session_config_entry("session.inter_op.allow_spinning", spinning)
        # Flush denormals: a CPU takes 100 times longer over them, and a control loop would notice.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        names = sorted(tensors)
        # Copied: the caller may reuse its buffers, ORT keeps pointing at these.
        self._values = [
            ort.OrtValue.ortvalue_from_numpy(np.array(tensors[name], order="C")) for name in names
        ]
        if names:
            options.add_external_initializers(names, self._values)
        try:
            return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ORT raises its own types, all of them plain Exceptions
            raise PackageError(
                f"ONNX Runtime {ort.__version__} can't open graph '{self._graph}' of "
                f"{self._package.folder}",
                found=str(error).replace("\n", " "),
                remedy="export the package again",
            ) from error

    def _check_signature(self) -> None:
        for what, wanted, found in (
            ("inputs", self._inputs, self._session.get_inputs()),
            ("outputs", self._outputs, self._session.get_outputs()),
        ):
            names, others = [spec.name for spec in wanted], [node.name for node in found]
            if sorted(names) != sorted(others):
                raise PackageError(
                    f"{what} of graph '{self._graph}' are not the manifest's",
                    expected=names,
                    found=others,
                )
