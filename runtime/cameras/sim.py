"""A camera of the bench: pictures that the bench process renders into shared memory."""

from __future__ import annotations

import msgspec

from contracts.errors import DeviceError
from runtime.bench.protocol import BenchClient
from runtime.cameras.from_slots import SlotsCamera
from runtime.config import camera_spec
from runtime.run import Run


class SimCamera(SlotsCamera):
    """`Camera` on the bench."""

    in_control = True

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
        spec = msgspec.structs.replace(
            camera_spec(name, run.config.cameras[name]),
            fx=fx,
            fy=fy,
            cx=cx,
            cy=cy,
            model="simulated D435",
        )
        super().__init__(spec, run.frames_path(name))
