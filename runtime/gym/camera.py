"""A camera of a Gymnasium environment: a picture that it observes, or what it renders, in shared memory."""

from __future__ import annotations

from runtime.bench.protocol import BenchClient
from runtime.cameras.from_slots import SlotsCamera
from runtime.config import camera_spec
from runtime.run import Run


class GymCamera(SlotsCamera):
    """`runtime.cameras.Camera`. Option `observation`: names joined by dots; empty: `render()`."""

    in_control = True

    def __init__(self, run: Run, name: str, observation: str = "") -> None:
        del observation  # the environment's process looks there (`runtime.gym.server`)
        # Its slots are there as soon as the process answers.
        BenchClient(run.bench_address, f"camera {name}").close()
        super().__init__(camera_spec(name, run.config.cameras[name]), run.frames_path(name))
