"""A TensorRT engine's memory and the order of its work: pinned buffers, copies, kernels, one stream.

Owns one execution context, one set of buffers and one captured CUDA graph per set of input shapes; knows
neither packages nor how the engine came to be. One thread at a time.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from contracts.errors import DeviceError, PackageError
from contracts.package import TensorSpec
from runtime.engines.cuda import Cuda

KEPT_SHAPES = 4
"""Sets of input shapes whose buffers and graphs are kept."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass
class _Buffers:
    """Of one set of input shapes. `pointers`: device memory by tensor. `captured`: the whole of a run as one
    CUDA graph, 0 where it can't be captured. A context of its own: a graph that was captured with a
    context does not survive other shapes being set there."""

    context: Any
    inputs: list[np.ndarray]
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    pointers: dict[str, int] = field(default_factory=dict)
    captured: int = 0


class DeviceBound:
    """A deserialised engine (an ICudaEngine) that runs on arrays of the host."""

    def __init__(
        self,
        engine: Any,
        cuda: Cuda,
        graph: str,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        capture: bool = True,
    ) -> None:
        self._engine, self._cuda, self._graph = engine, cuda, graph
        self._inputs, self._outputs, self._capture = inputs, outputs, capture
        self._cuda.use_here()
        self._stream = cuda.stream()
        self._kept: OrderedDict[Shapes, _Buffers] = OrderedDict()

    def knows(self, shapes: Shapes) -> bool:
        """Whether inputs of these shapes were run before and their buffers are still there."""
        return shapes in self._kept

    def is_captured(self, shapes: Shapes) -> bool:
        """Whether runs of these shapes are one launch of a CUDA graph."""
        return shapes in self._kept and self._kept[shapes].captured != 0

    def run(self, given: Sequence[np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
        """Outputs by name, in pinned arrays that the next run writes over. Raises TypeError for another
        dtype, `PackageError` for shapes outside the built profile and `DeviceError`."""
        self._cuda.use_here()
        buffers = self._kept.get(shapes)
        if buffers is None:
            return self._first(given, shapes).outputs
        self._kept.move_to_end(shapes)
        for target, array in zip(buffers.inputs, given, strict=True):
            np.copyto(target, array, casting="no")
        if buffers.captured:
            self._cuda.launch(buffers.captured, self._stream)
            self._cuda.wait(self._stream)
        else:
            self._run_plainly(buffers)
        return buffers.outputs

    def compute(self, shapes: Shapes) -> None:
        """The last run of these shapes again without its copies: what a benchmark calls kernels alone."""
        self._cuda.use_here()
        self._execute(self._kept[shapes])
        self._cuda.wait(self._stream)

    def __del__(self) -> None:
        # For who forgot `close`. At the interpreter's end the driver may be gone before us.
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """Free device memory; pinned outputs live as long as somebody holds them."""
        if not self._stream:
            return
        self._cuda.use_here()
        while self._kept:
            self._free(self._kept.popitem()[1])
        self._cuda.destroy_stream(self._stream)
        self._stream = 0

    def _first(self, given: Sequence[np.ndarray], shapes: Shapes) -> _Buffers:
        """Make the buffers, run once as it is (a context settles its shapes then), capture for the next."""
        buffers = self._make(shapes)
        try:
            for target, array in zip(buffers.inputs, given, strict=True):
                np.copyto(target, array, casting="no")
            self._run_plainly(buffers)
            if self._capture:
                buffers.captured = self._captured(buffers)
        except BaseException:
            self._free(buffers)
            raise
        self._kept[shapes] = buffers
        if len(self._kept) > KEPT_SHAPES:
            self._free(self._kept.popitem(last=False)[1])
        return buffers

    def _make(self, shapes: Shapes) -> _Buffers:
        context = self._engine.create_execution_context()
        if context is None:
            raise DeviceError(f"TensorRT has no room to run graph '{self._graph}'")
        specs = zip(self._inputs, shapes, strict=True)
        inputs = [self._cuda.pinned(shape, spec.dtype) for spec, shape in specs]
        buffers = _Buffers(context, inputs)
        try:
            for spec, array in zip(self._inputs, inputs, strict=True):
                if not context.set_input_shape(spec.name, array.shape):
                    raise PackageError(
                        f"input '{spec.name}' of graph '{self._graph}' is outside the built profile",
                        found=array.shape,
                        remedy="give fewer candidates, or build for more (runtime.engines.building)",
                    )
                buffers.pointers[spec.name] = self._cuda.allocate(array.nbytes)
            for spec in self._outputs:
                shape = tuple(context.get_tensor_shape(spec.name))
                if any(side < 0 for side in shape):
                    raise PackageError(
                        f"output '{spec.name}' of graph '{self._graph}' has a size that only its "
                        "values decide",
                        found=shape,
                    )
                array = buffers.outputs[spec.name] = self._cuda.pinned(shape, spec.dtype)
                size = math.prod(shape) * array.itemsize
                buffers.pointers[spec.name] = self._cuda.allocate(size)
            for name, pointer in buffers.pointers.items():
                context.set_tensor_address(name, pointer)
        except BaseException:
            self._free(buffers)
            raise
        return buffers

    def _run_plainly(self, buffers: _Buffers) -> None:
        try:
            self._queue(buffers)
        except BaseException:
            # What is queued reads and writes these buffers: not before it is over may they go.
            with suppress(DeviceError):
                self._cuda.wait(self._stream)
            raise
        self._cuda.wait(self._stream)

    def _captured(self, buffers: _Buffers) -> int:
        """The run as a CUDA graph, 0 if something in it can't be captured."""
        self._cuda.begin_capture(self._stream)
        failed: BaseException | None = None
        try:
            self._queue(buffers)
        except DeviceError as error:
            failed = error
        try:
            captured = self._cuda.end_capture(self._stream)
        except DeviceError:
            return 0
        if failed is not None:
            self._cuda.destroy_captured(captured)
            return 0
        return captured

    def _queue(self, buffers: _Buffers) -> None:
        """In, compute, out: in this order on one stream."""
        for spec, array in zip(self._inputs, buffers.inputs, strict=True):
            self._cuda.to_device(buffers.pointers[spec.name], array, self._stream)
        self._execute(buffers)
        for name, array in buffers.outputs.items():
            self._cuda.to_host(array, buffers.pointers[name], self._stream)

    def _execute(self, buffers: _Buffers) -> None:
        if not buffers.context.execute_async_v3(self._stream):
            raise DeviceError(f"TensorRT failed to run graph '{self._graph}'")

    def _free(self, buffers: _Buffers) -> None:
        if buffers.captured:
            self._cuda.destroy_captured(buffers.captured)
        for pointer in buffers.pointers.values():
            self._cuda.free(pointer)
        buffers.pointers.clear()
        buffers.context = None
