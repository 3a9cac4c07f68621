"""The little of CUDA's driver that an engine needs (memory, one stream, copies), by ctypes: a Jetson has
libcuda and no cuda-python. Loading never fails; `find()` says whether there is a device to use.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from contracts.errors import DeviceError


class Cuda:
    """The primary context of device 0. Make one per process through `find`."""

    def __init__(self, library: Any) -> None:
        self._library = library
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._context = context
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, 128, device)
        self.device_name = name.value.decode()

    def use_here(self) -> None:
        """Make the context current in the calling thread; cheap when it already is."""
        self._call("cuCtxSetCurrent", self._context)

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self._call(
            "cuStreamCreate", ctypes.byref(handle), 1
        )  # 1: not ordered behind the default one
        return int(handle.value or 0)

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def allocate(self, nbytes: int) -> int:
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(nbytes, 1)))
        return int(pointer.value)

    def free(self, pointer: int) -> None:
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def to_device(self, pointer: int, array: np.ndarray, stream: int) -> None:
        """Queue a copy of a contiguous array, which must stay alive until `wait`."""
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

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status != 0:
            raise DeviceError(f"CUDA's {function} failed", found=f"error {status}")


_found: list[Cuda] = []


def find() -> Cuda | None:
    """The CUDA device, or None where there is no driver or no device."""
    if not _found:
        try:
            library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return None
        if library.cuInit(0) != 0:
            return None
        _found.append(Cuda(library))
    return _found[0]
