"""The little of CUDA's driver that an engine needs (memory, a stream, copies, graphs), by ctypes: a Jetson
has libcuda and no cuda-python. Loading never fails; `find()` says whether there is a device to use.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from contracts.errors import DeviceError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not ordered behind the default stream
_THREAD_LOCAL = (
    1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: a swap may allocate in another thread meanwhile
)
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT


class Cuda:
    """The primary context of device 0. Make one per process through `find`."""

    def __init__(self, library: Any) -> None:
        self._library = library
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device
        self._context: ctypes.c_void_p | None = None
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, 128, device)
        self.device_name = name.value.decode()
        major, minor = (self._attribute(which, device) for which in (_MAJOR, _MINOR))
        self.capability = f"{major}.{minor}"
        self.multiprocessors = self._attribute(_MULTIPROCESSORS, device)
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.driver_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
        """The newest CUDA that the driver serves, "12.6"."""

    def use_here(self) -> None:
        """Make the context current in the calling thread; cheap when it already is. The first call makes the
        context, which takes memory of the device: who only looks for one should not."""
        if self._context is None:
            context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
            self._context = context
        self._call("cuCtxSetCurrent", self._context)

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        return int(handle.value or 0)

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def allocate(self, nbytes: int) -> int:
        """Device memory of at least one byte."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        return int(pointer.value)

    def free(self, pointer: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def pinned(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A zeroed array in page-locked host memory, which is freed with the last view of it: copies from
        and to other memory are not asynchronous."""
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        pointer = ctypes.c_void_p()
        self._call("cuMemAllocHost_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        array: np.ndarray = np.asarray(_Pinned(self, int(pointer.value or 0), shape, dtype))
        array[...] = 0
        return array

    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Queue a copy of a contiguous array, which must stay alive and unchanged until `wait`."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(pointer),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def to_host(self, array: np.ndarray, pointer: int, stream: int) -> None:
        """Queue a copy into a contiguous array, which holds it after `wait`."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(pointer),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        """From here on what this thread queues on `stream` is noted and not done."""
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        """What was queued since `begin_capture` as one thing to launch. Raises `DeviceError` if something
        in it can't be captured; the stream is usable again either way."""
        graph, launchable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        try:
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(launchable),
                graph,
                ctypes.c_uint64(0),
            )
        finally:
            self._call("cuGraphDestroy", graph)
        return int(launchable.value or 0)

    def launch(self, captured: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(captured), ctypes.c_void_p(stream))

    def destroy_captured(self, captured: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(captured))

    def free_pinned(self, pointer: int) -> None:
        """For `_Pinned` alone. No error: at the interpreter's end the driver may be gone before us."""
        self._library.cuCtxSetCurrent(self._context)
        self._library.cuMemFreeHost(ctypes.c_void_p(pointer))

    def _attribute(self, which: int, device: ctypes.c_int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            name = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(name))
            text = name.value.decode() if name.value else "an unknown error"
            raise DeviceError(f"CUDA's {function} failed", found=f"{text} ({status})")


class _Pinned:
    """Owner of page-locked memory: numpy keeps it alive as the base of every view."""

    def __init__(self, cuda: Cuda, pointer: int, shape: tuple[int, ...], dtype: str) -> None:
        self._cuda, self._pointer = cuda, pointer
        self.__array_interface__ = {
            "data": (pointer, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }

    def __del__(self) -> None:
        self._cuda.free_pinned(self._pointer)


_found: list[Cuda | str] = []


def look() -> Cuda | str:
    """The CUDA device, or in a few words why there is none."""
    if not _found:
        _found.append(_open("libcuda.so.1"))
    return _found[0]


def find() -> Cuda | None:
    """The CUDA device, or None where there is no driver or no device."""
    found = look()
    return found if isinstance(found, Cuda) else None


def _open(name: str) -> Cuda | str:
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return f"no NVIDIA driver ({name} is missing)"
    try:
        status = library.cuInit(0)
        if status != 0:
            return f"an NVIDIA driver without a usable device (cuInit: error {status})"
        return Cuda(library)
    except AttributeError as error:
        return f"an NVIDIA driver that is too old ({error})"
    except DeviceError as error:
        return str(error)
