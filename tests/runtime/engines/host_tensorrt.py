"""A stand-in for TensorRT's runtime over host_cuda.c: the tiny package's head as its one kernel.

What it checks is ours: buffers, order, shapes, refits. Nothing that TensorRT itself computes.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import types
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_package import FEATURES, LENGTH

SOURCE = Path(__file__).with_name("host_cuda.c")
MOST = 64
WORK = ctypes.CFUNCTYPE(None, ctypes.c_long)


def compile_cuda(folder: Path) -> Path:
    """The shared library, named as the driver's; skips where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the driver's stand-in with")
    path = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(SOURCE)], check=True)
    return path


class HostTensorRT(types.ModuleType):
    """Module-like: Logger, Runtime, Refitter, Weights. `plans` maps plan bytes to the weights in them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__("tensorrt")
        self.__version__ = "10.3.0"
        self.library = library
        self.plans: dict[bytes, dict[str, np.ndarray]] = {}
        self.loads = 0
        self.captures_fail = self.refits_fail = self.refits_half = False
        self._works: dict[int, Any] = {}
        self._numbers = count()
        self._entry = WORK(lambda number: self._works[number]())
        self.Builder = object
        self.Weights = lambda array: array
        self.Runtime = lambda logger: types.SimpleNamespace(deserialize_cuda_engine=self._load)
        self.Refitter = lambda engine, logger: _Refitter(self, engine)

    class Logger:
        WARNING = 2

        def __init__(self, severity: int) -> None:
            self.severity = severity

    def _load(self, plan: bytes) -> _Engine | None:
        self.loads += 1
        held = self.plans.get(plan)
        return None if held is None else _Engine(self, {n: t.copy() for n, t in held.items()})

    def queue(self, stream: int, work: Any) -> bool:
        number = next(self._numbers)
        self._works[number] = work
        return bool(self.library.host_kernel(ctypes.c_void_p(stream), self._entry, number) == 0)


class _Engine:
    NAMES = ("features", "noise", "chunks", "values", "choice")
    num_io_tensors = len(NAMES)

    def __init__(self, trt: HostTensorRT, weights: dict[str, np.ndarray]) -> None:
        self.trt, self.weights = trt, weights

    def get_tensor_name(self, index: int) -> str:
        return self.NAMES[index]

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return name != "noise" or 1 <= shape[0] <= MOST

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        samples = self._shapes["noise"][0]
        return {"chunks": (samples, LENGTH, 6), "values": (samples,), "choice": (1,)}[name]

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        self._addresses[name] = pointer
        return True

    def execute_async_v3(self, stream: int) -> bool:
        trt, samples, at = self._engine.trt, self._shapes["noise"][0], dict(self._addresses)
        weights = self._engine.weights
        if trt.captures_fail:
            trt.library.host_break_capture(ctypes.c_void_p(stream))

        def work() -> None:
            features = _view(at["features"], (1, FEATURES), np.float32)
            noise = _view(at["noise"], (samples, LENGTH, 6), np.float32)
            chunks = noise * weights["scale"] + features @ weights["mix"] + weights["bias"]
            _view(at["chunks"], chunks.shape, np.float32)[:] = chunks
            _view(at["values"], (samples,), np.float32)[:] = chunks.mean(axis=(1, 2))
            _view(at["choice"], (1,), np.int64)[:] = 0

        return trt.queue(stream, work)


class _Refitter:
    """Fails, where it is told to, with half of the weights changed, as TensorRT may; or says that all are."""

    def __init__(self, trt: HostTensorRT, engine: _Engine) -> None:
        self._trt, self._engine = trt, engine
        self._set: dict[str, np.ndarray] = {}

    def get_all_weights(self) -> list[str]:
        return list(self._engine.weights)

    def get_missing_weights(self) -> list[str]:
        return [name for name in self._engine.weights if name not in self._set]

    def set_named_weights(self, name: str, array: np.ndarray) -> bool:
        self._set[name] = array
        return array.size == self._engine.weights[name].size

    def refit_cuda_engine(self) -> bool:
        names = sorted(self._set)
        half = self._trt.refits_fail or self._trt.refits_half
        for name in names[: len(names) // 2] if half else names:
            self._engine.weights[name][:] = self._set[name]
        return not self._trt.refits_fail


def _view(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = (ctypes.c_char * size).from_address(address)
    return np.frombuffer(raw, dtype).reshape(shape)
