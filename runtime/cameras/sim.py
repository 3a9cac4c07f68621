"""A camera of the bench: pictures that the bench process renders into shared memory."""

from __future__ import annotations

import msgspec

from contracts.errors import DeviceError
from contracts.specs import CameraSpec
from runtime.bench.protocol import BenchClient
from runtime.config import Run, camera_spec
from runtime.frames import Frame, FrameSlots


class SimCamera:
    """`Camera` on the bench."""

    def __init__(self, run: Run, name: str) -> None:
        client = BenchClient(run.bench_address, f"camera {name}")
        try:
            found = client.welcome.cameras
        finally:
            client.close()
        if name not in found:
            raise DeviceError(
                f"the bench has no camera '{name}'",
                expected=f"one of {sorted(found)}",
                remedy="fix the name under cameras: in the hardware config",
            )
        fx, fy, cx, cy = found[name]
        self._spec = msgspec.structs.replace(
            camera_spec(name, run.config.cameras[name]),
            fx=fx,
            fy=fy,
            cx=cx,
            cy=cy,
            model="simulated D435",
        )
        self._slots = FrameSlots.open(run.frames_path(name))

    def spec(self) -> CameraSpec:
        return self._spec

    def newest(self, now_s: float) -> Frame | None:
        return self._slots.newest(now_s)

    def close(self) -> None:
        pass
