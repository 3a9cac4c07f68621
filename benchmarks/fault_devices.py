"""Devices that fail when they are told to: the bench's arm and cameras and the policy's engine, each wrapped.

Named by entry points of a distribution that `benchmarks.faults` writes into a folder of its own, so that the
runtime knows nothing of them. What to do now is in a file that both sides map: the cause, and when it took
effect.
"""

from __future__ import annotations

import copy
import gc
import math
import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import DeviceError
from contracts.files.packages import Package
from contracts.package import TensorSpec
from contracts.specs import CameraSpec
from runtime.arms import ArmState
from runtime.arms.sim import SimArm
from runtime.cameras.sim import SimCamera
from runtime.engines import Engine, EngineOptions
from runtime.engines.onnxruntime import OnnxRuntimeEngine
from runtime.frames import Frame
from runtime.run import Run

SIGN = "ENTRACTE_FAULT_SIGN"
"""Environment variable: the file."""
CAUSES = (
    "none",
    "NaN action",
    "wrong arity",
    "stale action",
    "inference hang",
    "Inf in state",
    "frozen camera",
    "camera gone",
    "arm lost to control",
    "arm bus gone",
    "GC pause",
    "unforeseen error",
)
HANG_S, STALE_S = 3.0, 1.2
CENTRE = (0.0, -58.0, 60.0, 62.0, 0.0, 50.0)
SWING = (25.0, 10.0, 12.0, 12.0, 25.0, 25.0)
SWING_S = 2.0


class Sign:
    """Two words: number of the cause in force, when a device first acted on it (monotonic, 0: not yet)."""

    def __init__(self, path: Path, new: bool = False) -> None:
        if new:
            path.write_bytes(b"\0" * 16)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 16)

    def put(self, cause: str) -> None:
        self._map[8:16] = struct.pack("<d", 0.0)
        self._map[0:8] = struct.pack("<q", CAUSES.index(cause))

    def says(self, cause: str) -> bool:
        """Whether that cause is in force; the first time it is asked is when it takes effect."""
        if self._map[0] != CAUSES.index(cause):
            return False
        if not self.struck_s:
            self._map[8:16] = struct.pack("<d", time.monotonic())
        return True

    @property
    def struck_s(self) -> float:
        value: float = struct.unpack("<d", self._map[8:16])[0]
        return value


def sign() -> Sign:
    return Sign(Path(os.environ[SIGN]))


class FaultyArm:
    """`runtime.arms.Arm` on the bench."""

    in_control = True

    def __init__(self, run: Run, caller: str) -> None:
        self._arm, self._caller, self._sign = SimArm(run, caller), caller, sign()
        # What a full collection has to walk; only control collects.
        self._ballast: list[list[int]] = []
        if os.environ.get("ENTRACTE_FAULT_BALLAST") and caller == "control":
            self._ballast = [[number] for number in range(1_500_000)]

    def __getattr__(self, name: str) -> Any:
        self._reach()
        return getattr(self._arm, name)

    def read(self) -> ArmState:
        self._reach()
        state = self._arm.read()
        if self._caller == "control" and self._sign.says("Inf in state"):
            return ArmState(np.full_like(state.positions, math.inf), state.at_s)
        if self._ballast and self._sign.says("GC pause"):
            gc.unfreeze()
            gc.collect()
        return state

    def _reach(self) -> None:
        lost = self._caller == "control" and self._sign.says("arm lost to control")
        if lost or self._sign.says("arm bus gone"):
            raise DeviceError("the arm's bus is gone")


class FaultyCamera:
    """`runtime.cameras.Camera` on the bench."""

    in_control = True

    def __init__(self, run: Run, name: str) -> None:
        self._camera, self._sign = SimCamera(run, name), sign()
        self._last: Frame | None = None

    def spec(self) -> CameraSpec:
        return self._camera.spec()

    def newest(self, now_s: float) -> Frame | None:
        if self._sign.says("camera gone"):
            raise DeviceError("the camera is gone")
        if self._sign.says("unforeseen error"):
            raise ZeroDivisionError("a mistake in a driver")
        if not (self._last and self._sign.says("frozen camera")):
            self._last = self._camera.newest(now_s)
        return self._last

    def close(self) -> None:
        self._camera.close()


class FaultyEngine:
    """`runtime.engines.Engine`: computes as ONNX Runtime does, and then has the arm swing to and fro, so that
    every stop finds it moving. To the package's golden inputs it answers as it must: else no run starts."""

    def __init__(self, package: Package, graph: str, options: EngineOptions) -> None:
        self._engine: Engine = OnnxRuntimeEngine(package, graph, options)
        self._acts, self._sign = graph == "head", sign()
        self._golden = [case.inputs for case in package.golden[graph]]
        chunk = package.manifest.chunk
        self._rate_hz = chunk.rate_hz if chunk else 10.0

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._engine.outputs

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        out = dict(self._engine.run(inputs))
        if not self._acts or any(_same(inputs, golden) for golden in self._golden):
            return out
        chunks = out["chunks"]
        phase = 2 * math.pi / SWING_S
        times_s = time.monotonic() + np.arange(chunks.shape[1]) / self._rate_hz
        swing = np.sin(phase * times_s)[:, None] * np.array(SWING) + np.array(CENTRE)
        chunks = np.broadcast_to(swing.astype(np.float32), chunks.shape).copy()
        if self._sign.says("NaN action"):
            chunks[:, 3, 2] = np.nan
        elif self._sign.says("wrong arity"):
            chunks = chunks[:, :, :5]
        elif self._sign.says("inference hang"):
            time.sleep(HANG_S)
        elif self._sign.says("stale action"):
            time.sleep(STALE_S)
        return {**out, "chunks": chunks}

    def standby(self, weights: Mapping[str, np.ndarray]) -> Engine:
        other = copy.copy(self)
        other._engine = self._engine.standby(weights)
        return other

    def close(self) -> None:
        self._engine.close()


def _same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(name in one and np.array_equal(one[name], array) for name, array in other.items())
