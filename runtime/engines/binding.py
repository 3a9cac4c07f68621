"""ONNX Runtime sessions with what they read kept alive, and memory bound to one: no run allocates."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contracts.errors import MissingDependency

KEPT_SHAPES = 4
"""Sets of input shapes whose buffers are kept. A policy's head sees one or two numbers of candidates."""
KEPT_FEEDS = 2
"""Sets of fed weights whose memory is kept: one set runs and one stands by."""


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


class Lease:
    """Values that a session is fed with. While anything holds the lease, they are nobody else's."""

    __slots__ = ("__weakref__", "values")

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values


class Feed:
    """A session that takes some of its weights with every run, and memory for them.

    Memory is made once and lent: 60 arrays and what ONNX Runtime wraps them in take longer to make than to
    fill. It comes back when nothing holds its lease any more, not when an engine is closed, whose last run
    may still be on its way.
    """

    def __init__(self, held: Session, like: Mapping[str, np.ndarray]) -> None:
        """`like`: arrays of the weights' names, shapes and dtypes; `KEPT_FEEDS` sets are made at once."""
        self.held = held
        self._like = dict(like)
        self._free = [self._make() for _ in range(KEPT_FEEDS)]

    def fill(self, weights: Iterable[np.ndarray]) -> Lease:
        """A lease of memory with these weights, in the order of `like`'s names; copied."""
        arrays, values = self._free.pop() if self._free else self._make()
        for array, tensor in zip(arrays, weights, strict=True):
            np.copyto(array, tensor, casting="no")
        if self.held.device != "cpu":
            for value, array in zip(values.values(), arrays, strict=True):
                value.update_inplace(array)
        lease = Lease(values)
        weakref.finalize(lease, self._take_back, (arrays, values)).atexit = False
        return lease

    def _make(self) -> tuple[list[np.ndarray], dict[str, Any]]:
        arrays = [np.array(tensor, order="C") for tensor in self._like.values()]
        device = self.held.device
        names = self._like.keys()
        values = {name: ort_value(a, device) for name, a in zip(names, arrays, strict=True)}
        return arrays, values

    def _take_back(self, memory: tuple[list[np.ndarray], dict[str, Any]]) -> None:
        if len(self._free) < KEPT_FEEDS:
            self._free.append(memory)


class Bound:
    """A session with its inputs' and outputs' memory, and weights that it is fed with every run.

    One thread at a time. The shapes of the outputs must follow from the shapes of the inputs.
    """

    def __init__(
        self,
        held: Session,
        inputs: Sequence[str],
        outputs: Sequence[str],
        fed: Lease | None = None,
    ) -> None:
        """`fed`: initializers that the session takes as inputs."""
        self._held, self._inputs, self._outputs = held, inputs, outputs
        self._fed = fed or Lease({})
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
        for name, value in self._fed.values.items():
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
        for name, value in (*self._fed.values.items(), *zip(self._inputs, staged, strict=True)):
            bound.bind_ortvalue_input(name, value)
        for name, array in outputs.items():
            bound.bind_ortvalue_output(name, ort_value(array, "cpu"))
        kept = [self._held, self._fed, *staged]
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
