"""ONNX Runtime sessions with what they read kept alive, and memory bound to one: no run allocates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.errors import MissingDependency

KEPT_SHAPES = 4
"""Sets of input shapes whose buffers are kept. A policy's head sees one or two numbers of candidates."""


@dataclass
class Session:
    """An InferenceSession, the values that it reads in our memory, and where it runs ("cpu", "cuda")."""

    session: Any
    values: list[Any]
    device: str


@dataclass
class _Buffers:
    """Of one set of input shapes. `staged`: device copies of the inputs, empty on the CPU. `kept`: what the
    binding points at, so that a run in flight outlives an engine that is closed meanwhile."""

    binding: Any
    kept: list[Any]
    inputs: list[np.ndarray]
    outputs: dict[str, np.ndarray]
    staged: list[Any]


class Bound:
    """A session with its inputs' and outputs' memory, and weights that it is fed with every run.

    One thread at a time. The shapes of the outputs must follow from the shapes of the inputs.
    """

    def __init__(
        self,
        held: Session,
        inputs: Sequence[str],
        outputs: Sequence[str],
        fed: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """`fed`: initializers that the session takes as inputs; copied."""
        self._held, self._inputs, self._outputs = held, inputs, outputs
        self._fed = {
            name: ort_value(np.array(tensor, order="C"), held.device)
            for name, tensor in (fed or {}).items()
        }
        self._kept: OrderedDict[tuple[tuple[int, ...], ...], _Buffers] = OrderedDict()

    def knows(self, shapes: tuple[tuple[int, ...], ...]) -> bool:
        """Whether inputs of these shapes were run before and their buffers are still there."""
        return shapes in self._kept

    def run(
        self, given: Sequence[np.ndarray], shapes: tuple[tuple[int, ...], ...]
    ) -> dict[str, np.ndarray]:
        """Outputs by name, in arrays that the next run writes over. Raises TypeError for another dtype."""
        buffers = self._kept.get(shapes)
        if buffers is None:
            buffers = self._kept[shapes] = self._bind(given)
            if len(self._kept) > KEPT_SHAPES:
                self._kept.popitem(last=False)
            return buffers.outputs
        self._kept.move_to_end(shapes)
        for target, array in zip(buffers.inputs, given, strict=True):
            np.copyto(target, array, casting="no")
        if buffers.staged:
            for device, array in zip(buffers.staged, buffers.inputs, strict=True):
                device.update_inplace(array)
        self._held.session.run_with_iobinding(buffers.binding)
        if buffers.staged:
            buffers.binding.synchronize_outputs()
        return buffers.outputs

    def _bind(self, given: Sequence[np.ndarray]) -> _Buffers:
        """Buffers for inputs of these shapes; `given` itself is run, and its outputs lie in them."""
        session, device = self._held.session, self._held.device
        binding = session.io_binding()
        for name, value in self._fed.items():
            binding.bind_ortvalue_input(name, value)
        inputs = [np.array(array, order="C") for array in given]
        staged = [ort_value(array, device) for array in inputs]
        for name, value in zip(self._inputs, staged, strict=True):
            binding.bind_ortvalue_input(name, value)
        # The first run lets ONNX Runtime choose the outputs' memory: their shapes are known after it.
        for name in self._outputs:
            binding.bind_output(name)
        session.run_with_iobinding(binding)
        found = binding.copy_outputs_to_cpu()
        outputs = {
            name: np.array(array, order="C")
            for name, array in zip(self._outputs, found, strict=True)
        }
        # A binding of its own for the runs that follow: one that was run keeps what it allocated.
        bound = session.io_binding()
        for name, value in (*self._fed.items(), *zip(self._inputs, staged, strict=True)):
            bound.bind_ortvalue_input(name, value)
        for name, array in outputs.items():
            bound.bind_ortvalue_output(name, ort_value(array, "cpu"))
        kept = [self._held, *self._fed.values(), *staged]
        return _Buffers(bound, kept, inputs, outputs, [] if device == "cpu" else staged)


def require_onnxruntime() -> Any:
    """The `onnxruntime` module. Raises `MissingDependency`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency(
            "the engine 'onnxruntime' needs ONNX Runtime",
            remedy="pip install 'entracte[sim]' (on a Jetson 'entracte[jetson]')",
        ) from error
    return onnxruntime


def ort_value(array: np.ndarray, device: str) -> Any:
    """An OrtValue over the array's own memory on the CPU (which must outlive it), a copy on a device."""
    return require_onnxruntime().OrtValue.ortvalue_from_numpy(array, device, 0)
